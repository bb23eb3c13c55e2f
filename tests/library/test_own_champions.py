"""Deployment of tenants' own models, the commands about tenants, and the page of all tenants."""

import json
import re
import shutil
from datetime import datetime, timedelta

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from runs import JOLLYBOAT
from whole_path import run as run_command

from jollyboat.bundles.bundle import open_bundle
from jollyboat.champions import champion, policy
from jollyboat.serving import batch_scores, fleet, own_champions, score_report
from jollyboat.serving.app import app
from jollyboat.snapshots import snapshot
from jollyboat.store import UserError, project_settings, read_json, write_json
from jollyboat.training import run as runs

BY = {"by": "test", "keep": 10}
TENANTS = ("acme", "globex")


@pytest.fixture
def better(copied):
    """The store's run, in which the own models of two tenants lead significantly."""
    one = runs.open("", copied)
    results = one.own_models
    for tenant in TENANTS:
        lead = {"value": 0.08, "low": 0.03, "high": 0.13, "p": 0.001}
        results[tenant] |= {"is_better": True, "lead": lead}
    write_json(one.folder / "tenants.json", results)
    return one


@pytest.fixture
def deployed(better):
    own_champions.deploy_tenants(better, **BY)
    return better


def test_training_compares_each_tenants_own_model_with_the_shared_one(built):
    results = runs.open("", built).own_models

    assert set(results) == {"acme", "globex", "initech"}
    assert results["acme"]["lead"]["low"] < results["acme"]["lead"]["high"]
    assert runs.open("", built).metrics["own_models"]["statuses"]["fitted"] >= 1


def test_each_tenant_whose_lead_is_significant_is_answered_by_its_own_model(deployed):
    assert set(champion.own(deployed.store)) == set(TENANTS)
    for tenant, version in champion.own(deployed.store).items():
        bundle = open_bundle(deployed.store.bundle(tenant, version))
        assert bundle.owner == tenant and bundle.sample["request"]["tenant_id"] == tenant


def test_deployed_again_nothing_changes(deployed):
    before = champion.own(deployed.store)

    own_champions.deploy_tenants(deployed, **BY)

    assert champion.own(deployed.store) == before


def test_a_tenant_whose_bundle_fails_keeps_its_model_and_the_next_one_is_promoted(better):
    (next(better.own_model("acme").glob("model.*"))).write_bytes(b"broken")

    decisions = own_champions.deploy_tenants(better, **BY)

    assert list(champion.own(better.store)) == ["globex"]
    assert decisions["acme"].model == "shared" and "failed" in decisions["acme"].reason
    first_line = own_champions.format_summary(decisions).splitlines()[0]
    assert first_line.startswith("acme: ")


def test_a_tenant_whose_pointer_is_broken_is_named_and_the_next_one_is_promoted(better):
    pointer = better.store.champion("acme")
    pointer.mkdir(parents=True)

    decisions = own_champions.deploy_tenants(better, **BY)

    assert "failed" in decisions["acme"].reason
    assert decisions["globex"].model == "own"


def test_a_model_that_was_rolled_back_is_not_promoted_again(deployed):
    champion.rollback(deployed.store, "acme", by="ada", why="too many alarms")

    decisions = own_champions.deploy_tenants(deployed, **BY)

    assert list(champion.own(deployed.store)) == ["globex"]
    assert decisions["acme"].model == "kept" and "by ada: too many" in decisions["acme"].reason


def test_a_model_that_fails_a_behavioural_case_is_not_promoted(better, monkeypatch):
    def judge(model, sessions):
        passed = model.bundle.owner != "acme"
        return [own_champions.checks.Verdict("case", passed, 1.0, 0.0, "it fell")]

    monkeypatch.setattr(own_champions.checks, "behaviour_of", lambda snapshot: judge)

    decisions = own_champions.deploy_tenants(better, **BY)

    assert list(champion.own(better.store)) == ["globex"]
    assert "it fell" in decisions["acme"].reason


