"""Pages render from a tiny context, escape what comes from data, and load nothing."""

import re
from datetime import date, datetime
from html.parser import HTMLParser
from types import SimpleNamespace

import duckdb
import numpy as np
import pytest
from browser import browser

from jollyboat.audit import audit, data_report
from jollyboat.landing.landing import land
from jollyboat.pages import page, plot
from jollyboat.pages.page import FORMS, render
from jollyboat.pages.terminal import format_percent
from jollyboat.snapshots import distribution
from jollyboat.store import Store
from jollyboat.training.run import format_summary
from jollyboat.training.thresholds import cuts

HOSTILE = "<script>alert('x')</script>\"&{{ 7 * 7 }}"
FIGURES = [
    *(
        "average_precision",
        "roc_auc",
        "log_loss",
        "brier",
        "calibration_error",
        "calibration_slope",
    ),
    *("lift_top_decile", "precision", "recall", "expected_value_per_1000"),
]


CHANGE = {
    "source": HOSTILE,
    "kind": "gone",
    "field": HOSTILE,
    "changed_on": date(2026, 1, 2),
    "hint": HOSTILE,
}
CHANGE |= {"was_before": "100.0 %", "was_after": "0.0 %", "is_news": True, "is_recent": True}


def candidate(precision: float, **more) -> dict:
    figures = {name: {"value": 0.5, "low": 0.4, "high": None} for name in FIGURES}
    figures |= {
        "average_precision": {"value": precision, "low": precision - 0.05, "high": precision + 0.05}
    }
    sizes = {"rows": 90, "positives": 30, "rate": 0.3, "mean_probability": 0.31}
    calibration = {"mean_probability": 0.3, "rate": 0.3, "low": 0.2, "high": 0.4, "rows": 90}
    return {
        "description": HOSTILE,
        "importance": {HOSTILE: 0.4, "event_count": 0.0},
        "validation": figures,
        "holdout": figures,
        "segments": [
            {
                "segment": "tenant_id",
                "value": HOSTILE,
                "average_precision": precision,
                "too_small": False,
                **sizes,
            },
            {
                "segment": "device",
                "value": "tv",
                "average_precision": None,
                "too_small": True,
                **sizes,
            },
        ],
        "is_refit": True,
        "search": {
            "trials": [
                {"log_loss": 0.2, "settings": {}},
                {"log_loss": 0.1, "settings": {HOSTILE: 3}},
            ],
            "is_cut_off": True,
            "rows": 90,
        },
        "found_segments": [
            {
                "segment": "found",
                "value": HOSTILE,
                "average_precision": precision,
                "too_small": False,
                "gap": 0.1,
                **sizes,
            }
        ],
        "dependence": [
            {"feature": HOSTILE, "kind": kind, "points": [{"value": value, "probability": 0.2}]}
            for kind, value in (("number", 3.0), ("category", HOSTILE))
        ],
        "examples": [{"what": "surest, and right", "probability": 0.9, "reasons": [HOSTILE]}],
        "curves": {
            "precision_recall": [{"recall": 0.5, "precision": 0.4, "threshold": 0.2}],
            "calibration": [calibration],
            "gains": [{"rows": 0.0, "positives": 0.0}, {"rows": 1.0, "positives": 1.0}],
        },
        **more,
    }


