"""`jollyboat cluster export` in a generated project, with a bucket on this machine and no cluster."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from itertools import pairwise
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from runs import read_guide, take, type_in
from s3_server import client, s3_server

import demo

FLOWS = ["data", "train", "deploy", "score", "monitor"]
GUIDE = demo.HERE / "docs/how-to/run-on-a-cluster.md"


@pytest.fixture(scope="module")
def bucket():
    """The environment that makes an S3 server on this machine the project's bucket."""
    with s3_server() as variables:
        client(variables).create_bucket(Bucket="bucket")
        yield variables | {"STORE_REMOTE": "s3://bucket/shop"}


@pytest.fixture(scope="module")
def shop(template, bucket, tmp_path_factory) -> Path:
    """A generated project in which the guide was followed to the letter, and nothing was built."""
    folder = tmp_path_factory.mktemp("cluster")
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "-o", folder, template]
    subprocess.run(command, env=os.environ | {"HOME": str(folder)}, check=True)
    project = folder / "shop_intent"
    (project / ".venv").symlink_to(sys.prefix)
    for step in read_guide(GUIDE):
        take(step, project)
        if step.kind == "diff":
            settings = project / "project.toml"
            named = settings.read_text().replace("[cluster]", '[cluster]\nenvironment = ["TEAM"]')
            settings.write_text(named)
        if step.kind == "sh":
            result = type_in(project, step.text, TEAM="growth", **bucket)
            assert result.returncode == 0, result.stdout
    return project


@pytest.fixture(scope="module")
def aws(bucket) -> dict[str, str]:
    """The variables that the guide names for Step Functions, of a queue on this machine."""
    section = GUIDE.read_text().split("`--step-functions`")[1].split("## ")[0]
    needed = dict.fromkeys(re.findall(r"METAFLOW_\w+", section), "arn:aws:iam::1:role/shop")
    return needed | {"METAFLOW_BATCH_JOB_QUEUE": create_queue(bucket)}


def export(project: Path, options: str = "", **environment: str) -> subprocess.CompletedProcess:
    """What `jollyboat cluster export` prints in the project."""
    command = f".venv/bin/jollyboat cluster export {options}"
    return type_in(project, command, TEAM="growth", **environment)


def create_queue(variables: dict[str, str]) -> str:
    """The name of a new queue of AWS Batch in the server behind the bucket."""
    role = client(variables, "iam").create_role(RoleName="shop", AssumeRolePolicyDocument="{}")
    network = client(variables, "ec2")
    batch = client(variables, "batch")
    machines = batch.create_compute_environment(
        computeEnvironmentName="shop",
        type="MANAGED",
        serviceRole=role["Role"]["Arn"],
        computeResources={
            "type": "FARGATE",
            "maxvCpus": 4,
            "subnets": [network.describe_subnets()["Subnets"][0]["SubnetId"]],
            "securityGroupIds": [
                network.describe_security_groups()["SecurityGroups"][0]["GroupId"]
            ],
        },
    )
    order = [{"order": 1, "computeEnvironment": machines["computeEnvironmentArn"]}]
    queue = batch.create_job_queue(
        jobQueueName="shop", state="ENABLED", priority=1, computeEnvironmentOrder=order
    )
    return queue["jobQueueName"]


@pytest.fixture(scope="module")
def exported(shop) -> dict[str, list[dict]]:
    """The objects of each file that the guide's export wrote, by the file's name."""
    files = [*(shop / "cluster/argo").iterdir(), shop / "cluster/server.yaml"]
    return {file.stem: list(yaml.safe_load_all(file.read_text())) for file in files}


