"""Each kind of case shuts on a model that misbehaves and holds for its good twin; each leak is named."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from ml_data import split

from jollyboat.gate.behaviour import judge, read_cases
from jollyboat.store import UserError
from jollyboat.training.leak import look_for_leaks
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part

TYPES = {"page_view", "product_view", "cart_add"}
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
        for each in judge(read_cases(), predict, SESSIONS, TYPES)
        if not each.passed
    }


def test_a_model_that_behaves_passes_every_case_and_each_has_a_bad_twin():
    assert failing(good) == {}
    assert list(BAD) == [case["name"] for case in read_cases()]


@pytest.mark.parametrize("name", BAD)
def test_a_model_that_misbehaves_is_named_with_the_case_and_the_numbers(name):
    sentence = failing(lambda sessions: [BAD[name](*session) for session in sessions])[name]

    assert name.replace("_", " ") in sentence
    assert "the limit is" in sentence and any(character.isdigit() for character in sentence)


def test_a_case_that_needs_an_event_type_that_the_logs_lack_is_skipped():
    verdicts = judge(read_cases(), good, SESSIONS, {"page_view"})

    assert "one_more_cart_add_does_not_lower_the_score" not in [each.name for each in verdicts]
    assert "other_ids_same_score" in [each.name for each in verdicts]


def test_a_few_scores_that_fall_are_not_averaged_away():
    def falls_for_some(sessions):
        return [
            0.5 * (len(events) < 3 or number % 20 > 0)
            for number, (*_, events) in enumerate(sessions)
        ]

    many = [("a", f"s{number}", [SESSIONS[0][2][0]] * 2) for number in range(200)]
    case = next(each for each in read_cases() if each["kind"] == "rises")

    (verdict,) = judge([case], falls_for_some, many, {"cart_add"})

    assert not verdict.passed and "99 of 100 at most 0.5000 lower" in verdict.sentence


def test_a_case_without_a_kind_is_refused(tmp_path):
    (tmp_path / "cases.json").write_text('[{"name": "odd", "at_most": 1}]')

    with pytest.raises(UserError, match="odd"):
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