def run_context(lead: float = 0.1) -> dict:
    part = {
        "from": "2026-01-01T00:00:00",
        "to": "2026-01-02T12:00:00",
        "rows": 90,
        "positives": 30,
        "label_rate": 1 / 3,
    }
    against = {"value": lead + 0.1, "low": lead, "high": lead + 0.2}
    metrics = {
        "chosen": "xgboost",
        "threshold": 0.1,
        "persons": 80,
        "tenants": 2,
        "diagnosis": {
            "sentences": [HOSTILE],
            "learning": [
                {"rows": 45, "average_precision": None},
                {"rows": 90, "average_precision": 0.4},
            ],
            "backtest": [
                {
                    "candidate": "baseline",
                    "until": "2026-01-01T09:00:00",
                    "rows": 9,
                    "positives": 2,
                    "value": 0.2,
                }
            ],
            "rows": 90,
            "of_rows": 180,
        },
        "split": {"train": part, "validation": part, "holdout": part},
        "candidates": {
            "baseline": candidate(0.2),
            "xgboost": candidate(0.5, against_baseline=against),
        },
    }
    cost = {"seconds": 3.2, "cpu_seconds": 4.1, "peak_mb": 200, "disk_mb": 0.4}
    settings = {
        "snapshot": "s1",
        "code": "c1",
        "decision": {"value_of_hit": 9.0, "cost_of_alarm": 1.0},
        "evaluate": {"resamples": 500, "segments": ["tenant_id", HOSTILE]},
    }
    judged = {"not_a_person": 1, "fit": 2}
    shut = {"passed": False, "checks": [{"name": "smoke", "passed": False, "sentence": HOSTILE}]}
    gates = [("../../models/shared/v-gate.html", shut)]
    run = SimpleNamespace(id="r1", cost=cost)
    decision = {"value_of_hit": 9.0, "cost_of_alarm": 1.0}
    steps = cuts(np.array([0, 1, 0, 1]), np.array([0.05, 0.3, 0.4, 0.9]), 0.1, decision, 2.0)
    context = {"run": run, "settings": settings, "metrics": metrics, "judged": judged}
    return context | {"gates": gates, "cuts": steps}


def gate_context(passed: bool, forced: bool = False) -> dict:
    check = {"name": "smoke", "passed": passed, "figure": None, "limit": 1.0, "sentence": HOSTILE}
    shown = {"unit": "", "bound": "at least", "comparison": HOSTILE, "interval": {}}
    check |= shown | {"warns": False, "applies": True, "cases": []}
    context = run_context()
    report = SimpleNamespace(
        run=context["run"],
        version="v1",
        champion_before=None if passed else ("shared", "v0"),
        decision={"passed": passed, "checks": [check]},
        smoke={"requests": 50, "start_seconds": 3.6, "p50_ms": 1.0, "p99_ms": 2.0, "memory_mb": 9.0}
        if passed
        else {},
        failed=[] if passed else [check],
        is_forced=forced,
        force=HOSTILE,
    )
    return {"report": report, "metrics": context["metrics"]}


def data_context(published: bool, train_count: int = 90) -> dict:
    persons = {"person_count": 80, "id_count": 90, "cut_link_count": 1, "cut_id_count": 1}
    counts = {
        "record_count": 100,
        "event_count": 97,
        "duplicate_count": 1,
        "quarantined_count": 2,
        "missing_count": 0,
        "left_out_count": 0,
        "further_count": 0,
        "held_back_count": 0,
    }
    waiting = {"tenant_id": HOSTILE, "since": HOSTILE, "reason": HOSTILE, "rows": "", "hint": ""}
    rate = 1 / 3 if train_count else float("nan")
    labels = {"session_count": 90, "train_count": train_count, "label_rate": rate}
    failure = {
        "table": "events",
        "expectation": HOSTILE,
        "severity": "critical",
        "observed": HOSTILE,
    }
    finding = SimpleNamespace(
        passed=published, stops=not published, keys=[{"event_id": HOSTILE}], **failure
    )
    first = {"first_file": HOSTILE, "first_line_number": 0, "first_text": None}
    return {
        "published": (SimpleNamespace(id="s1"), True) if published else None,
        "held": [waiting] if published else [],
        "sources": [{"source": HOSTILE, "file_count": 1, **counts}],
        "files": [
            {
                "file": HOSTILE,
                "record_count": 9,
                "event_count": 6,
                "duplicate_count": 1,
                "quarantined_count": 2,
            }
        ],
        "latest": "",
        "quarantine": [{"source": "web", "reason": "unparsable", "record_count": 2, **first}],
        "event_types": [
            {
                "event_type": HOSTILE,
                "event_count": 97,
                "tenant_count": 1,
                "first_seen_at": datetime(2026, 1, 1),
            }
        ],
        "habits": [
            {"source": HOSTILE, "latest_hours": 47.9}
            | dict.fromkeys(
                (
                    "late_count",
                    "early_count",
                    "repeated_order_count",
                    "nameless_count",
                    "homeless_count",
                ),
                1,
            )
        ],
        "notes": [f"warning: {HOSTILE}: the data ends", f"note: {HOSTILE}"],
        "statuses": [
            {"status": "train", "session_count": train_count},
            {"status": "open", "session_count": 1},
        ],
        "tenants": [
            {
                "tenant_id": HOSTILE,
                "cells": [{"day": date(2026, 1, 1), "until": date(2026, 1, 2)} | labels],
                **labels,
            }
        ],
        "days": [
            {"day": date(2026, 1, day), "noon": datetime(2026, 1, day, 12), **labels}
            for day in (1, 2)
        ],
        "layers": [{"table_name": "events", "row_count": 97}],
        "models": [
            {"name": "first", "seconds": 0.5, "parents": []},
            {"name": HOSTILE, "seconds": 0.5, "parents": ["first"]},
        ],
        "moved": [{"column_name": HOSTILE, "distance": 0.3, "before": HOSTILE, "after": "mean 1"}],
        "distributions": [
            {"column_name": HOSTILE, "unknown_share": 0.5, "bins": [(HOSTILE, 3), (None, 0)]},
            {"column_name": "empty", "unknown_share": float("nan"), "bins": []},
        ],
        "changes": [CHANGE, CHANGE | {"kind": "new", "is_news": False}],
        "totals": {
            "file_count": 1,
            "replayed": (3, 2),
            "session_count": 91,
            "train_count": train_count,
            "positive_count": train_count // 3,
        }
        | counts
        | persons,
        "landing": SimpleNamespace(
            new=[HOSTILE], changed=[], removed=[HOSTILE], unnamed_sources=[HOSTILE]
        ),
        "findings": [finding],
        "documented": ["events"],
    }