@pytest.fixture(scope="module")
def of_churn(shop, bucket, tmp_path_factory) -> dict[str, list[dict]]:
    """The objects of each file of a project with a second question, by the file's name."""
    folder = tmp_path_factory.mktemp("questions")
    project = Path(shutil.copytree(shop, folder / "shop", symlinks=True))
    with (project / "project.toml").open("a") as file:
        file.write('\n[questions.churn]\nentity = "user"\noutcome = "churn"\n')
    result = export(project, **bucket)
    assert result.returncode == 0, result.stdout
    files = (project / "cluster/argo").iterdir()
    return {file.stem: list(yaml.safe_load_all(file.read_text())) for file in files}


def test_a_further_question_has_flows_of_its_own_after_the_one_data_run(of_churn):
    own = ["train-churn", "deploy-churn", "score-churn", "monitor-churn"]
    events = ["DataFlow", "churn.TrainFlow", "churn.DeployFlow", "churn.ScoreFlow"]

    assert set(of_churn) == {*FLOWS, *own}
    for name, event in zip(own, events, strict=True):
        template, sensor = of_churn[name]
        (dependency,) = sensor["spec"]["dependencies"]
        expression = f"name == 'metaflow.shop_intent.prod.{event}.end'"
        assert dependency["filters"]["exprs"][0]["expr"] == expression
        flow = f"{name.removesuffix('-churn')}flow"
        assert template["metadata"]["name"] == f"shopintent.prod.churn.{flow}"
        values = {
            each["name"]: each["value"] for each in template["spec"]["arguments"]["parameters"]
        }
        assert json.loads(values["question"]) == "churn"


def steps_of(objects: list[dict]) -> dict[str, dict]:
    """The templates of a flow that are containers, by step."""
    templates = objects[0]["spec"]["templates"]
    return {each["name"]: each for each in templates if "container" in each}


def test_each_flow_has_a_file_with_its_template_and_with_what_starts_it(exported):
    kinds = {name: [each["kind"] for each in exported[name]] for name in FLOWS}

    assert set(exported) == {*FLOWS, "server"}
    assert kinds.pop("data") == ["WorkflowTemplate", "CronWorkflow"]
    assert set(map(tuple, kinds.values())) == {("WorkflowTemplate", "Sensor")}


def test_names_are_the_projects_so_that_another_project_has_others(exported):
    names = {name: exported[name][0]["metadata"]["name"] for name in FLOWS}
    annotations = exported["train"][0]["metadata"]["annotations"]

    assert names == {name: f"shopintent.prod.{name}flow" for name in FLOWS}
    assert annotations["metaflow/project_flow_name"] == "shop_intent.prod.TrainFlow"
    assert annotations["metaflow/production_token"] == "shop_intent"
    assert {each["metadata"]["namespace"] for name in exported for each in exported[name]} == {
        "shop"
    }


