"""The gate, typed as a user types it: a worse model is refused, forced with a reason, and taken back."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import run
from runs import copy_project, type_in

import demo


@pytest.fixture
def worse(project: Path, copied: Path, tmp_path: Path) -> Path:
    """A project with a champion whose latest run knows nothing but the rule."""
    copy = copy_project(project, tmp_path / "own")
    shutil.move(copied, copy / "data")
    settings = copy / "project.toml"
    settings.write_text(settings.read_text().replace('["rule", "logistic", "xgboost"]', '["rule"]'))
    said = type_in(copy, "make train")
    assert said.returncode == 0, said.stdout
    return copy


def test_a_worse_model_is_refused_forced_with_a_reason_and_taken_back_without_training(worse):
    (champion,) = (line.split()[1] for line in models(worse) if "CHAMPION" in line)

    refused = type_in(worse, "make deploy")
    short = type_in(worse, "make deploy FORCE=1")
    forced = type_in(worse, """make deploy FORCE='the "old" one costs more'""")
    told, standing = models(worse), json.loads((worse / "data/models/pooled/champion.json").read_text())["history"][-1]
    back = type_in(worse, "make rollback")
    away = type_in(worse, "make rollback VERSION=nosuchversion")

    assert refused.returncode == short.returncode == away.returncode == 2
    assert f"refused by beats_the_rule, not_worse_than_champion; champion {champion} stays" in refused.stdout
    assert 'make deploy FORCE="why"' in refused.stdout
    assert "Say in words why, not '1'" in short.stdout
    assert forced.returncode == back.returncode == 0, forced.stdout + back.stdout
    assert sum("CHAMPION" in line and 'FORCED: the "old" one costs more' in line for line in told) == 1
    assert standing["forced"] == 'the "old" one costs more'
    page = worse / "data/models/pooled" / standing["gate"]
    assert "Forced past 2 of" in page.read_text()
    assert f"{champion} is now the champion" in back.stdout
    assert "was never the champion of pooled; `make models` lists" in away.stdout


def models(project: Path) -> list[str]:
    said = type_in(project, "make models")
    assert said.returncode == 0, said.stdout
    return said.stdout.splitlines()


@pytest.mark.faults
def test_of_two_deployments_at_once_there_is_one_champion_ten_times_of_ten(untouched, copied, tmp_path):
    runs = [json.loads((copied / "runs/latest.json").read_text())["run"]]
    other = tmp_path / "other.toml"
    other.write_text(
        (untouched / "project.toml").read_text().replace("patience = 30", "patience = 20")
        + "\n[xgboost]\nmax_depth = 3\n"
    )
    assert run(untouched, copied, "flows/train.py", "--config", "project", str(other), "run").returncode == 0
    runs.append(json.loads((copied / "runs/latest.json").read_text())["run"])
    command = [untouched / ".venv/bin/python", "flows/deploy.py", "run", "--force", "two at once", "--candidate"]
    environment = demo.environment() | {"STORE_ROOT": str(copied)}
    for _ in range(10):
        shutil.rmtree(copied / "models")
        both = [
            subprocess.Popen(
                [*command, name], cwd=untouched, env=environment, stdout=-3, stderr=subprocess.PIPE, text=True
            )
            for name in runs
        ]
        said = [each.communicate()[1] for each in both]

        pointer = json.loads((copied / "models/pooled/champion.json").read_text())
        won = [each.returncode == 0 for each in both]
        assert sum(won) == len(pointer["history"]) == 1, said
        assert (copied / "models/pooled" / pointer["version"] / "manifest.json").exists()
        assert "run `make deploy` again" in said[won.index(False)]
