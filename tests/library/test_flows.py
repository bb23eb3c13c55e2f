"""The whole path, typed as a user types it."""

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb
import numpy as np
import pytest
from whole_path import run_together

from demo import unwrap
from jollyboat.bundles.bundle import Parts, assemble, open_bundle
from jollyboat.bundles.model import answer_sample
from jollyboat.champions.champion import current
from jollyboat.serving import batch_scores, deployment_checks, experiment
from jollyboat.serving.overview import write_overview
from jollyboat.snapshots import snapshot
from jollyboat.store import PROJECT, UserError, project_settings, read_json, write_json
from jollyboat.training import run as runs
from jollyboat.training.estimators import Model, fit
from jollyboat.training.persistence import save
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part

VERBS = ["simulate", "data", "train", "deploy", "score", "monitor", "ask"]
STAGES = {
    "data": ["land new files", "build tables", "audit tables", "publish snapshot"],
    "train": [
        "fit baseline",
        "fit logistic",
        "fit xgboost",
        "fit own models of 2 tenants",
        "evaluate candidates",
        "compare own models",
    ],
    "deploy": ["assemble bundle", "run deployment checks"],
    "score": ["score sessions"],
    "monitor": ["gather live figures"],
}
PAGES = {
    "data": "reports/data.html",
    "train": "runs/*/report.html",
    "deploy": "models/shared/*-gate.html",
    "score": "scores/*/report.html",
    "monitor": "monitor/report.html",
}
HEADING = re.compile(r"<h1>(.+?)</h1>", re.DOTALL)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_succeeds_and_sums_up_in_one_line(result, verb):
    assert result[verb].returncode == 0, result[verb].stdout + result[verb].stderr
    assert f"{verb}: " in result[verb].stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_prints_lines_of_at_most_100_columns(result, built, verb):
    lines = result[verb].stdout.replace(str(built.root), "data").splitlines()

    assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize("flow", STAGES)
def test_a_flow_prints_each_of_its_stages_and_nothing_of_metaflows(result, flow):
    stages = re.findall(r"^(\S.*?)(?: +[\d,]+ rows)? +[\d.]+ s$", result[flow].stdout, re.MULTILINE)

    assert [name for name in stages if ":" not in name] == STAGES[flow]
    assert result[flow].stderr == ""
    assert not re.search(r"\(pid \d+\)|Task is |Workflow starting|Done!", result[flow].stdout)


def test_the_card_of_each_flow_is_its_page(result, built, tmp_path):
    commands = {
        flow: [f"flows/{flow}.py", "card", "get", "end", str(tmp_path / flow)] for flow in PAGES
    }

    opened = run_together(built, commands)

    assert {flow: each.stderr for flow, each in opened.items() if each.returncode} == {}
    for flow, pattern in PAGES.items():
        (page,) = built.root.glob(pattern)
        card = (tmp_path / flow).read_text()
        assert HEADING.search(card)[1] == HEADING.search(page.read_text())[1]
        assert "Card Render Failed" not in card and '<nav class="links"' not in card


def test_card_view_alone_opens_the_page_of_the_latest_run(built, tmp_path):
    """BROWSER is a command that prints the address that it is to open."""
    environment = os.environ | {"STORE_ROOT": str(built.root), "BROWSER": "echo %s"}
    command = [sys.executable, str(PROJECT / "flows/train.py"), "card", "view"]

    viewed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    card = Path(unquote(urlsplit(viewed.stdout.strip()).path))
    assert (
        HEADING.search(card.read_text())[1]
        == HEADING.search(runs.open("", built).report.read_text())[1]
    )


def test_every_page_is_reached_from_the_overview_and_no_link_is_dead(built):
    write_overview(built, "Overview")  # score and monitor ran at once
    pages, links = {}, [(built.overview.resolve(), "")]
    while links:
        path, anchor = links.pop()
        assert path.is_file(), path
        is_ours = path.parent.name != "data_docs" or path.name == "index.html"
        if path.suffix == ".html" and is_ours and path not in pages:
            pages[path] = path.read_text()
            targets = re.findall(r'href="([^"]+)"', pages[path])
            places = [urlsplit(target) for target in targets if not target.startswith("http")]
            links += [
                (
                    (path.parent / unquote(place.path)).resolve() if place.path else path,
                    place.fragment,
                )
                for place in places
            ]
        assert not anchor or f'id="{anchor}"' in path.read_text(), (path, anchor)

    written = {path for pattern in PAGES.values() for path in built.root.resolve().glob(pattern)}
    assert written | {(built.data_docs / "index.html").resolve()} <= pages.keys()
    assert any(path.name == "card.html" for path in pages)
    of_snapshot = built.snapshot_pages / f"{snapshot.latest_id(built)}.html"
    assert of_snapshot.resolve() in pages, "the run's page leads to the data that it learned from"
    assert all('<nav class="links"' in html for html in pages.values())


