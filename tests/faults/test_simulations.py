"""What the benches of simulated days and visitors print is within what is promised."""

import json
import subprocess

import pytest

import demo

pytestmark = pytest.mark.faults


def bench(project, name: str) -> list[dict]:
    """What a bench says on its standard error: a line of JSON for each row of its table."""
    result = subprocess.run(
        [project / ".venv/bin/python", demo.HERE / "bench" / f"{name}.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]


def test_quiet_days_raise_no_alarm_and_drift_is_noticed_in_time(project):
    actual = bench(project, "drift")

    assert len(actual) == 3
    for one in actual:
        assert one["false_alarms"] <= 1
        assert one["sudden"] <= 2
        assert one["slow"] <= 14
        assert one["broken"] == 1
        assert one["season_first"] > 0
        assert one["season_after"] == 0


def test_an_experiment_looked_at_daily_is_seldom_wrong_and_finds_a_lift_of_one_point(project):
    none, lift = bench(project, "experiment")

    assert float(none["daily looks"]) <= 0.05 < float(none["t-test at each"])
    assert float(lift["daily looks"]) >= 0.8
    assert float(lift["interval held"]) >= 0.95
