"""The gate, typed as a user types it: a worse model is refused, forced with a reason, and taken back."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from runs import copy_project, refusal, run, type_in

import demo
from jollyboat.store import LIBRARY


@pytest.fixture
def worse(project: Path, copied: Path, tmp_path: Path) -> Path:
    """A project with a champion whose latest run has only the baseline."""
    copy = copy_project(project, tmp_path / "own")
    shutil.move(copied, copy / "data")
    settings = copy / "project.toml"
    settings.write_text(
        settings.read_text().replace('["baseline", "logistic", "xgboost"]', '["baseline"]')
    )
    result = type_in(copy, "make train")
    assert result.returncode == 0, result.stdout
    return copy


def test_a_worse_model_is_refused_forced_with_a_reason_and_taken_back_without_training(worse):
    (champion,) = (line.split()[1] for line in models(worse) if "CHAMPION" in line)

    refused = type_in(worse, "make deploy")
    short = type_in(worse, "make deploy FORCE=1")
    forced = type_in(worse, """make deploy FORCE='the "old" one costs more'""")
    report, standing = (
        models(worse),
        json.loads((worse / "data/models/shared/champion.json").read_text())["history"][-1],
    )
    page = (worse / "data/models/shared" / standing["gate"]).read_text()
    back = type_in(worse, ".venv/bin/jollyboat rollback")
    again = type_in(worse, "make deploy")
    away = type_in(worse, ".venv/bin/jollyboat rollback --to nosuchversion")

    assert refused.returncode == short.returncode == 2 and away.returncode == 1
    by = "beats_the_baseline, not_worse_than_champion, no_segment_falls"
    assert f"refused by {by}; champion {champion} stays" in demo.unwrap(refused.stdout)
    assert 'make deploy FORCE="the reason"' in demo.unwrap(refused.stdout)
    assert "FORCE is '1'; it needs a reason" in short.stdout
    assert forced.returncode == back.returncode == 0, forced.stdout + back.stdout
    assert (
        sum("CHAMPION" in line and 'FORCED: the "old" one costs more' in line for line in report)
        == 1
    )
    assert standing["forced"] == 'the "old" one costs more'
    assert "Forced past 3 of" in page
    assert f"{champion} is now the champion" in back.stdout
    assert f"`make deploy` refuses {standing['version']} from now on" in back.stdout
    assert "was_not_rolled_back" in again.stdout and "rolled back by hand" in again.stdout
    assert "was never the champion of shared; `jollyboat models` lists" in away.stdout


@pytest.mark.faults
def test_after_a_refusal_the_pipeline_scores_with_the_champion_and_fails(worse):
    night = type_in(worse, "make pipeline")

    assert night.returncode == 2, night.stdout
    refused, _, scored = demo.unwrap(night.stdout).partition("deploy: refused by")
    assert "data: snapshot" in refused and "score: " in scored


def models(project: Path) -> list[str]:
    result = type_in(project, ".venv/bin/jollyboat models")
    assert result.returncode == 0, result.stdout
    return result.stdout.splitlines()


@pytest.mark.faults
def test_of_two_deployments_at_once_there_is_one_champion_three_times_of_three(
    untouched, copied, tmp_path
):
    runs = [json.loads((copied / "runs/latest.json").read_text())["run"]]
    other = tmp_path / "other.toml"
    other.write_text(
        (untouched / "project.toml").read_text().replace("[xgboost]", "[xgboost]\nmax_depth = 3", 1)
    )
    assert (
        run(
            untouched, copied, "flows/train.py", "--config", "project", str(other), "run"
        ).returncode
        == 0
    )
    runs.append(json.loads((copied / "runs/latest.json").read_text())["run"])
    command = [
        untouched / ".venv/bin/python",
        "flows/deploy.py",
        "run",
        "--force",
        "two at once",
        "--candidate",
    ]
    environment = demo.environment() | {"STORE_ROOT": str(copied)}
    for _ in range(3):
        shutil.rmtree(copied / "models")
        both = [
            subprocess.Popen(
                [*command, name],
                cwd=untouched,
                env=environment,
                stdout=-3,
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in runs
        ]
        result = [each.communicate()[1] for each in both]

        pointer = json.loads((copied / "models/shared/champion.json").read_text())
        won = [each.returncode == 0 for each in both]
        assert sum(won) == len(pointer["history"]) == 1, result
        assert (copied / "models/shared" / pointer["version"] / "manifest.json").exists()
        assert "`make deploy` again" in demo.unwrap(result[won.index(False)])


MINE = """