def data_docs_context() -> dict:
    counts = {"expectation_count": 9, "passed_count": 8, "stopping_count": 1}
    audit = {"at": "2026-01-01T10:00:00+00:00", "failed_tables": [HOSTILE], **counts}
    tables = [{"table": HOSTILE, "has_page": has_page, **counts} for has_page in (True, False)]
    return {"tables": tables, "audits": [audit, audit]}


def scores_context() -> dict:
    tenant = {
        "session_count": 2,
        "mean_probability": 0.2,
        "decision_count": 1,
        "expected_count": 0.4,
        "champion": "shared",
        "model_version": "v1",
    }
    session = {
        "entity_id": HOSTILE,
        "point_at": datetime(2026, 1, 1, 9),
        "probability": 0.9,
        "decision": True,
        "reasons": [{"feature": HOSTILE, "value": HOSTILE, "effect": 0.7}],
    }
    scores = {
        "expected": {
            "value": 0.4,
            "half": 0.9,
            "above": 0.3,
            "decision_count": 3,
            "outcome_count": 4,
            "late_count": 2,
        },
        "thresholds": [0.1],
        "id": "x1",
        "snapshot": "s1",
        "rows": 2,
        "days": 7,
        "positives_share": 0.5,
        "by_tenant": [{"tenant_id": HOSTILE, **tenant}],
        "histogram": [{"from": 0.0, "middle": 0.5, "to": 1.0, "session_count": 2}],
        "top": [{"tenant_id": HOSTILE, **session}],
        "files": [f"{HOSTILE}/scores.csv"],
    }
    return {"scores": scores}


def monitor_context() -> dict:
    check = {
        "tenant": HOSTILE,
        "subject": HOSTILE,
        "value": 0.3,
        "limit": 0.1,
        "sentence": HOSTILE,
        "alarm_days": 1,
        "distribution": [{"value": HOSTILE, "then": 0.1, "now": 0.6}],
    }
    history = {
        "quality": (0.4, None),
        "drift": (0.1, None),
        "broken": (None,),
        "volume": (5.0, 4.0),
        "latency": (9.0,),
    }
    states = dict(zip(history, ("fine", "alarm", "alarm", "cannot say yet", "fine"), strict=True))
    report = {
        "checks": [
            check | {"name": name, "key": name, "state": states[name], "history": days}
            for name, days in history.items()
        ],
        "retraining": {"retrain": True, "status": "train again", "reason": HOSTILE},
        "alerts": {"failed": HOSTILE, "open": {"drift": {"since": "2026-01-02T00:00:00"}}},
        "calls": [{"tenant_id": HOSTILE, "count": 3, "last": "2026-01-02 10:00:00"}],
        "day_starts": ["2026-01-01 23:00:00", "2026-01-02 23:00:00"],
        "learned_until": "2026-01-01 22:00:00",
        "own": {HOSTILE: HOSTILE},
        "champion": "shared",
        "incidents": [
            {
                "title": HOSTILE,
                "sentence": HOSTILE,
                "next": "Type `make data`.",
                "keys": ["drift"],
                "since": "2026-01-02 23:00:00",
            }
        ],
    }
    return {"report": report | dict.fromkeys(("newest", "at"), "2026-01-03 23:00:00") | SIZES}