def test_the_first_flow_starts_by_the_clock_and_no_two_of_its_runs_overlap(exported):
    cron = exported["data"][1]["spec"]

    assert cron["schedules"] == ["30 5 * * *"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert cron["workflowSpec"] == {"workflowTemplateRef": {"name": "shopintent.prod.dataflow"}}


def test_each_other_flow_starts_when_the_one_before_it_in_its_project_has_ended(exported):
    for before, after in pairwise(FLOWS):
        sensor = exported[after][1]["spec"]
        (dependency,) = sensor["dependencies"]
        (trigger,) = sensor["triggers"]
        source = trigger["template"]["k8s"]["source"]["resource"]["spec"]

        event = f"metaflow.shop_intent.prod.{before.capitalize()}Flow.end"
        assert dependency["filters"]["exprs"][0]["expr"] == f"name == '{event}'"
        assert source["workflowTemplateRef"] == {"name": f"shopintent.prod.{after}flow"}


def test_every_step_has_the_image_the_secrets_and_limits(exported):
    steps = [step["container"] for name in FLOWS for step in steps_of(exported[name]).values()]

    assert len(steps) == 12
    assert {step["image"] for step in steps} == {"registry.example.com/shop:1"}
    for step in steps:
        assert step["envFrom"] == [{"secretRef": {"name": "shop-secrets"}}]
        assert step["resources"]["limits"] == step["resources"]["requests"]


def test_a_step_has_the_resources_of_the_settings_and_else_what_it_takes(exported):
    def limits(flow: str, step: str) -> tuple[str, str]:
        needs = steps_of(exported[flow])[step]["container"]["resources"]["limits"]
        return needs["cpu"], needs["memory"]

    assert limits("train", "fit") == ("4.0", "16384.0M")
    assert limits("train", "compare") == limits("data", "start") == ("2.0", "8192.0M")
    assert limits("score", "start") == ("1.0", "4096.0M")


def test_containers_get_the_bucket_and_the_named_variables_but_no_credentials(exported, bucket):
    container = steps_of(exported["score"])["start"]["container"]
    variables = {each["name"]: each.get("value") for each in container["env"]}

    assert variables["STORE_REMOTE"] == "s3://bucket/shop"
    assert (
        variables["AWS_ENDPOINT_URL"]
        == variables["METAFLOW_S3_ENDPOINT_URL"]
        == bucket["AWS_ENDPOINT_URL"]
    )
    assert variables["TEAM"] == "growth"
    assert variables["JOLLYBOAT_CLUSTER"] == "argo"
    assert "METAFLOW_SKIP_INSTALL_DEPENDENCIES" in variables
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & set(variables)


def test_the_code_package_has_what_a_flow_needs_of_the_project(exported, bucket):
    container = steps_of(exported["deploy"])["start"]["container"]
    (url,) = [each["value"] for each in container["env"] if each["name"] == "METAFLOW_CODE_URL"]

    body = (
        client(bucket)
        .get_object(Bucket="bucket", Key=url.removeprefix("s3://bucket/"))["Body"]
        .read()
    )
    with tarfile.open(fileobj=io.BytesIO(body)) as package:
        names = package.getnames()

    assert url.startswith("s3://bucket/shop/.metaflow/DeployFlow/")
    needed = "deploy.py project.toml profiles.yml dbt/dbt_project.yml ml/candidates.py"
    assert {*needed.split(), "expectations/events.json"} <= set(names)
    assert {"data", "vendor"}.isdisjoint(name.partition("/")[0] for name in names)


def run_step(step: dict, folder: Path, bucket: dict[str, str]) -> subprocess.CompletedProcess:
    """What a step's own command prints in an empty folder, with the template's environment alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    values = {each["name"]: each.get("value", "pod") for each in step["container"]["env"]}
    secrets = {name: bucket[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [re.sub(r"{{=toBase64.*?}}", "IiI=", text) for text in step["container"]["command"]]
    command = [text.replace("/tmp/", f"{shlex.quote(str(folder))}/") for text in command]
    return subprocess.run(
        [text.replace("{{workflow.name}}", "w").replace("{{retries}}", "0") for text in command],
        cwd=folder,
        env=values | secrets | {"PATH": path, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_refusal_on_a_cluster_is_a_sentence_and_is_not_tried_again(exported, bucket, tmp_path):
    step = steps_of(exported["data"])["start"]

    result = run_step(step, tmp_path / "pod", bucket)

    assert "No raw logs" in result.stdout
    assert "Traceback" not in result.stdout
    assert step["retryStrategy"]["limit"] == 2
    assert step["retryStrategy"]["expression"] == f"lastRetry.exitCode != '{result.returncode}'"


def test_a_package_that_a_container_cannot_read_is_no_refusal(exported, bucket, tmp_path):
    step = steps_of(exported["data"])["start"]
    wrong = [text.replace("tar -xzf job.tar", "false") for text in step["container"]["command"]]
    broken = step | {"container": step["container"] | {"command": wrong}}

    result = run_step(broken, tmp_path / "pod", bucket)

    assert result.returncode not in (0, 202)


def test_the_servers_manifests_follow_the_schemas_of_kubernetes(exported):
    version = kubernetes_validate.latest_version()

    assert [each["kind"] for each in exported["server"]] == [
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
    ]
    for each in exported["server"]:
        kubernetes_validate.validate(each, version, strict=True)


def test_a_manifest_with_a_misspelt_key_is_refused(exported):
    wrong = exported["server"][0] | {"specification": {}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_server_is_not_root_writes_its_log_and_has_time_to_end(exported, template):
    deployment, service, autoscaler = exported["server"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    image = (template / demo.TEMPLATE / "Dockerfile").read_text()

    assert pod["securityContext"]["runAsNonRoot"]
    assert f"--uid {pod['securityContext']['runAsUser']} " in image
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/app/data"}]
    assert pod["volumes"] == [{"name": "data", "emptyDir": {}}]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    leaving = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > leaving + 10
    assert container["envFrom"] == [{"secretRef": {"name": "shop-secrets"}}]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_airflow_gets_the_chain_as_sensors_and_no_retries(shop):
    text = (shop / "cluster/airflow/train.py").read_text()

    assert "'external_dag_id': 'shop_intent.prod.DataFlow'" in text
    assert "'schedule_interval': '30 5 * * *'" in text
    assert "'retries': 0" in text


def test_a_colleague_exports_to_airflow_after_the_first_without_a_token(shop, bucket, tmp_path):
    options = f"--airflow --to {tmp_path}"

    result = export(shop, options, HOME=str(tmp_path), USER="colleague", **bucket)

    assert result.returncode == 0, result.stdout
    assert {path.stem for path in (tmp_path / "airflow").iterdir()} == set(FLOWS)
    assert not (tmp_path / ".metaflowconfig").exists()


def test_step_functions_gets_a_state_machine_for_each_flow_and_the_guide_names_its_needs(
    shop, bucket, aws, tmp_path
):
    result = export(shop, f"--step-functions --to {tmp_path}", **bucket, **aws)

    assert result.returncode == 0, result.stdout
    for name in FLOWS:
        machine = json.loads((tmp_path / f"step-functions/{name}.json").read_text())
        state = machine["States"][machine["StartAt"]]
        assert state["Resource"].startswith("arn:aws:states:::batch:submitJob")
        assert not state.get("Retry") or state["Parameters"]["RetryStrategy"]["Attempts"] == 1


@pytest.mark.parametrize("scheduler", ["step-functions", "airflow"])
def test_the_shards_of_a_data_run_fan_out_on_other_schedulers_too(
    scheduler, shop, bucket, aws, tmp_path
):
    own = Path(shutil.copytree(shop, tmp_path / "own", symlinks=True))
    text = (own / "project.toml").read_text()
    (own / "project.toml").write_text(text.replace("[cluster]", "[cluster]\ndata_shards = 2"))

    result = export(own, f"--{scheduler} --to {tmp_path}", **bucket, **aws)

    assert result.returncode == 0, result.stdout
    (flow,) = (tmp_path / scheduler).glob("data.*")
    for step in ("read", "build_events", "build_tables", "publish"):
        assert f"step {step}" in flow.read_text()


def test_a_step_that_a_flow_does_not_have_is_refused(shop, bucket, tmp_path):
    own = Path(shutil.copytree(shop, tmp_path / "own", symlinks=True))
    text = (own / "project.toml").read_text()
    (own / "project.toml").write_text(
        text.replace("[resources.train.fit]", "[resources.train.fitt]")
    )

    result = export(own, **bucket)

    assert result.returncode == 1
    sentence = "[resources.train.fitt] of project.toml: no such step. Did you mean fit?"
    assert sentence in demo.unwrap(result.stdout)
    assert "Traceback" not in result.stdout


def test_a_bucket_that_does_not_exist_is_named_at_once(shop, bucket):
    result = export(shop, **bucket | {"STORE_REMOTE": "s3://nothing/shop"})

    assert result.returncode == 1
    assert "The bucket s3://nothing/shop/.metaflow: there is no such bucket" in demo.unwrap(
        result.stdout
    )
