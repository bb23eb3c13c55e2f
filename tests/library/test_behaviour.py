"""Each kind of case shuts on a model that misbehaves and holds for its good twin; each leak is named."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from ml_data import split

from jollyboat.gate.behaviour import cases_of, judge, read_cases
from jollyboat.store import PROJECT, UserError
from jollyboat.training.leak import FINDINGS, describe_leaks, look_for_leaks
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part, Split

VALUES = {
    "tenant_id": {"acme"},
    "event_type": {"page_view", "product_view", "cart_add"},
    "page": {"home", "product", "cart", "help"},
}
START = datetime(2026, 1, 5, 10)
SESSIONS = [
    (
        "acme",
        f"s{number}",
        [
            {
                "event_id": f"{number}-{place}",
                "anonymous_id": f"a{number}",
                "event_type": "cart_add" if place == number % 4 else "page_view",
                "occurred_at": START + timedelta(seconds=place * 9),
                "price": 10.0 + number,
                "currency": "EUR",
            }
            for place in range(3)
        ],
    )
    for number in range(20)
]


def good(sessions) -> list[float]:
    return [
        0.1 + 0.2 * min(3, sum(event["event_type"] == "cart_add" for event in events))
        for _, _, events in sessions
    ]


BAD = {
    "other_ids_same_score": lambda tenant, entity, events: (
        0.5 + 0.1 * events[0]["anonymous_id"].startswith("x")
    ),
    "order_of_sending_does_not_matter": lambda tenant, entity, events: (
        0.4 if events[-1]["event_id"].endswith("-2") else 0.6
    ),
    "name_of_the_currency_does_not_matter": lambda tenant, entity, events: (
        0.3 + 0.1 * (events[0].get("currency") == "ZZZ")
    ),
    "prices_in_a_near_currency_hardly_matter": lambda tenant, entity, events: min(
        1, (events[0].get("price", 0) % 1)
    ),
    "one_more_cart_add_does_not_lower_the_score": lambda tenant, entity, events: 1 / len(events),
    "a_full_cart_beats_a_look_at_the_help_page": lambda tenant, entity, events: 0.5,
}


def failing(predict) -> dict[str, str]:
    return {
        each.name: each.sentence
        for each in judge(read_cases(cases_of("")), predict, SESSIONS, VALUES.get)
        if not each.passed
    }


def test_a_model_that_behaves_passes_every_case_and_each_has_a_bad_twin():
    assert failing(good) == {}
    assert {case["name"] for case in read_cases(cases_of(""))} <= set(BAD)


@pytest.mark.parametrize("name", [case["name"] for case in read_cases(cases_of(""))])
def test_a_model_that_misbehaves_is_named_with_the_case_and_the_numbers(name):
    sentence = failing(lambda sessions: [BAD[name](*session) for session in sessions])[name]

    assert name.replace("_", " ") in sentence
    assert "the limit is" in sentence and any(character.isdigit() for character in sentence)


RISES = {
    "name": "one_more_like_raises",
    "kind": "rises",
    "needs": {"event_type": ["like"], "page": ["wall"]},
    "change": {"append": {"event_type": "like", "page": "wall"}},
    "typical": True,
    "at_most": 0.01,
}


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"event_type": {"like"}, "page": {"home"}}, "no event has page 'wall'."),
        ({"event_type": {"view"}, "page": set()}, "no event has event_type 'like' or page 'wall'."),
    ],
)
def test_a_case_that_needs_values_that_the_logs_lack_is_skipped_with_a_sentence(values, missing):
    def falls(sessions):
        return [1 / len(events) for *_, events in sessions]

    (skipped,) = judge([RISES], falls, SESSIONS, values.get)
    (judged,) = judge([RISES], falls, SESSIONS, {"event_type": {"like"}, "page": {"wall"}}.get)

    assert skipped.is_skipped and skipped.passed and missing in skipped.sentence
    assert not judged.is_skipped and not judged.passed


def test_what_the_simulated_shop_believes_does_not_judge_another_shop():
    others = VALUES | {"tenant_id": {"my-shop"}}
    verdicts = judge(
        read_cases(cases_of("")), lambda sessions: [0.5] * len(sessions), SESSIONS, others.get
    )

    assert all(each.passed for each in verdicts)
    assert {"rises", "minimum"} == {
        case["kind"]
        for case, verdict in zip(read_cases(cases_of("")), verdicts, strict=True)
        if verdict.is_skipped
    }


@pytest.mark.parametrize("kept", [1, None], ids=["one case", "no file"])
def test_the_projects_tests_pass_after_cases_are_deleted(tmp_path, kept):
    shutil.copytree(PROJECT / "ml", tmp_path / "ml")
    shutil.copytree(PROJECT / "tests", tmp_path / "tests")
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    shutil.copy(PROJECT / "project.toml", tmp_path)
    file = tmp_path / "ml/behaviour/purchase_intent.json"
    cases = read_cases(file)
    file.unlink()
    if kept is not None:
        file.write_text(json.dumps(cases[:kept]))

    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_behaviour.py"],
        cwd=tmp_path,
        env=os.environ | {"JOLLYBOAT_PROJECT": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    assert len(read_cases(file)) == (kept or 0)


def test_a_few_scores_that_fall_are_not_averaged_away():
    def falls_for_some(sessions):
        return [
            0.5 * (len(events) < 3 or number % 10 > 0)
            for number, (*_, events) in enumerate(sessions)
        ]

    many = [("a", f"s{number}", [SESSIONS[0][2][0]] * 2) for number in range(200)]
    (verdict,) = judge([RISES | {"needs": {}}], falls_for_some, many, {}.get)

    assert not verdict.passed and "95 of 100 at most 0.5000 lower" in verdict.sentence


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[{"name": "odd", "at_most": 1}]', "needs a name, at_most, and a kind"),
        (json.dumps([RISES | {"needs": ["like"]}]), "Write the values by column"),
        (json.dumps([RISES | {"neds": {}}]), "has 'neds', which nothing reads. Did you mean needs"),
        (json.dumps([RISES | {"change": {"sett": {}}}]), "'sett'.*Did you mean set"),
        (
            json.dumps([RISES | {"change": {"set": {"currencyy": "ZZZ"}}}]),
            "'currencyy'.*Did you mean currency",
        ),
        (
            json.dumps([RISES | {"change": {"append": {"evnt_type": "like"}}}]),
            "'evnt_type'.*Did you mean event_type",
        ),
        ("[,]", "not valid JSON.*line 1"),
    ],
)
def test_a_case_that_lacks_its_fields_is_refused_with_the_file(tmp_path, text, problem):
    (tmp_path / "cases.json").write_text(text)

    with pytest.raises(UserError, match=f"cases.json.*{problem}"):
        read_cases(tmp_path / "cases.json")


def leaks(changed) -> dict:
    return look_for_leaks(changed, FeatureSchema.from_frame(changed.train.features))


@pytest.mark.parametrize("of", ["number", "text"])
def test_a_feature_that_knows_the_outcome_is_named_first_and_an_honest_one_is_not_alarming(of):
    clean = split(3000)

    def plant(part: Part) -> Part:
        knows = np.where(
            np.random.default_rng(1).random(len(part)) < 0.98, part.label, 1 - part.label
        )
        column = knows if of == "number" else pd.Series(knows).map({1: "shipped", 0: None})
        return replace(part, features=part.features.assign(fulfilment=column))

    planted = leaks(replace(clean, **{name: plant(part) for name, part in vars(clean).items()}))[
        "features"
    ]

    assert next(iter(planted)) == "fulfilment"
    assert planted["fulfilment"] > 0.95 > max(leaks(clean)["features"].values())


def with_features(clean: Split, plant) -> Split:
    """The split where each part has more or other features: `plant(part, random generator)`."""
    rng = np.random.default_rng(1)
    parts = {
        name: replace(part, features=part.features.assign(**plant(part, rng)))
        for name, part in vars(clean).items()
    }
    return Split(**parts)


@pytest.mark.parametrize(
    ("finding", "unit"),
    [*((finding, 0.001) for finding in FINDINGS[:3]), (f"nearly {FINDINGS[0]}", 1.0)],
)
def test_a_value_that_a_continuous_feature_repeats_and_that_tells_the_outcome_is_refused(
    finding, unit
):
    def stamp(part: Part, rng) -> dict:
        some, has_outcome = rng.random(len(part)) < 0.6, part.label == 1
        if finding == FINDINGS[1]:
            is_stamped = some & has_outcome
        elif finding == FINDINGS[2]:
            is_stamped = some | has_outcome
        else:
            is_stamped = some & ~has_outcome
        gaps = (rng.lognormal(3.5, 0.7, len(part)) / unit).round() * unit
        gap = np.where(is_stamped, 30.0, gaps)
        return {"last_gap_seconds": gap, "seconds_per_event": gap / 2}

    planted = leaks(with_features(split(3000), stamp))

    (value,) = [one for one in planted["values"] if one["is_spike"]]
    assert max(planted["features"].values()) < 0.95
    assert (value["feature"], value["finding"]) == ("last_gap_seconds", finding)
    (sentence,) = [each for each in describe_leaks(planted) if "is 30 in" in each]
    assert "collinear with it: seconds_per_event" in sentence


@pytest.mark.parametrize("name", ["cart_add_count", "channel", "money_in_cart"])
def test_a_count_a_category_or_a_zero_that_excludes_the_outcomes_is_a_warning_only(name):
    def make_telling(part: Part) -> Part:
        if name == "channel":
            never = (part.features["channel"] == "ads").to_numpy()
        else:
            never = (part.features["cart_add_count"] == 0).to_numpy()
        money = part.features["cart_add_count"] * part.features["seconds_so_far"]
        label = np.where(never, 0, part.label)
        return replace(part, features=part.features.assign(money_in_cart=money), label=label)

    clean = split(3000)
    figures = leaks(Split(**{each: make_telling(part) for each, part in vars(clean).items()}))

    assert not any(one["is_spike"] for one in figures["values"])
    assert any(name in sentence for sentence in describe_leaks(figures))
    assert all("none of them has the outcome" in sentence for sentence in describe_leaks(figures))


def test_a_few_exceptions_do_not_hide_a_telling_value():
    def stamp(part: Part, rng) -> dict:
        is_last = np.where(part.label == 1, rng.random(len(part)) < 0.006, True)
        return {
            "gap": np.where(is_last & (rng.random(len(part)) < 0.8), 30.0, rng.random(len(part)))
        }

    planted = leaks(with_features(split(8000), stamp))

    assert any("gap is 30 in" in each and "nearly none" in each for each in describe_leaks(planted))


def test_a_value_that_is_about_one_outcome_in_a_hundred_is_no_possible_leak():
    def add_page(often: float):
        def plant(part: Part, rng) -> dict:
            is_late = (part.label == 1) & (rng.random(len(part)) < often)
            return {
                "last_page": np.where(is_late, "checkout", rng.choice(["home", "cart"], len(part)))
            }

        return plant

    rare, often = (leaks(with_features(split(12_000), add_page(share))) for share in (0.01, 0.05))

    assert describe_leaks(rare) == []
    (sentence,) = describe_leaks(often)
    assert "last_page is checkout" in sentence and "each of them has the outcome" in sentence


def test_an_honest_shop_has_no_possible_leak():
    assert describe_leaks(leaks(split(3000))) == []


def test_a_leak_that_no_ranking_shows_is_found_by_the_rates_of_a_small_tree():
    def hide(part: Part, rng) -> dict:
        middle, edges = rng.uniform(0.4, 0.6, len(part)), rng.choice([0.1, 0.9], len(part))
        is_right = rng.random(len(part)) < 0.97
        return {"distance": np.where((part.label == 1) == is_right, middle, edges)}

    planted = leaks(with_features(split(3000), hide))

    assert next(iter(planted["features"])) == "distance"
    assert planted["features"]["distance"] > 0.95
    assert "Possible leak: distance alone ranks" in describe_leaks(planted)[0]


def test_a_category_with_nearly_as_many_values_as_rows_is_a_warning():
    def plant(part: Part, rng) -> dict:
        numbers = part.keys["entity_id"].str[1:].astype(int)
        return {
            "agent": "Mozilla/" + (numbers % 800).astype(str),
            "city": numbers.astype(str).str[0],
        }

    train = with_features(split(3000), plant).train
    (sentence,) = FeatureSchema.from_frame(train.features).describe_crowded(train.features)

    assert "agent has 800 values in 1,800 sessions" in sentence and "91.7 % of these" in sentence


@pytest.mark.parametrize("more", ["in the holdout", "on other weekdays"])
def test_visits_of_one_event_that_are_alike_are_no_returning_rows(more):
    def shorten(part: Part, rng, share: float) -> Part:
        is_short = rng.random(len(part)) < share
        day = (part.keys["point_at"] + pd.Timedelta(hours=9)).dt.day_of_week
        features = pd.DataFrame(
            {
                "seconds": np.where(is_short, 0.0, rng.lognormal(3, 1, len(part))),
                "first_page": rng.choice(["home", "faq", "blog"], len(part), p=[0.6, 0.3, 0.1]),
                "day_of_week": day if more == "on other weekdays" else 1,
            }
        )
        return replace(part, features=features, label=np.where(is_short, 0, part.label))

    clean, rng = split(3000), np.random.default_rng(2)
    shares = {"train": 0.3, "validation": 0.1, "holdout": 0.45}
    figures = leaks(
        Split(**{name: shorten(part, rng, shares[name]) for name, part in vars(clean).items()})
    )

    assert figures["shared_rows"] > 0.3
    assert figures["shared_rows"] - figures["shared_by_chance"] < 0.01


@pytest.mark.parametrize("past", ["train", "validation"])
def test_rows_of_the_past_that_return_under_new_ids_are_counted(past):
    clean = split(3000)
    again = replace(
        clean.holdout, features=clean.holdout.features.copy(), label=clean.holdout.label.copy()
    )
    again.features.iloc[:60] = getattr(clean, past).features.iloc[:60]
    again.label[:60] = getattr(clean, past).label[:60]

    counted, before = leaks(replace(clean, holdout=again)), leaks(clean)

    assert before["shared_rows"] - before["shared_by_chance"] < 0.01
    assert counted["shared_rows"] - counted["shared_by_chance"] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "more", [[], ["product_view_count"], ["product_view_count", "is_known_visitor", "channel"]]
)
def test_rows_of_few_values_that_repeat_by_chance_are_no_alarm(more, seed):
    clean = split(3000, seed)
    names = ["cart_add_count", *more]

    counted = leaks(
        replace(
            clean,
            **{each: replace(of, features=of.features[names]) for each, of in vars(clean).items()},
        )
    )

    assert counted["shared_rows"] - counted["shared_by_chance"] < 0.01