def test_every_line_is_an_event_a_duplicate_or_quarantined_for_a_reason_that_is_told(result, built):
    assert "quarantined: web: " in result["data"].stdout
    account = snapshot.open_latest(built).frame("record_reconciliation")

    assert account["line_count"].sum() > 2_000
    assert (account["quarantined_count"].sum() > 0) and (account["duplicate_count"].sum() > 0)
    assert account["missing_count"].eq(0).all()


def test_the_run_folder_holds_figures_and_predictions_of_every_candidate(built):
    run = runs.open("", built)

    assert list(run.metrics["candidates"]) == ["baseline", "logistic", "xgboost"]
    assert {"tenant_id", "entity_id", "label", "baseline", "logistic", "xgboost"} <= set(
        run.predictions().columns
    )


def test_the_champion_beats_the_baseline_and_its_gate_report_stands_beside_it(built):
    owner, version = current(built)
    gate = json.loads((built.models / owner / f"{version}-gate.json").read_text())

    assert gate["decision"]["passed"]
    assert (
        next(
            check for check in gate["decision"]["checks"] if check["name"] == "beats_the_baseline"
        )["figure"]
        > 0
    )


def test_batch_scores_equal_the_snapshots_features_under_the_champion(built):
    (folder,) = (path.parent for path in built.scores.glob("*/scores.json"))
    scores = duckdb.read_parquet(str(folder / "scores.parquet")).df()
    predictions = runs.open("", built).predictions()
    chosen = runs.open("", built).chosen

    both = predictions.merge(scores, on=["tenant_id", "entity_id"])
    assert len(both) > 100
    assert (both[chosen] - both["probability"]).abs().max() < 1e-9
    visitors = snapshot.open_latest(built).frame("sessions").set_index("session_id")
    visitors = visitors.loc[scores["entity_id"], "anonymous_id"]
    assert scores["anonymous_id"].tolist() == visitors.tolist()


def test_only_sessions_at_their_point_are_scored_and_the_others_are_counted(built, result):
    opened = snapshot.open_latest(built)
    (written,) = map(read_json, built.scores.glob("*/scores.json"))
    scores = duckdb.read_parquet(str(built.scores / written["id"] / "scores.parquet")).df()
    rows = opened.frame("session_features")[["tenant_id", "entity_id", "point_at", "status"]]
    newest = rows[rows["point_at"] > opened.ends_at - timedelta(days=7)]

    counts = newest["status"].value_counts().to_dict()
    scored = scores.merge(rows, on=["tenant_id", "entity_id"])["status"].value_counts().to_dict()
    assert scored == {status: counts.pop(status) for status in ("train", "open")}
    assert written["left_out"] == counts and min(counts["short"], counts["had_outcome"]) > 0
    assert f"{counts['short']:,} before the prediction point" in unwrap(result["score"].stdout)


def test_the_sample_of_a_bundle_is_a_session_at_a_point_without_the_outcome(built, result):
    bundle, opened = open_bundle(built.bundle(*current(built))), snapshot.open_latest(built)

    events = bundle.sample["request"]["events"]

    assert len(events) in opened.prediction_points
    assert bundle.first_point == min(opened.prediction_points)
    assert bundle.outcome == "event_type = 'purchase'"
    assert bundle.personal_fields == ["email", "phone", "ip", "name"]
    assert "purchase" not in {event["event_type"] for event in events}
    assert '"status": "predicted"' in unwrap(result["ask"].stdout)


def test_one_tenants_sessions_are_scored_on_request(copied, monkeypatch):
    monkeypatch.setattr(batch_scores, "MOST_IN_A_PART", 100)
    opened = snapshot.open_latest(copied)
    whole = duckdb.read_parquet(str(next(copied.scores.glob("*/scores.parquet")))).df()
    tenant = whole["tenant_id"][0]

    one = duckdb.read_parquet(
        str(copied.scores / batch_scores.score(opened, 7, tenant) / "scores.parquet")
    ).df()

    expected = whole[whole["tenant_id"] == tenant]["probability"].to_numpy()
    np.testing.assert_allclose(
        one["probability"], expected, rtol=1e-12
    )  # sums differ by the rows in a part
    with pytest.raises(UserError, match=tenant):
        batch_scores.score(opened, 7, "nobody")


def test_the_same_commands_again_change_nothing(copied):
    before = {
        path: read_json(path)
        for path in (copied.latest_snapshot, copied.latest_run, copied.champion("shared"))
    }

    result = run_together(
        copied, {verb: [f"flows/{verb}.py", "run"] for verb in ("data", "train", "deploy")}
    )

    assert [0, 0, 0] == [each.returncode for each in result.values()]
    assert before == {path: read_json(path) for path in before}


FEWER = "select tenant_id, entity_id, point_at, cart_add_count from ({}) as features"