def test_where_a_real_server_refuses_every_bundle_no_tenant_is_promoted(better, monkeypatch):
    monkeypatch.setattr(own_champions.checks, "run_smoke", lambda bundle: (None, "no answer"))

    decisions = own_champions.deploy_tenants(better, **BY)

    assert champion.own(better.store) == {}
    assert "no answer" in decisions["acme"].reason


def test_a_pinned_tenant_is_not_promoted(better):
    policy.pin(better.store, "acme", by="ada", why="their wish")

    decisions = own_champions.deploy_tenants(better, **BY)

    assert list(champion.own(better.store)) == ["globex"]
    assert decisions["acme"].reason == "shared: pinned by ada, their wish"


def test_batch_scores_of_many_models_are_those_of_each_one(deployed):
    store = deployed.store
    opened = snapshot.open_latest(store)
    scores_id = batch_scores.score(opened, 3)
    scores = batch_scores.duckdb.read_parquet(str(store.scores / scores_id / "scores.parquet")).df()

    assert set(scores["champion"]) == {"shared", *TENANTS}
    for owner, rows in scores.groupby("champion"):
        version = rows["model_version"].iloc[0]
        expected = batch_scores.predict(open_bundle(store.bundle(owner, version)), opened, rows)
        both = rows.merge(expected, on=batch_scores.KEYS)
        assert set(rows["outcome"].dropna()) == {True, False}
        assert len(both) == len(rows)
        assert (both["probability_x"] - both["probability_y"]).abs().max() < 1e-12


def test_the_most_probable_rows_of_scores_have_their_reasons_and_the_others_none(deployed):
    store = deployed.store
    folder = store.scores / batch_scores.score(snapshot.open_latest(store), 3)
    top = score_report.gather(folder)["top"]

    explained = read_json(folder / "scores.json")["reasons"]

    assert len(explained) == batch_scores.MOST_EXPLAINED == len(top)
    assert all(row["outcome"] is not True for row in top)
    assert all(row["reasons"] and row["reasons"][0]["effect"] for row in top)


def test_a_private_tenant_without_a_model_is_left_out_of_the_scores_and_counted(copied):
    opened = snapshot.open_latest(copied)

    scores_id = batch_scores.score(opened, 3, private=["acme"])

    contents = read_json(copied.scores / scores_id / "scores.json")
    assert "acme" not in contents["champions"] and contents["left_out"]["no_model"] > 0


def command(store, *arguments):
    return run_command(store, *JOLLYBOAT, "tenants", *arguments)


def test_the_commands_list_show_pin_pause_resume_and_roll_back(deployed):
    store = deployed.store

    listed = command(store, "--own").stdout
    assert all(tenant in listed for tenant in TENANTS) and "initech" not in listed
    assert "own: +0.08 (+0.03 to +0.13)" in command(store, "show", "acme").stdout
    assert command(store, "rollback", "acme", "--why", "alarms").returncode == 0
    assert list(champion.own(store)) == ["globex"]
    assert command(store, "pin", "globex", "shared").returncode == 0
    assert champion.own(store) == {}
    assert command(store, "pause", "initech").returncode == 0
    statuses = dict(line.split()[:2] for line in command(store).stdout.splitlines()[1:4])
    assert statuses == {"initech": "paused", "globex": "pinned", "acme": "fine"}
    assert command(store, "resume", "initech").returncode == 0
    assert policy.read_policy(store, "initech") is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["show", "acmee"], "no tenant 'acmee'. Did you mean acme?"),
        (["--status", "dirft"], "Did you mean drift?"),
        (["resume", "acme"], "acme is neither pinned nor paused."),
        (["rollback", "acme"], "no earlier champion of acme"),
    ],
)
def test_a_wrong_command_is_a_sentence(built, arguments, sentence):
    result = command(built, *arguments)

    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert sentence in " ".join(result.stderr.split())