@pytest.mark.parametrize(
    ("status", "colour"), [("not needed", "good"), ("wait", "warn"), ("fix the data first", "warn")]
)
def test_the_monitors_page_is_green_about_training_only_where_nothing_asks_for_it(status, colour):
    report = monitor_context()["report"]
    report["retraining"] = {"retrain": False, "status": status, "reason": "For 7 days."}

    html = render("monitor.html", title="Monitor", report=report)

    assert f'<p class="banner {colour}">\n<b>Training: {status}.</b>' in html
    assert re.search(r"In the data since\s+2 Jan 2026, 23:00, noticed\s+2 Jan", html)


def test_scores_say_on_whom_to_act_and_why_and_how_many_outcomes_to_expect():
    html = render("scores.html", title="Scores", **scores_context())

    assert "×2.01" in html and "0 to\n1 in 95 of 100 cases" in html
    assert html.count('class="limit"') == 1
    assert "<p>1 sessions above the threshold" in html and "2 more had one since then" in html
    assert 'href="scores.csv"' in html and 'aria-label="0\u00a0% to 100\u00a0%, 2"' in html


def test_an_alarm_has_its_history_and_its_values_in_training_and_now():
    html = render("monitor.html", title="Monitor", **monitor_context())

    assert 'aria-label="1 Jan 2026, 23:00, 0.1"' in html
    assert '<td class="n">10.0\u00a0%</td>\n<td class="n">60.0\u00a0%</td>' in html
    assert 'aria-label="1 Jan 2026 5, 2 Jan 2026 4"' in html
    assert "Type <code>make data</code>." in html


def test_a_history_without_its_days_is_shown_without_dates():
    report = monitor_context()["report"] | {"day_starts": []}

    html = render("monitor.html", title="Monitor", report=report)

    assert 'aria-label="5, 4"' in html


def experiment_context() -> dict:
    variants = [
        {
            "variant": name,
            "visitors": 9,
            "observed": 8,
            "outcomes": 1,
            "rate": 0.1,
            "p99_ms": None,
            "failed": None,
        }
        for name in ("champion", "challenger")
    ]
    rates = {"champion": 0.1, "challenger": None}
    days = [{"day": "2026-01-01", "value": None, "low": None, "high": None} | rates]
    days += [{"day": "2026-01-02", "value": 0.01, "low": -0.01, "high": 0.03} | rates]
    tenant = {"tenant": HOSTILE, "visitors": 4, "value": 0.01, "low": None, "high": None}
    readout = {
        "verdict": "open",
        "sentence": HOSTILE,
        "share": 0.5,
        "since": "2026-01-01T00:00:00+00:00",
        "days": days,
    }
    readout |= {
        "variants": variants,
        "days_left": 12.3,
        "tenants": [tenant, tenant],
        "t_test_p": 0.4,
        "ratio_p": 0.5,
        "crossed": 1,
        "waiting": 2,
        "slower_ms": None,
    }
    return {"readout": readout | {"champion": HOSTILE, "version": HOSTILE}, "alpha": 0.05}


def run_row() -> dict:
    row = dict.fromkeys(("id", "chosen", "snapshot", "note", "measure"), HOSTILE)
    figure = {"value": 0.5, "low": None, "high": None}
    about = {"at": "2026-01-01T00:00:00", "figure": figure, "value": None, "seconds": None}
    return row | about | {"tags": [HOSTILE]}


SIZES = {"session_count": 3, "version": HOSTILE, "snapshot": HOSTILE}
PAGES = {
    "monitor": ("monitor.html", monitor_context()),
    "experiment": ("experiment.html", experiment_context()),
    "data": ("data.html", data_context(True)),
    "data refused": ("data.html", data_context(False)),
    "data docs": ("data_docs.html", data_docs_context()),
    "data without a label": ("data.html", data_context(True, train_count=0)),
    "run": ("run.html", run_context()),
    "card": (
        "card.html",
        run_context() | {"chosen": "xgboost", "owner": HOSTILE, "to_run": "../r/report.html"},
    ),
    "gate open": ("gate.html", gate_context(True)),
    "gate shut": ("gate.html", gate_context(False)),
    "gate forced": ("gate.html", gate_context(False, forced=True)),
    "scores": ("scores.html", scores_context()),
    "runs": ("runs.html", {"rows": [run_row()]}),
}