def champion_of_other_features(
    store, folder, sql: str = FEWER, of_run: str = "gone"
) -> tuple[str, str]:
    """A bundle of a baseline that knows one feature, of a snapshot that is gone; what it runs is `sql`."""
    run, opened = runs.open("", store), snapshot.open_latest(store)
    folder.mkdir(exist_ok=True)
    rows = Part.of(opened.frame("session_features").query("status == 'train'"))
    schema = FeatureSchema.from_frame(rows.features[["cart_add_count"]])
    save(fit("baseline", rows, rows, schema, {"seed": 7}), folder)
    lookups = {name: opened.columns(name) for name in opened.lookups}
    request = deployment_checks.sample_request({})
    parts = Parts(
        candidate="baseline",
        model=folder,
        feature_sql=sql.format(run.feature_sql.strip().rstrip(";")),
        schema=schema.to_dict(),
        lookups=lookups,
        sample=answer_sample(folder, run.feature_sql, lookups, 0.1, request),
        card="",
        threshold=0.1,
        run=of_run,
        snapshot="gone",
        code="",
        metrics={},
    )
    bundle = assemble(parts, store)
    return bundle.owner, bundle.version


def test_a_champion_of_other_features_whose_snapshot_is_gone_is_asked_or_its_silence_explained(
    copied, tmp_path
):
    run = runs.open("", copied)
    other = champion_of_other_features(copied, tmp_path / "baseline")
    mute = champion_of_other_features(
        copied, tmp_path / "baseline", FEWER + " semi join lookup_price using (tenant_id)"
    )

    heard = deployment_checks.against_champion(other, run)
    silent = deployment_checks.against_champion(mute, run)

    assert (
        heard.lead["low"] > 0
        and heard.silence == ""
        and {"tenant_id", "device"} <= {each["segment"] for each in heard.segments}
    )
    assert silent.lead is silent.segments is None
    assert "lookup_price" in silent.silence and "make deploy FORCE" in silent.silence


def test_a_champion_is_not_asked_about_rows_that_it_has_learned_from(copied, tmp_path):
    run = runs.open("", copied)
    champion = champion_of_other_features(copied, tmp_path / "baseline", of_run=run.id)
    metrics, times = run.metrics, run.predictions()["point_at"]
    about_all = deployment_checks.against_champion(champion, run).lead

    def learned_until(moment) -> deployment_checks.Comparison:
        metrics["split"]["validation"]["to"] = moment.isoformat()
        write_json(run.folder / "metrics.json", metrics)
        return deployment_checks.against_champion(champion, run)

    about_half = learned_until(times.median()).lead
    about_none = learned_until(times.max())

    assert about_half["high"] - about_half["low"] > about_all["high"] - about_all["low"]
    assert about_none.lead is None
    assert "it has learned from nearly all of it" in about_none.silence


@pytest.mark.parametrize(("learned_until", "is_newer"), [("2020-01-01", True), ("", False)])
def test_a_candidate_is_newer_where_the_champion_learned_from_earlier_sessions_only(
    copied, tmp_path, learned_until, is_newer
):
    run = runs.open("", copied)
    champion = champion_of_other_features(copied, tmp_path / "baseline", of_run="earlier")
    until = learned_until or run.metrics["split"]["validation"]["to"]
    write_json(copied.runs / "earlier/metrics.json", {"split": {"validation": {"to": until}}})

    assert deployment_checks.against_champion(champion, run).is_newer is is_newer


def test_a_challenger_that_is_not_surely_better_is_promoted_only_for_a_reason_that_is_kept(
    copied, tmp_path
):
    owner, version = champion_of_other_features(copied, tmp_path / "baseline")
    summary = {
        "salt": "s",
        "share": 0.5,
        "owner": owner,
        "version": version,
        "champion": current(copied)[1],
    }
    write_json(copied.experiment, summary | {"since": "2026-01-01T00:00:00+00:00"})

    with pytest.raises(UserError, match="jollyboat experiment promote --force"):
        experiment.promote(copied, project_settings())
    experiment.promote(copied, project_settings(), force="the shop moves tomorrow")

    assert read_json(copied.champion(owner))["history"][-1]["forced"] == "the shop moves tomorrow"


def test_a_champion_whose_code_has_changed_is_not_compared_with(copied, monkeypatch):
    monkeypatch.setattr(Model, "predict_matrix", lambda self, matrix: np.full(len(matrix), 0.5))

    compared = deployment_checks.against_champion(current(copied), runs.open("", copied))

    assert compared.lead is None and "answers its own sample" in compared.silence


def test_features_that_a_server_cannot_compute_are_refused_before_there_is_a_bundle(copied):
    run = runs.open("", copied)
    sql = run.feature_sql.strip().rstrip(";") + " semi join sessions using (tenant_id)"
    (run.folder / "features.sql").write_text(sql)

    with pytest.raises(UserError, match="events_at_point and lookups only"):
        deployment_checks.assemble_bundle(run, "Model card")


def test_the_runs_page_tells_what_the_gate_said(built):
    page = runs.open("", built).report.read_text()

    assert "Did it pass the gate?" in page and "checks\npassed" in page
