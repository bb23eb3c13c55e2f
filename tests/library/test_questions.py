"""Questions beside the first one: their definitions, settings, scaffold, split and rows."""

import json
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import click
import pandas as pd
import pytest
import yaml

from jollyboat.bundles.features import rows_of_request
from jollyboat.cli.options import question_option
from jollyboat.pages import page
from jollyboat.scaffold import PRESETS, Question, add_question
from jollyboat.serving.batch_scores import _newest_points
from jollyboat.serving.schema import QuestionRequest
from jollyboat.store import PROJECT, Store, UserError, settings, words
from jollyboat.store.words import name_question, words_of
from jollyboat.training.split import by_time
from jollyboat.warehouse import questions

SETTINGS = (PROJECT / "project.toml").read_text()
CHURN = {
    "entity": "user_id",
    "outcome": "true",
    "is_absence": True,
    "horizon_days": 14,
    "history_days": 28,
    "asked_at": "now",
}
REFUSED = {
    "a number": (
        {"outcome": "price"},
        r"outcome is .price.; it should be true or false.*price > 100",
    ),
    "an aggregate": (
        {"outcome": "count(*) > 1"},
        "outcome is .*it should be a condition on one event",
    ),
    "an unknown column": ({"outcome": "kind = 'a'"}, "it should be a condition on one event"),
    "no SQL": ({"outcome": "event_type ="}, "it should be a condition in SQL"),
    "an unknown entity": ({"entity": "usr"}, "entity is .usr.; it should be 'user_id'"),
    "no days": ({"horizon_days": 0}, "horizon_days is 0; it should be greater"),
    "an unknown key": ({"horizon": 14}, "has no key horizon. Did you mean horizon_days?"),
    "no end": ({"horizon_days": None}, "horizon_days is missing"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the parts of the template that a new question touches."""
    copy = tmp_path / "shop"
    shutil.copytree(PROJECT / "dbt", copy / "dbt", ignore=shutil.ignore_patterns("dbt_packages"))
    (copy / "project.toml").write_text(SETTINGS)
    return copy


@pytest.mark.parametrize(("part", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_question_that_cannot_be_is_refused_with_file_and_key(part, sentence):
    with pytest.raises(
        UserError, match=rf"churn.yml: churn_points: question:? ?{sentence}|{sentence}"
    ):
        questions.check_definition(CHURN | part, "churn.yml: churn_points")


def test_a_definition_is_read_from_the_models_meta(project):
    add_question("churn", PRESETS["churn"], project, Store(project / "data"))

    (churn,) = questions.read_definitions(project / "dbt").values()

    assert CHURN == churn.model_dump(exclude={"history"})


def test_each_question_of_project_toml_has_a_definition_and_the_other_way_round():
    churn = questions.Definition.model_validate(CHURN)
    with_churn = settings.parse(f'{SETTINGS}\n[questions.churn]\noutcome = "churn"\n')

    questions.check_questions(with_churn, {"churn": churn})
    with pytest.raises(UserError, match=r"has \[questions.churn\], but no model churn_points"):
        questions.check_questions(with_churn, {})
    with pytest.raises(UserError, match=r"no \[questions.churn\]. Add that section"):
        questions.check_questions(settings.parse(SETTINGS), {"churn": churn})


def test_two_questions_of_one_name_are_refused_with_the_line():
    twice = f"{SETTINGS}\n[questions.churn]\n[questions.churn]\n"

    with pytest.raises(UserError, match=r"not valid TOML: .*churn.*line"):
        settings.parse(twice)


def test_a_questions_own_entries_replace_those_of_project_toml():
    own = f'{SETTINGS}\n[questions.churn]\noutcome = "churn"\n[questions.churn.decision]\nvalue_of_hit = 3.0\n'

    all_of_them = settings.parse(own)
    churn, first = all_of_them.of("churn"), all_of_them.of("")

    assert (3.0, 1.0) == (churn.decision.value_of_hit, churn.decision.cost_of_alarm)
    assert 10.0 == first.decision.value_of_hit
    with pytest.raises(UserError, match=r"\[questions.churn\]: \[decision\] has no setting value"):
        settings.parse(own.replace("value_of_hit = 3.0", "value = 3.0"))
    with pytest.raises(UserError, match=r"no \[questions.churm\]. Did you mean churn\?"):
        all_of_them.store_name("churm")


def test_a_questions_files_are_apart_and_the_first_ones_stay_where_they_were(tmp_path):
    store = Store(tmp_path)
    churn = store.of("churn")

    assert tmp_path / "runs" == store.runs and tmp_path / "models" == store.models
    assert tmp_path / "questions/churn/runs" == churn.runs
    assert churn.snapshots == store.snapshots and churn.raw == store.raw
    churn.runs.mkdir(parents=True)
    assert ["", "churn"] == [each.question for each in store.of_every_question()]


def test_the_words_of_a_question_are_those_of_project_toml(tmp_path):
    first = words_of(Store(tmp_path))

    assert ("purchase_intent", "sessions", "purchase", "") == (
        first.question,
        first.rows,
        first.outcome,
        first.home,
    )
    assert "questions/churn/" == words_of(Store(tmp_path, "churn")).home


def test_a_new_question_is_at_most_ten_files_and_three_hundred_lines(project):
    before = {path for path in project.rglob("*") if path.is_file()}

    add_question("churn", PRESETS["churn"], project, Store(project / "data"))

    new = {path for path in project.rglob("*") if path.is_file()} - before
    lines = sum(len(path.read_text().splitlines()) for path in new)
    lines += len((project / "project.toml").read_text()[len(SETTINGS) :].splitlines())
    assert len(new) <= 10 and lines <= 300
    assert "churn" in settings.parse((project / "project.toml").read_text()).questions


@pytest.mark.parametrize("name", ["purchase_intent", "churn", "Churn", "2nd", "batch"])
def test_a_name_that_is_taken_or_no_name_is_refused_before_anything_is_written(project, name):
    store = Store(project / "data")
    add_question("churn", PRESETS["churn"], project, store)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}

    with pytest.raises(UserError, match=r"no name of a question|has a question"):
        add_question(name, PRESETS["churn"], project, store)
    with pytest.raises(UserError, match="outcome"):
        add_question("spend", Question("user_id", "weekly", "price", False, 14), project, store)

    assert before == {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def test_a_project_without_questions_gets_its_first_one_named(project):
    own = SETTINGS[: SETTINGS.index("[questions")] + SETTINGS[SETTINGS.index("[simulate]") :]
    (project / "project.toml").write_text(own)

    add_question("churn", PRESETS["churn"], project, Store(project / "data"))

    assert ["purchase_intent", "churn"] == list(
        settings.parse((project / "project.toml").read_text()).questions
    )


def test_logs_that_are_too_short_are_named_with_the_days_that_are_needed(tmp_path):
    churn = {"churn": questions.Definition.model_validate(CHURN)}
    days = {date(2026, 1, 1) + timedelta(days=number) for number in range(70)}

    short = questions.describe_short_logs(churn, {day for day in days if day.month == 1})

    assert "span 31 days" in short[0] and "needs 63 or more" in short[0]
    assert "simulate --days" in short[0]
    assert [] == questions.describe_short_logs(churn, days)
    assert [] == questions.describe_short_logs(churn, {date(2026, 1, 1)})


def test_features_that_read_what_came_later_are_refused(project):
    add_question("churn", PRESETS["churn"], project, Store(project / "data"))
    model = project / "dbt/models/questions/churn/churn_features_at_point.sql"
    questions.check_features("churn", project / "dbt")

    model.write_text(model.read_text().replace("churn_events_at_point", "events"))

    with pytest.raises(
        UserError, match=r"churn_features_at_point\.sql reads events, which has what"
    ):
        questions.check_features("churn", project / "dbt")


def test_a_removed_question_with_a_champion_is_named(tmp_path):
    store = Store(tmp_path)
    (tmp_path / "questions/churn/models/shared").mkdir(parents=True)
    (tmp_path / "questions/churn/models/shared/champion.json").write_text("{}")

    (sentence,) = questions.forgotten_questions(store, settings.parse(SETTINGS))

    assert "churn has a champion" in sentence and "nothing answers it" in sentence


def test_no_label_of_a_part_is_decided_in_a_later_part():
    mondays = pd.date_range("2026-01-05", periods=20, freq="7D")
    rows = pd.DataFrame({"point_at": mondays.repeat(50), "tenant_id": "acme", "status": "train"})
    rows["entity_id"] = [f"u{number % 50}" for number in range(len(rows))]
    rows["label"] = rows.index % 3 == 0

    split = by_time(rows, 0.6, 0.2, horizon_days=14)

    horizon = pd.Timedelta(days=14)
    ends = [part.keys["point_at"].max() for part in (split.train, split.validation)]
    begins = [part.keys["point_at"].min() for part in (split.validation, split.holdout)]
    assert all(end + horizon <= begin for end, begin in zip(ends, begins, strict=True))
    assert len(split.train) > len(split.holdout) >= 50


def test_a_points_rows_are_its_history_and_nothing_after_it():
    def event(day, **more):
        return {"event_type": "a", "occurred_at": datetime(2026, 1, day), "user_id": "u", **more}

    events = [event(1), event(9, session_id="s9"), event(20), event(10)]

    rows = rows_of_request(0, "acme", events, point_at=datetime(2026, 1, 15), history_days=14)

    assert ["2026-01-09 00:00:00", "2026-01-10 00:00:00"] == [row["occurred_at"] for row in rows]
    assert {"2026-01-15 00:00:00"} == {row["point_at"] for row in rows}
    assert [1, 2] == [row["event_number"] for row in rows] and "s9" == rows[0]["session_id"]
    assert [] == rows_of_request(
        0, "acme", events[:1], point_at=datetime(2026, 1, 15), history_days=7
    )
    assert "3" == rows_of_request(3, None, rows)[0]["entity_id"]


def test_an_entity_is_the_one_that_is_named_else_the_newest_in_the_events():
    events = [
        {"event_type": "purchase", "occurred_at": "2026-01-02T10:00:00Z", "order_id": "o2"},
        {"event_type": "purchase", "occurred_at": "2026-01-01T10:00:00Z", "order_id": "o1"},
        {"event_type": "view", "occurred_at": "2026-01-03T10:00:00Z", "order_id": "undefined"},
    ]
    body = {"tenant_id": "acme", "events": events}

    def entity(**more):
        request = QuestionRequest.model_validate_json(json.dumps(body | more))
        return request.entity_of("order_id")

    assert "o2" == entity()
    assert "mine" == entity(entity_id=" mine ")


def test_scores_as_of_now_are_of_the_newest_point_alone():
    rows = pd.DataFrame(
        {
            "tenant_id": ["a", "a", "a", "b"],
            "entity_id": ["x", "x", "y", "z"],
            "point_at": pd.to_datetime(["2026-01-05", "2026-01-12", "2026-01-05", "2026-01-05"]),
        }
    )

    assert [1, 3] == list(_newest_points(rows, are_of_one_time=True).index)
    assert [1, 2, 3] == sorted(_newest_points(rows, are_of_one_time=False).index)


def test_a_weekly_question_and_one_at_an_event_are_valid_yaml_and_json(project):
    store = Store(project / "data")
    order = Question("order_id", "event_type = 'purchase'", "event_type = 'refund'", False, 7)
    add_question("refunded", order, project, store)
    in_session = Question(
        "session_id", "event_type = 'search'", "event_type = 'cart_add'", False, None
    )
    add_question("carted", in_session, project, store)

    definitions = questions.read_definitions(project / "dbt")

    assert ("last_event", 7) == (
        definitions["refunded"].asked_at,
        definitions["refunded"].horizon_days,
    )
    assert definitions["carted"].horizon_days is None
    for name in ("refunded", "carted"):
        path = project / f"dbt/models/questions/{name}/{name}.yml"
        assert 4 == len(yaml.safe_load(path.read_text())["models"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`jollyboat rollback`", "`jollyboat rollback --question churn`"),
        (
            "<code>jollyboat compare A B</code>",
            "<code>jollyboat compare A B --question churn</code>",
        ),
        ("`jollyboat models --question lapse`", "`jollyboat models --question lapse`"),
        ('run `make deploy FORCE="why"`', 'run `make deploy QUESTION=churn FORCE="why"`'),
        ("`make train deploy`, then", "`make train deploy QUESTION=churn`, then"),
        ("`make score QUESTION=lapse`", "`make score QUESTION=lapse`"),
        (
            "`make data train deploy`, `jollyboat erase`",
            "`make data train deploy`, `jollyboat erase`",
        ),
    ],
)
def test_commands_about_another_question_name_it(text, expected):
    assert name_question(text, "churn") == expected
    assert name_question(text, "") == text


def test_a_forced_deployment_names_its_question_where_there_are_several(monkeypatch):
    several = SimpleNamespace(questions={"purchase_intent": None, "churn": None})
    monkeypatch.setattr(words, "project_settings", lambda: several)

    forced = name_question('`make deploy FORCE="why"`, then `jollyboat models`', "")

    assert '`make deploy QUESTION=purchase_intent FORCE="why"`, then `jollyboat models`' == forced


def test_a_refused_command_about_another_question_names_it_in_what_to_type(tmp_path):
    @click.command()
    @question_option
    def command(store):
        raise UserError("There is no champion. See `jollyboat models`.")

    store = Store(tmp_path).of("churn")

    with pytest.raises(UserError, match="`jollyboat models --question churn`"):
        command.callback(store=store)


def test_the_page_of_another_question_names_it_in_its_commands(tmp_path, monkeypatch):
    store = Store(tmp_path).of("churn")
    monkeypatch.setattr(page, "render", lambda *_, **__: "<code>jollyboat compare A B</code>")

    page.write(store, store.root / "runs.html", "runs.html")

    assert "jollyboat compare A B --question churn" in (store.root / "runs.html").read_text()