def test_a_session_under_review_is_shown_without_running_what_it_holds():
    event = {"occurred_at": datetime(2026, 1, 1, 9), "price": None} | dict.fromkeys(
        ("event_type", "page", "product_id", "query", "device", "channel", "country"), HOSTILE
    )
    session = {
        "kind": "wrong",
        "probability": 0.9,
        "label": False,
        "point_at": datetime(2026, 1, 1, 9),
        "events": [event],
    }
    session |= {"tenant_id": HOSTILE, "entity_id": HOSTILE, "reasons": [{"text": HOSTILE}]}
    context = {
        "session": session,
        "last": None,
        "waiting": 1,
        "done": 0,
        "nonce": "n",
        "judgement_id": "0" * 32,
        "kinds": {"wrong": "Wrong"},
        "guidelines": ["# Bots", HOSTILE],
        "guidelines_file": "docs/review-guidelines.md",
        "reviewer": HOSTILE,
        "longest": {"comment": 1_000, "by": 80},
    }

    html = render("review.html", title=HOSTILE, judgements={"fit": ("f", "Fit")}, **context)

    assert html.count("<script") == 1
    assert "<script>alert" not in html
    assert Outline(html).open == []


class Outline(HTMLParser):
    """What matters of a page: which tags are never closed, its headings, and what it would load."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, html: str):
        super().__init__()
        self.open, self.seen, self.loads = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.loads += [
            value for name, value in attributes if name in ("src", "href", "srcset", "xlink:href")
        ]
        self.loads += re.findall(r"url\([^)]*\)|@import[^;]*", dict(attributes).get("style") or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass


@pytest.mark.parametrize(("template", "context"), PAGES.values(), ids=PAGES.keys())
def test_a_page_is_one_file_that_escapes_what_it_shows(template, context):
    html = render(template, title=HOSTILE, **context)
    outline = Outline(html)

    assert html.count("<script") == html.count("<script>const ") <= 1
    assert "49" not in re.findall(r"&amp;\W*(\d+)", html)
    assert not re.search(r"https?://|url\(|@import", html)
    assert all(not place.startswith(("/", "data:", "javascript:")) for place in outline.loads)
    assert outline.open == []
    assert outline.seen.count("h1") == 1
    assert {"header", "main", "footer", "h2"} <= set(outline.seen)
    assert not re.search(r"\bnan\b|\bNone\b|\bNaT\b", html)


@pytest.mark.parametrize(("template", "context"), PAGES.values(), ids=PAGES.keys())
def test_a_written_page_links_to_the_overview_and_its_card_to_nothing(tmp_path, template, context):
    store = Store(tmp_path / "data")
    path = store.runs / "r1" / "report.html"
    path.parent.mkdir(parents=True)

    card = page.write(store, path, template, title="A page", **context)

    links = re.findall(r'href="([^"]*)"', path.read_text())
    assert {"../../index.html", "../../index.html#runs", "../../index.html#review"} <= set(links)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', card))


def test_the_headline_claims_a_lead_only_where_its_interval_is_above_zero():
    assert "has 2.5 times the average precision of the baseline" in render(
        "run.html", title="", **run_context(0.1)
    )
    assert "is not significantly better than the baseline" in render(
        "run.html", title="", **run_context(-0.01)
    )


def test_what_is_not_known_reads_as_a_dash():
    template = page._environment().from_string(
        "{{ unknown | percent }}{{ decimal(unknown) }}{{ unknown | short }}"
    )

    assert template.render(unknown=float("nan")) == template.render(unknown=None) == "–––"


def test_numbers_read_as_people_write_them():
    assert FORMS["number"](12345.0) == "12,345"
    assert FORMS["percent"](0.0798) == "8.0\u00a0%"
    assert FORMS["percent"](0.00033) == "0.033\u00a0%"
    assert FORMS["moment"]("2026-01-01T02:45:22.6") == "1 Jan 2026, 02:45"


@pytest.mark.parametrize(
    "share, text",
    [
        (1.0, "100 %"),
        (0.315, "31.5 %"),
        (-0.02, "-2 %"),
        (0.00033, "0.033 %"),
        (0.0, "0 %"),
        (None, "unknown"),
        (np.float64("nan"), "unknown"),
    ],
)
def test_a_share_is_written_in_percent_in_messages(share, text):
    assert format_percent(share) == text


def test_an_axis_ends_at_a_round_number_above_its_values():
    axis = plot.axis([0.37, None, float("nan")])

    assert axis.ticks == [0, 0.1, 0.2, 0.3, 0.4]
    assert axis.place(0.1) == 25
    assert axis.place(9) == 100


def test_an_axis_with_negative_values_has_zero_among_its_ticks():
    axis = plot.axis([-0.12, 0.05])

    assert axis.ticks == [-0.15, -0.1, -0.05, 0, 0.05]
    assert axis.place(0) == 75


def test_marks_are_the_known_values_of_a_line_evenly_thinned_with_both_ends():
    axis, form = plot.axis([1]), "{:.2f}".format
    points = [{"x": place / 99, "y": 0.5} for place in range(100)] + [{"x": 1, "y": None}]

    marks = plot.marks([("line", points)], ("x", "y"), (axis, axis), (form, form))

    assert len(marks) == plot.THINNED
    assert (marks[0].left, marks[-1].left) == (0, 100)
    assert (marks[-1].name, marks[-1].x, marks[-1].y) == ("line", "1.00", "0.50")


def test_an_axis_of_time_holds_whole_days():
    axis = plot.time_axis([date(2026, 1, 1), "2026-01-04T13:00:00"])

    assert [tick.day for tick in axis.ticks] == [1, 2, 3, 4]
    assert axis.place(datetime(2026, 1, 3)) == axis.place("2026-01-03T02:00:00+02:00") == 50


def test_a_line_is_broken_where_a_value_is_unknown():
    axis = plot.axis([1])
    points = [{"x": 0, "y": 0}, {"x": 0.5, "y": None}, {"x": 1, "y": 1}]

    assert plot.trace(points, "x", "y", axis, axis) == "M0 0M100 100"


def test_columns_are_described_by_bars_and_by_what_is_unknown():
    with duckdb.connect() as connection:
        word = "if(i < 5, null, 'x\"y') as word"
        connection.execute(
            f"create table f as select 'e' || i as entity_id, i as n, {word} from range(10) as r(i)"
        )
        numbers, texts = distribution.describe(connection, "f")
        connection.execute("delete from f")
        none = distribution.describe(connection, "f")

    assert numbers["column_name"] == "n" and sum(count for _, count in numbers["bins"]) == 10
    assert all(label.startswith("≤ ") for label, _ in numbers["bins"])
    assert texts == {"column_name": "word", "unknown_share": 0.5, "bins": [('x"y', 5)]}
    assert [one["bins"] for one in none] == [[], []]


def test_examples_of_quarantined_lines_are_masked():
    personal = '{"mail": "ann.lee+x@shop.example", "phone": "0049 171 ٣", "url": "/?u=ann%40shop.example", '
    line = personal + '"a": [1, 2, 3, 4, 5, 6, 7]}'
    with duckdb.connect() as connection:
        connection.execute(
            "create table quarantined_events as select 'web' as source, 'f' as file, 3 as line_number, "
            "'no_tenant' as reason, ? as line union all select 'orders', 'f', 1, 'unparsable', '{''by'': ''José'', 7'",
            [line],
        )
        broken, valid = connection.sql(data_report.QUERIES["quarantine"]).df().to_dict("records")

    assert valid["first_text"].startswith('{"mail": "…@…", "phone": "#### ### #", "url": "…@…"')
    assert len(valid["first_text"]) == 80
    assert (
        broken["first_text"] == "{'xx': 'xxxx', #"
    )  # without keys, personal fields cannot be recognized


def test_a_data_run_names_files_that_cannot_be_read_and_counts_what_is_read_in_another_way(
    tmp_path,
):
    store = Store(tmp_path)
    day = store.raw / "web" / "dt=2026-01-01"
    day.mkdir(parents=True)
    (day / "old.zip").write_bytes(b"PK")
    land(store, ["web"], accepts=True)
    (day / "EXPORT.ORC").write_bytes(b"ORC")
    (day / "e.csv").write_text("2026-01-01,open\n")

    unreadable, accepted, bare = data_report._format_files(land(store, ["web"]))

    assert "raw/web/dt=2026-01-01/EXPORT.ORC: unknown_format; write it as Parquet" in unreadable
    assert accepted.startswith("note: 1 accepted file cannot")
    assert "raw/web/dt=2026-01-01/e.csv" in bare and "column_1" in bare


def test_a_failed_expectation_about_files_names_one():
    keys = [{"source": "web", "file": "raw/web/a.jsonl"}, {"source": "web", "file": "b"}]
    finding = audit.Finding("t", "has an event", "warning", False, "2 rows", keys)

    assert ["warning: t: FAILED: has an event (2 rows, such as raw/web/a.jsonl)"] == (
        data_report._format_findings([finding])
    )


def test_a_reason_that_a_setting_decides_names_it():
    place = {"first_file": "raw/app/dt=2026-03-01/e.csv", "first_line_number": 3}
    rows = [
        {"source": "app", "reason": reason, "record_count": 2, **place}
        for reason in ("in_the_future", "too_long_ago", "no_time")
    ]

    (line,) = data_report._format_quarantine(rows)

    assert "2 in_the_future (vars: future_tolerance_days)" in line
    assert "2 too_long_ago (vars: first_year)" in line and "2 no_time (first" in line


def test_a_reason_has_the_file_and_the_line_of_its_first_record():
    whole = {"source": "app", "reason": "cannot_be_read", "record_count": 1}
    whole |= {"first_file": "raw/app/e.zip", "first_line_number": float("nan")}
    row = {"source": "app", "reason": "malformed_time", "record_count": 1}
    row |= {"first_file": "raw/app/dt=2026-03-01/e.csv", "first_line_number": 3}

    assert data_report._format_quarantine([row, whole]) == [
        "quarantined: app: 1 malformed_time (first: data/raw/app/dt=2026-03-01/e.csv, line 3), "
        "1 cannot_be_read (first: data/raw/app/e.zip)"
    ]


def test_sessions_long_after_the_others_and_days_in_the_future_are_named():
    with duckdb.connect() as connection:
        connection.execute(
            "create table int_data_end as select timestamp '2026-01-05' as occurred_until, "
            "timestamp '2026-01-05' as received_until; create table events as "
            "select 'web' as source, 's' || n as session_id, 'raw/web/dt=2026-01-05/a.jsonl' as file, "
            "n as line_number, 'e' || n as event_id, timestamp '2026-01-03' + interval (n) day as occurred_at, "
            "occurred_at as received_at from range(4) as r(n)"
        )
        rows = connection.sql(data_report.QUERIES["stragglers"]).df().to_dict("records")
    files = [SimpleNamespace(source="web", arrived_on=day) for day in ("2026-01-05", "2999-01-01")]

    late, future = data_report._format_late(rows, SimpleNamespace(files=files))

    assert "the data ends at 2026-01-05 00:00, and 1 event of 1 session came long after" in late
    assert "2026-01-06 00:00 (data/raw/web/dt=2026-01-05/a.jsonl, line 3, session 's3')" in late
    assert "data/raw/web/dt=2999-01-01 is a day in the future: rename the folder" in future
    assert data_report._format_late([], SimpleNamespace(files=files[:1])) == []


def test_an_id_in_many_sessions_or_places_within_an_hour_is_named_and_a_persons_is_not():
    with duckdb.connect() as connection:
        connection.execute(
            """create table events as
            select 'acme' as tenant_id, 'web' as source, 's' || n as session_id,
                timestamp '2026-01-05 10:00' + interval (n) minute as occurred_at,
                case when n % 2 = 0 then 'device-7' else 'd' || n end as anonymous_id,
                case when n % 4 = 0 then 'o''brien' end as user_id,
                if(n % 3 = 0, 'mobile', 'desktop') as device, null as country
            from range(60) as r(n)
            union all  -- one endless session of many, as where the emitter has no session ids
            select 'acme', 'app', 's', timestamp '2026-01-05 10:00', 'none-given', null,
                'mobile', 'country ' || n % 5 from range(20) as r(n)
            union all  -- one busy person, and a bot
            select 'acme', 'web', 'own', timestamp '2026-01-05 10:00', 'a-person', null,
                'desktop', 'fr' from range(200)
            union all
            select 'acme', 'web', 'b' || n, timestamp '2026-01-05 10:00', 'a-bot', null,
                'bot', 'us' from range(200) as r(n)"""
        )
        rows = connection.sql(data_report.QUERIES["crowded_ids"]).df().to_dict("records")

    assert [(row["source"], row["id_column"], row["id"]) for row in rows] == [
        ("web", "anonymous_id", "device-7"),
        ("app", "anonymous_id", "none-given"),
    ]
    many, places = data_report.format_crowded_ids(rows)
    assert "anonymous_id 'device-7' is in 30 sessions, on 2 devices and countries" in many
    assert "write nullif(..., 'device-7') as anonymous_id in stg_web__events.sql" in many
    assert "is in 1 session, on 5 devices and countries, within one hour" in places


def test_a_refused_data_page_names_the_snapshot_before_only_where_there_is_one():
    first, later = (
        render("data.html", title="Data", **data_context(False) | {"latest": latest})
        for latest in ("", "90d11f777a7c")
    )

    assert "Nothing was published.</b>" in first
    assert "Nothing was published; the snapshot before stays.</b>" in later


def test_what_the_terminal_warns_of_is_on_the_data_page():
    html = render("data.html", title="Data", **data_context(True))

    assert "Warnings and notes" in html and "the data ends</li>" in html
    assert '<b class="warn">warning</b>' in html and "<b>note</b>" in html


def test_a_projects_template_comes_first_and_may_extend_the_librarys(tmp_path, monkeypatch):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/base.html").write_text(
        '{% extends "jollyboat/base.html" %}{% block foot %}our team{% endblock %}'
    )
    (tmp_path / "templates/mine.html").write_text('{% extends "base.html" %}')
    monkeypatch.setattr(page, "PROJECT", tmp_path)
    page._environment.cache_clear()

    html = render("mine.html", title="Mine")

    page._environment.cache_clear()
    assert "our team" in html
    assert "<title>Mine</title>" in html


def test_the_slider_of_a_runs_page_shows_what_another_threshold_brings(tmp_path):
    context = run_context()
    (tmp_path / "run.html").write_text(render("run.html", title="Run", **context))
    figure = "document.querySelector('[data-figure={}]').textContent"

    with browser() as page:
        page.open((tmp_path / "run.html").as_uri())
        before = [page.evaluate(figure.format(name)) for name in ("hits", "value_per_1000")]
        page.evaluate(
            "const s = document.getElementById('cut'); s.value = s.max;"
            "s.dispatchEvent(new Event('input'))"
        )
        after = [page.evaluate(figure.format(name)) for name in ("hits", "value_per_1000")]

    assert page.errors == []
    assert before == ["2", "4,250"]
    assert after == ["1", "2,250"]


def test_a_mark_shows_its_value_when_the_keyboard_reaches_it(tmp_path):
    (tmp_path / "run.html").write_text(render("run.html", title="Run", **run_context()))

    with browser() as page:
        page.open((tmp_path / "run.html").as_uri())
        page.evaluate("document.querySelector('.mark').focus()")
        text = page.evaluate("getComputedStyle(document.activeElement, '::after').content")

    assert text == '"0 %, 4,000"'


def test_small_segments_are_folded_below_those_that_can_be_judged():
    html = render("run.html", title="", **run_context())

    folded = html.partition("1 segment too small to judge")[2]
    assert "tv" in folded and "tv" not in html.partition("too small to judge")[0]


def test_a_possible_leak_is_on_the_runs_page_and_on_the_terminal():
    context = run_context()
    metrics = context["metrics"] | {"warnings": ["Possible leak: last_gap_seconds is 30."]}
    finished = SimpleNamespace(id="r1", metrics=metrics, report="report.html")

    html = page.render("run.html", title="", **context | {"metrics": metrics})
    lines = format_summary(finished, False, 1.0).splitlines()

    assert '<p class="banner warn">Possible leak: last_gap_seconds is 30.</p>' in html
    assert "warning: Possible leak: last_gap_seconds is 30." in lines
