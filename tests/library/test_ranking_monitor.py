"""The live quality of a ranking: the answers' next items beside the holdout's."""

import numpy as np
import pandas as pd
import pytest

from jollyboat.monitoring import ranking_monitor
from jollyboat.ranking.learner import HIT_RATE, MRR

ITEMS = [f"p{number}" for number in range(30)]


def answers(place: int, count: int = 200, tenant: str = "acme") -> pd.DataFrame:
    """Answers of as many sessions, whose next item stands at this place."""
    return pd.DataFrame(
        {
            "tenant_id": tenant,
            "entity_id": [f"{tenant}{number}" for number in range(count)],
            "items": [ITEMS] * count,
            "item": f"p{place - 1}",
        }
    )


def holdout(tenant: str = "acme") -> pd.DataFrame:
    """Points of sessions whose next item is second in half of the cases, and else a miss."""
    entities = [f"{tenant}{number}" for number in range(400)]
    reciprocal = np.tile([0.5, 0.0], 200)
    return pd.DataFrame({"tenant_id": tenant, "entity_id": entities, "reciprocal": reciprocal})


def states(own: pd.DataFrame, tenant: str = "all") -> dict[str, str]:
    checks = ranking_monitor.check_quality(["acme", "globex"], own, holdout(), {"alpha": 0.001})
    return {check.subject: check.state for check in checks if check.tenant == tenant}


def test_a_gain_is_the_reciprocal_place_and_beyond_twenty_it_is_a_miss():
    rows = pd.concat([answers(place, 1) for place in (1, 4, 20, 21)], ignore_index=True)
    rows = pd.concat([rows, answers(1, 1).assign(item="never recommended")])

    gains = ranking_monitor.gains(rows)

    assert [1, 0.25, 0.05, 0, 0] == gains[MRR].tolist()
    assert [1, 1, 1, 0, 0] == gains[HIT_RATE].tolist()


@pytest.mark.parametrize(
    ("place", "expected"),
    [(2, {"MRR@20": "fine", "HR@20": "fine"}), (25, {"MRR@20": "alarm", "HR@20": "alarm"})],
)
def test_answers_that_miss_more_than_the_holdout_are_an_alarm(place, expected):
    assert expected == states(answers(place))


def test_few_answers_with_a_next_item_say_nothing():
    assert {"cannot say yet"} == set(states(answers(25, 49)).values())
    assert {"cannot say yet"} == set(states(answers(25), tenant="globex").values())


def test_training_again_waits_until_its_data_are_old_enough():
    fine, worse = (
        ranking_monitor.check_quality(["acme"], answers(place), holdout(), {"alpha": 0.001})
        for place in (2, 25)
    )

    decide = lambda checks, age: ranking_monitor._decide(checks, age, {"cool_down_days": 7})  # noqa: E731

    assert ("not needed", "wait", "train again") == (
        decide(fine, 9)["status"],
        decide(worse, 3)["status"],
        decide(worse, 9)["status"],
    )
