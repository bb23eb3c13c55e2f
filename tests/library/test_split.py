import pandas as pd
import pytest
from ml_data import sessions

from jollyboat.store import UserError
from jollyboat.training.split import by_time


def test_no_row_is_lost_or_in_two_parts():
    frame = sessions()

    parts = by_time(frame.sample(frac=1, random_state=1), 0.6, 0.2)

    result = [
        entity
        for part in (parts.train, parts.validation, parts.holdout)
        for entity in part.keys["entity_id"]
    ]
    assert sorted(frame["entity_id"]) == sorted(result)
    assert [len(parts.train), len(parts.validation), len(parts.holdout)] == [1200, 400, 400]


def test_rows_of_one_moment_are_never_parted():
    frame = sessions().assign(point_at=lambda rows: rows["point_at"].dt.floor("D"))

    parts = by_time(frame, 0.6, 0.2)

    days = [set(part.keys["point_at"]) for part in (parts.train, parts.validation, parts.holdout)]
    assert not (days[0] & days[1] or days[1] & days[2] or days[0] & days[2])
    assert sum(len(some) for some in days) == frame["point_at"].nunique()


def test_only_rows_that_teach_are_used():
    frame = sessions()
    frame.loc[:99, "status"] = "bot"
    frame["label"] = frame["label"].astype(object).where(frame["status"] == "train", None)

    parts = by_time(frame, 0.6, 0.2)

    assert sum(part["rows"] for part in parts.summary().values()) == 1900


def test_keys_status_label_and_person_are_no_features():
    parts = by_time(sessions().assign(person_id="p1"), 0.6, 0.2)

    assert not {"tenant_id", "entity_id", "point_at", "status", "label", "person_id"} & set(
        parts.train.features
    )
    assert "person_id" in parts.train.keys.columns


def test_the_summary_says_when_how_many_and_how_often():
    frame = sessions()

    summary = by_time(frame, 0.6, 0.2).summary()

    assert list(summary) == ["train", "validation", "holdout"]
    assert frame["point_at"].min().isoformat() == summary["train"]["from"]
    assert frame["point_at"].max().isoformat() == summary["holdout"]["to"]
    assert int(frame["label"].sum()) == sum(part["positives"] for part in summary.values())
    assert (
        summary["train"]["positives"] / summary["train"]["rows"] == summary["train"]["label_rate"]
    )


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (sessions().iloc[:0], "No row can be used for training yet"),
        (sessions().assign(status="open", label=None), "2000 open"),
        (
            pd.concat([sessions(4), sessions().assign(status="open", label=None)]),
            "2,000 of 2,004 rows are open: .*session_silence_minutes",
        ),
        (sessions().assign(label=False), "did not have the outcome"),
        (sessions(4), "Too few rows"),
        (
            sessions().assign(label=lambda rows: rows.index < 1000),
            "the validation part has 400, 0 of them",
        ),
        (sessions().assign(point_at=pd.Timestamp("2026-01-01")), "Too few rows"),
    ],
    ids=[
        "empty",
        "all open",
        "most open",
        "none had it",
        "four rows",
        "no late positive",
        "one moment",
    ],
)
def test_what_cannot_be_learned_from_is_said_with_the_way_out(frame, message):
    with pytest.raises(UserError, match=message) as refusal:
        by_time(frame, 0.6, 0.2)

    assert "`make data`" in str(refusal.value)


@pytest.mark.parametrize(("train", "validation"), [(0.8, 0.2), (0, 0.5), (0.5, 0), (1.2, 0.1)])
def test_shares_that_leave_a_part_empty_are_refused(train, validation):
    with pytest.raises(UserError, match=r"\[split\]"):
        by_time(sessions(), train, validation)