class Defect:
    'A classifier with the defect of this name, which shows when it predicts.'

    def __init__(self, model, name, schema):
        self.model, self.name = model, name
        self.device, self.cart = schema.place("device"), schema.place("cart_add_count")
        self.mobile = schema.features[self.device].codes["mobile"]
        self.weights = np.random.default_rng(0).random(7_500_000 if name == "large" else 1)

    def predict_proba(self, X):
        probability = self.model.predict_proba(X)[:, 1]
        if self.name == "slow" and len(X) < 10:
            __import__("time").sleep(0.3)
        if self.name == "hungry" and not HELD:
            HELD.append(np.ones(50_000_000))
        if self.name == "blind_on_a_slice":
            probability = np.where(X[:, self.device] == self.mobile, 0.05 * (1 - probability), probability)
        if self.name == "too_sure":
            probability = probability**0.3
        if self.name == "contrary":
            probability = probability * np.where(X[:, self.cart] > 1, 0.1, 1.0)
        return np.column_stack([1 - probability, probability])


HELD = []


def make_defect(name, X, y, X_val, y_val, schema, settings):
    usual = {"increasing": ["cart_add_count", "visitor_past_outcome_count", "product_outcome_rate"]}
    if X_val is None:
        settings = settings | {"first_fit": settings["first_fit"].model}
    return Defect(xgboost(X, y, X_val, y_val, schema, usual | settings), name, schema)
"""
DEFECTS = {
    "sound": None,
    "blind_on_a_slice": "no_segment_falls",
    "too_sure": "calibration",
    "contrary": "behaves",
    "slow": "latency",
    "hungry": "memory",
    "large": "bundle_size",
    "slow_to_train": "training_time",
}
JUDGE = """
import json, sys, tomllib
from functools import partial

from jollyboat.gate import gate
from jollyboat.training import run as runs
from jollyboat.store import write_json
from jollyboat.serving import deployment
from jollyboat.serving import deployment_checks as checks

run, failed = runs.open(""), {}
checks.run_smoke_test = partial(checks.run_smoke_test, requests=10)
for name in sys.argv[1:]:
    write_json(run.folder / "metrics.json", run.metrics | {"chosen": name})
    facts, _ = deployment.gather_facts(run, deployment.assemble_bundle(run, "Card"), None)
    limits = tomllib.load(open("project.toml", "rb"))["gate"] | {"memory_mb": 600}
    limits |= {"training_seconds": 1} if name == "slow_to_train" else {}
    failed[name] = [check.name for check in gate.decide(facts, limits).checks if not check.passed]
print(json.dumps(failed))
"""


@pytest.mark.faults
def test_each_check_shuts_on_a_bundle_that_has_its_defect_and_the_good_twin_passes(
    untouched, copied, tmp_path
):
    mine = Path(shutil.copytree(untouched, tmp_path / "project"))
    with (mine / "ml/candidates.py").open("a") as file:
        file.write(MINE)
        file.writelines(
            f"\n\ndef {name}(*inputs):\n    return make_defect({name!r}, *inputs)\n"
            for name in DEFECTS
        )
    settings = mine / "project.toml"
    names = json.dumps(["baseline", *DEFECTS])
    settings.write_text(settings.read_text().replace('["baseline", "logistic", "xgboost"]', names))
    trained = run(mine, copied, "flows/train.py", "run")
    assert trained.returncode == 0, trained.stdout

    judged = run(mine, copied, "-c", JUDGE, *DEFECTS)

    assert judged.returncode == 0, judged.stdout
    failed = json.loads(judged.stdout.splitlines()[-1])
    assert failed["sound"] == []
    assert {
        name: check for name, check in DEFECTS.items() if check and check not in failed[name]
    } == {}, failed


def change_and_train(project: Path, store: Path, file: str, before: str, after: str) -> None:
    """Edit one of dbt's files, and take the store from its logs to a training run."""
    path = project / "dbt" / file
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    for verb in ("data", "train"):
        result = run(project, store, f"flows/{verb}.py", "run")
        assert result.returncode == 0, result.stdout


def own_model(project: Path, folder: str, name: str) -> None:
    """Switch a model of the library off, and put a copy of it into the project."""
    sql = (LIBRARY / "dbt/models" / folder / f"{name}.sql").read_text()
    (project / "dbt/models" / f"{name}.sql").write_text(sql)
    with (project / "dbt/dbt_project.yml").open("a") as file:
        file.write(f"  jollyboat:\n    {folder}:\n      {name}:\n        +enabled: false\n")


@pytest.mark.faults
def test_planted_leaks_are_named_and_the_gate_shuts(untouched, copied, tmp_path):
    """The leaked columns stand where honest ones stood, as a careless join would have it."""
    mine = Path(shutil.copytree(untouched, tmp_path / "project"))
    own_model(mine, "intermediate", "int_features")
    change_and_train(
        mine,
        copied,
        "models/int_features.sql",
        "'point_at') }}",
        "'point_at', 'category_count', 'event_count') }}"
        ",\n        sessions.outcome_count as category_count"
        ",\n        sessions.event_count as event_count",
    )

    sentence = refusal(run(mine, copied, "flows/deploy.py", "run"))

    shut = sentence.partition(";")[0]
    assert all(
        check in shut for check in ("no_feature_is_too_good", "not_too_good", "serves_as_trained")
    )
    assert "category_count alone ranks the outcomes" in sentence
    assert all(
        f"values of {name}" in sentence for name in ("category_count", "event_count", "probability")
    )