def test_the_worst_tenants_come_first_and_say_what_is_wrong(copied):
    latest = copied.monitor / "latest.json"
    report = read_json(latest, {})
    quality = {"state": "below", "value": 0.2, "low": 0.4, "outcomes": 30}
    report["tenants"] = {"initech": {"quality": quality, "calls": 7}}
    write_json(latest, report)

    tenants = fleet.gather(copied, project_settings())

    assert (tenants[0].name, tenants[0].status, tenants[0].calls) == ("initech", "below", 7)
    assert "0.200 live, at least 0.400" in tenants[0].attention[0]
    assert not tenants[-1].needs_attention


def test_a_held_tenant_is_the_first_on_the_page(copied):
    path = copied.snapshots / snapshot.latest_id(copied) / "manifest.json"
    manifest = read_json(path)
    held = {"reason": "its prices are wrong", "since": "2026-01-05", "until": None}
    write_json(path, manifest | {"held": {"globex": held | {"record_count": 3}}})

    first = fleet.gather(copied, project_settings())[0]

    assert (first.name, first.status) == ("globex", "held back")
    assert "its prices are wrong" in first.attention[0]


@pytest.mark.parametrize(("days", "change"), [(9, None), (14, 1.5)])
def test_a_change_is_a_figure_where_two_whole_weeks_are_known(copied, days, change):
    end = datetime(2026, 1, 10)
    row = {"session_count": 75, "week_count": 45, "week_before_count": 30, "last_at": end}
    row |= {"first_at": end - timedelta(days=days)}
    facts = {key: {} for key in ("monitored", "policies", "decisions", "held", "rates")}

    one = fleet._tenant(copied, "acme", pd.Series(row), end, facts, project_settings())

    assert one.change == change


@pytest.fixture
def client(deployed, monkeypatch):
    monkeypatch.setenv("STORE_ROOT", str(deployed.store.root))
    monkeypatch.delenv("SERVE_BUNDLE", raising=False)
    with TestClient(app) as client:
        yield client


def test_the_servers_page_changes_a_tenants_model(client, deployed):
    form = {"question": "purchase_intent", "tenant": "acme", "action": "pin", "why": "their wish"}

    page = client.get("/tenants").text
    answer = client.post("/tenants", data=form)

    assert re.search(r"<td[^>]*><a href=\"/page/models/acme/\w+/card.html\">own</a>", page)
    assert answer.status_code == 200 and "shared is now the champion of acme" in answer.text
    assert policy.read_policy(deployed.store, "acme")["why"] == "their wish"


def test_a_foreign_page_and_a_wrong_form_change_nothing(client, deployed):
    form = {"question": "", "tenant": "acme", "action": "pin", "why": "x"}

    foreign = client.post("/tenants", data=form, headers={"Origin": "https://elsewhere.example"})
    wrong = [
        client.post("/tenants", data=form | change)
        for change in ({"tenant": "nobody"}, {"action": "delete"})
    ]

    assert foreign.status_code == 403
    assert [each.status_code for each in wrong] == [422, 422]
    assert set(champion.own(deployed.store)) == set(TENANTS)


def test_every_flow_writes_the_page_of_all_tenants_which_links_the_overview(built):
    page = fleet.page_of(built).read_text(encoding="utf-8")

    assert "Is my customers’ service good today?" in page
    assert 'href="../index.html"' in page
    assert all(
        f'<th scope="row" class="t">{name}</th>' in page for name in ("acme", "globex", "initech")
    )
    assert "../reports/tenants.html" not in page
    assert "reports/tenants.html" in built.overview.read_text(encoding="utf-8")


def test_a_tenant_with_an_unsafe_name_is_listed_without_a_model(copied):
    with pytest.raises(UserError, match="cannot own a model"):
        champion.current(copied, "a/b")

    assert json.dumps(own_champions.read_decisions(copied))
    shutil.rmtree(copied.models)
    assert own_champions.read_decisions(copied) == {}
