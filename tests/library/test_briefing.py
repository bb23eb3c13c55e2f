"""The overview begins with what waits for a decision, and with what each question is worth."""

import pytest

from jollyboat.gate.checks import CHECKS
from jollyboat.gate.facts import Facts
from jollyboat.gate.gate import decide
from jollyboat.serving import briefing
from jollyboat.serving.overview import write_overview
from jollyboat.serving.project_state import read_state
from jollyboat.store import Store, UserError, words_of, write_json
from jollyboat.store.settings import Targets
from jollyboat.training.targets import judge_targets

AT = "2026-01-01T10:00:00+00:00"
METRICS = {
    "average_precision": {"value": 0.7, "low": 0.65, "high": 0.75},
    "expected_value_per_1000": {"value": 1_080.0, "low": 940.0, "high": 1_210.0},
    "precision": {"value": 0.4, "low": 0.35, "high": 0.45},
    "recall": {"value": 0.9, "low": 0.85, "high": 0.95},
}


def check(state: str, **others) -> dict:
    one = {"name": "quality", "tenant": "all", "subject": "average precision", "value": 0.69}
    return one | {"state": state, "sentence": "As promised."} | others


@pytest.fixture
def store(tmp_path) -> Store:
    """A champion that is live, monitored and healthy."""
    store = Store(tmp_path)
    step = {"version": "v1", "at": AT, "kind": "promotion", "why": "better"}
    write_json(store.champion("shared"), {"version": "v1", "history": [step | {"by": "ann"}]})
    write_json(store.bundle("shared", "v1") / "manifest.json", {"metrics": METRICS})
    smoke = {"p50_ms": 5.0, "p99_ms": 10.5, "memory_mb": 300}
    write_json(store.gate("shared", "v1"), {"decision": {"passed": True}, "smoke": smoke})
    calls = [{"tenant_id": "acme", "count": 30}, {"tenant_id": "globex", "count": 12}]
    monitor = {"at": AT, "checks": [check("fine")], "retraining": {"reason": ""}, "calls": calls}
    write_json(store.monitor / "latest.json", monitor)
    for number, seconds in enumerate((18.0, 20.0)):
        run = {"finished_at": f"2026-01-0{number + 1}T10:00:00+00:00", "chosen": "xgboost"}
        write_json(store.runs / f"r{number}" / "run.json", run | {"cost": {"seconds": seconds}})
    return store


def decisions(store: Store, pending: int | None = None) -> dict[str, str]:
    items = briefing.find_decisions(store, read_state(store), pending)
    return {item.name: item.sentence for item in items}


def test_a_healthy_project_has_nothing_to_decide(store):
    assert {} == decisions(store)


def test_what_waits_is_named_with_its_page_or_command(store):
    alarm = check("alarm", name="drift", tenant="acme", sentence="The devices changed.")
    write_json(
        store.monitor / "latest.json",
        {"at": AT, "checks": [alarm], "retraining": {"reason": ""}},
    )
    failed = {"passed": False, "checks": [{"name": "calibration", "passed": False}]}
    write_json(store.gate("shared", "v2"), {"decision": failed})
    pointer = {"salt": "s", "share": 0.5, "owner": "shared", "version": "v3"}
    write_json(store.experiment, pointer | {"champion": "v1", "since": AT})
    readout = {"version": "v3", "sentence": "It is better.", "verdict": "better"}
    write_json(store.reports / "experiment.json", readout)

    assert {
        "Open alert: drift, acme": "The devices changed.",
        "Deployment refused": "v2 failed calibration; the champion stays.",
        "Experiment: better": "It is better.",
        "Review": "40 sessions of the newest days wait for a judgement.",
    } == decisions(store, pending=40)


def test_a_refusal_of_another_question_names_it_and_what_serves(store):
    failed = {"passed": False, "checks": [{"name": "calibration", "passed": False}]}
    churn = store.of("churn")
    write_json(churn.gate("shared", "v2"), {"decision": failed})
    others = [{"words": words_of(churn), "store": churn, "state": read_state(churn)}]

    decided = briefing.find_decisions(store, read_state(store) | {"others": others}, None)

    assert {"Deployment refused of churn": "v2 failed calibration; there is no champion yet."} == {
        item.name: item.sentence for item in decided
    }


def test_a_refusal_before_the_present_champion_is_over(store):
    failed = {"passed": False, "checks": [{"name": "calibration", "passed": False}]}
    write_json(store.gate("shared", "v0"), {"decision": failed})
    store.gate("shared", "v1").touch()

    assert {} == decisions(store)


def test_a_question_is_told_with_what_was_promised_and_what_it_costs(store):
    one = briefing.brief(store, read_state(store))

    assert (0.7, 0.69, 1_080) == (one.promised["value"], one.now["value"], one.value["value"])
    assert (42, 2) == (one.calls, one.calling_tenants)
    assert (10.5, [18.0, 20.0]) == (one.smoke["p99_ms"], one.training)


def test_the_overview_shows_them(store):
    write_overview(store, "Shop")

    page = store.overview.read_text()
    for text in (
        "waits for a decision",
        "0.690",
        "1,080",
        "of 2 tenants",
        "99\u00a0% at most 10.5 ms",
        "18 s, 1 run",
    ):
        assert text in page, text


def test_without_a_champion_there_is_nothing_to_tell(tmp_path):
    assert briefing.brief(Store(tmp_path), read_state(Store(tmp_path))) is None


def test_targets_are_met_or_missed_and_those_not_set_are_left_out():
    targets = Targets(quality=0.6, value_per_1000=1_500, p99_ms=20)
    judged = judge_targets(targets, METRICS, p99_ms=None)

    assert [
        ("average precision", True),
        ("value per 1,000", False),
        ("ms for 99 % of the answers", None),
    ] == [(each.name, each.is_met) for each in judged]


def test_a_target_gates_only_where_the_team_wants_it():
    facts = {"candidate": "xgboost", "champion": None}
    missed = judge_targets(Targets(recall=0.95), METRICS, None)

    without = decide(Facts(**facts), {}).checks
    (gated,) = [
        each
        for each in decide(Facts(**facts, targets=missed), {}).checks
        if each.name == "meets_targets"
    ]

    assert "meets_targets" not in {each.name for each in without}
    assert len(without) == len(CHECKS) - 1
    assert not gated.passed
    assert gated.sentence.startswith("Missed: recall is 0.9, and should be at least 0.95.")


def test_a_target_out_of_range_is_refused_by_its_place(tmp_path):
    from jollyboat.store.project import PROJECT
    from jollyboat.store.settings import parse

    text = (
        PROJECT / "project.toml"
    ).read_text() + "\n[questions.purchase_intent.targets]\nrecall = 2.0\n"
    with pytest.raises(UserError, match=r"purchase_intent.*recall is 2\.0"):
        parse(text)
