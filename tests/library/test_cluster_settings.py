"""What `jollyboat cluster export` refuses before Metaflow is called, and what one machine never has."""

import os
import subprocess
import sys

import pytest

from jollyboat.cluster import export as exports
from jollyboat.cluster.export import export
from jollyboat.flows import run_flow
from jollyboat.store import PROJECT, UserError, project_settings
from jollyboat.store.settings import Cluster, Settings, StepResources

IMAGE = Cluster(image="registry.example.com/shop:1")


def settings_with(**tables: object) -> Settings:
    """The project's settings with these tables."""
    return project_settings().model_copy(update=tables)


def test_without_its_optional_package_the_export_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(exports, "find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"uv pip install .* -r requirements-cluster\.txt"):
        export(settings_with(cluster=IMAGE), "argo", tmp_path)

    pins = (PROJECT / "requirements-cluster.txt").read_text()
    assert "\nkubernetes==" in pins and "--hash=sha256:" in pins


def test_an_image_is_needed(tmp_path):
    with pytest.raises(
        UserError, match=r"image = .* under \[cluster\] in project.toml, or --image"
    ):
        export(settings_with(), "argo", tmp_path)


def test_resources_of_an_unknown_flow_are_refused(tmp_path):
    resources = {"trian": {"fit": StepResources(cpu=2)}}

    with pytest.raises(UserError, match=r"\[resources.trian\].* Did you mean train\?"):
        export(settings_with(cluster=IMAGE, resources=resources), "argo", tmp_path)


def test_a_variable_that_is_named_but_not_set_is_refused(monkeypatch, tmp_path):
    monkeypatch.delenv("TEAM", raising=False)
    cluster = IMAGE.model_copy(update={"environment": ["TEAM"]})

    with pytest.raises(UserError, match="TEAM is not set here"):
        export(settings_with(cluster=cluster), "argo", tmp_path)


def test_a_bucket_is_needed(monkeypatch, tmp_path):
    for name in ("STORE_REMOTE", "METAFLOW_DATASTORE_SYSROOT_S3"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(UserError, match=r"\[store\] remote = .s3://"):
        export(settings_with(cluster=IMAGE), "argo", tmp_path)


def test_on_a_cluster_no_flow_runs_another_one(monkeypatch):
    monkeypatch.setenv("JOLLYBOAT_CLUSTER", "argo")

    with pytest.raises(UserError, match="starts when the one before it has ended"):
        run_flow("train")


def test_on_one_machine_a_flow_has_none_of_a_clusters_decorators():
    environment = {key: value for key, value in os.environ.items() if key != "JOLLYBOAT_CLUSTER"}

    shown = subprocess.run(
        [sys.executable, "flows/train.py", "show"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
    )

    assert shown.returncode == 0, shown.stderr
    assert "Project:" not in shown.stdout + shown.stderr


def test_a_data_run_of_several_shards_is_another_file_and_the_same_flow():
    one, several = (Cluster(data_shards=count) for count in (1, 3))

    assert exports._script(settings_with(cluster=one), "data") == "flows/data.py"
    assert exports._script(settings_with(cluster=several), "data") == "flows/data_shards.py"


@pytest.mark.parametrize("name", ["data", "data_shards"])
def test_both_data_flows_have_valid_steps_and_one_name(name):
    command = [sys.executable, f"flows/{name}.py"]

    check = subprocess.run([*command, "check"], cwd=PROJECT, capture_output=True, text=True)
    show = subprocess.run([*command, "show"], cwd=PROJECT, capture_output=True, text=True)

    assert check.returncode == 0, check.stderr
    assert "DataFlow" in show.stdout + show.stderr
