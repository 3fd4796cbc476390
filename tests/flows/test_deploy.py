"""`python -m flows.deploy` and what the documentation says to do with it, on a real Prefect server."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest
import torch
import yaml
from packing import make_evaluated, make_project
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from processes import end_group, processes_with, until

import flows.deploy
from sohes.errors import SohesError
from sohes.params import Params
from sohes.project import Project
from sohes.tracking import tracking_uri

# Prefect and its server use what their dependencies have deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def documented(repository: Path) -> str:
    """The code block of docs/cluster.md about deployments."""
    section = (repository / "docs/cluster.md").read_text().partition("## Prefect\n")[2]
    (block,) = re.findall(r"^\n((?:    .+\n)+)", section, re.MULTILINE)[:1]
    return block


@pytest.fixture
def training(project: Path, tiny_params: dict, repository: Path) -> Path:
    """A project whose only stage trains for hours, and saves its state only when it is asked to stop."""
    make_project(project)
    tiny_params["instruct"] |= {"steps": 100_000, "checkpoint_every": 100_000, "workers": 1}
    return only(project, repository, "instruct", tiny_params)


@pytest.fixture
def reporting(project: Path, tiny_params: dict, tiny_model: Path, repository: Path, monkeypatch) -> Path:
    """A project whose only stage writes the report, for which it needs an hour."""
    monkeypatch.setenv("SOHES_WORKERS", "1")
    make_evaluated(project, Params.model_validate(tiny_params), tiny_model)
    (project / "sitecustomize.py").write_text(SLOW_REPORT)
    return only(project, repository, "report", tiny_params)


SLOW_REPORT = """
import sys

if sys.orig_argv[-1] == "report":
    import time

    import jinja2

    jinja2.Template.render = lambda *_, **__: time.sleep(3600)
"""


def only(project: Path, repository: Path, stage: str, params: dict) -> Path:
    """The project with one stage, and with what the flow needs."""
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {stage: stages[stage]}}))
    for name in ("prefect.yaml", "flows"):
        (project / name).symlink_to(repository / name)
    return project


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_documented_lines_run_a_pipeline_and_cancelling_it_in_training_loses_nothing(server, training, repository):
    cancel_the_documented_run(server, training, repository, "instruct", when=partial(recorded, training, "metrics"))
    assert "stopped on request after step" in (training / ".sohes/logs/instruct.log").read_text()
    # The state of the last step waits for the next run, and nothing else of the stage is there.
    assert torch.load(training / ".sohes/instruct/state.pt", weights_only=True)["step"] >= 10
    assert not list((training / "models").glob("instruct*"))
    assert not list(training.rglob("models/.*.*")) + list(training.rglob("metrics/.*.*"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_cancelling_a_report_leaves_none(server, reporting, repository):
    before = {path for path in reporting.rglob("*") if ".sohes" not in path.parts}
    begun = partial(recorded, reporting, "tags", "key = 'sohes.process'")
    cancel_the_documented_run(server, reporting, repository, "report", when=begun)
    assert not list(reporting.glob("reports/*")) + list(reporting.rglob("metrics/**/.*.*"))
    assert not Project(reporting).cost("report").exists()
    assert before <= set(reporting.rglob("*"))


def cancel_the_documented_run(
    server: dict[str, str], root: Path, repository: Path, stage: str, *, when: Callable[[], bool]
) -> None:
    """Start the project's one stage as documented and cancel it: nobody is left, and MLflow and DVC know."""
    lines = documented(repository)
    for wanted in ("python -m flows.deploy --name", "prefect worker start --pool", "prefect deployment run"):
        assert wanted in lines
    lines = lines.replace("http://127.0.0.1:4200/api", server["PREFECT_API_URL"])  # not a port that may be in use
    environment = {**server, "PYTHONPATH": str(root), "SOHES_TRACKING": "on", "SOHES_WORKERS": "1"}
    del environment["PREFECT_API_URL"]  # the lines set it
    script = ["bash", "-euc", lines + "wait"]
    with (root / "told.txt").open("wb") as told:
        shell = subprocess.Popen(
            script, cwd=root, env=environment, stdout=told, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        with get_client(sync_client=True) as client:
            before = {run.id for run in client.read_flow_runs()}
            until(lambda: new_runs(client, before), f"nothing runs: {root / 'told.txt'}", shell)
            (run,) = new_runs(client, before)
            until(lambda: when() or client.read_flow_run(run.id).state.is_final(), "it does not begin", shell)
            assert not client.read_flow_run(run.id).state.is_final(), client.read_flow_run(run.id).state.message
            cancel = [sys.executable, "-m", "prefect", "flow-run", "cancel", str(run.id)]
            subprocess.run(cancel, env=server, check=True)
            until(lambda: client.read_flow_run(run.id).state.is_final(), "it is not cancelled", shell)
            assert client.read_flow_run(run.id).state.is_cancelled()
            assert [pool.name for pool in client.read_work_pools()] == ["sohes"]
            assert len(client.read_automations_by_name("sohes-dead-runs")) == 1
        assert not processes_with(f"PYTHONPATH={root}", stage)
    finally:
        end_group(shell, signal.SIGINT)
        for pid in processes_with(f"PYTHONPATH={root}"):  # none, unless the run did not end
            os.kill(pid, signal.SIGKILL)
    assert statuses(root) == {stage: "KILLED", "pipeline": "KILLED"}
    # DVC has recorded nothing and is free to go on.
    assert not (root / "dvc.lock").exists()
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=root, capture_output=True, text=True, check=True
    )
    assert list(json.loads(status.stdout)) == [stage]


def new_runs(client: SyncPrefectClient, before: set[UUID]) -> list[FlowRun]:
    return [run for run in client.read_flow_runs() if run.id not in before]


def records(root: Path) -> list:
    """All of the project's MLflow runs."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri(root))
    return list(client.search_runs([experiment.experiment_id for experiment in client.search_experiments()]))


def recorded(root: Path, table: str, condition: str = "true") -> bool:
    """Whether MLflow has such a row. Not by its client, which would help to make the tables."""
    try:
        with closing(sqlite3.connect(f"file:{Project(root).database}?mode=ro", uri=True)) as database:
            return database.execute(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError:  # there is no such file or table yet
        return False


def statuses(root: Path) -> dict[str, str]:
    return {run.data.tags.get("sohes.stage", "pipeline"): run.info.status for run in records(root)}


def test_what_is_wrong_is_one_sentence(tmp_path, repository, capsys):
    with temporary_settings(restore_defaults={PREFECT_API_URL}):  # of the server that other tests share
        assert flows.deploy.main(["--root", str(tmp_path)]) == 1
        assert flows.deploy.main(["--root", str(repository), "--name", "moon"]) == 1
        assert flows.deploy.main(["--root", str(repository)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert told[0].startswith("sohes: no prefect.yaml in")
    assert "no deployment 'moon' in" in told[1]
    assert "there is: local, nightly" in told[1]
    assert "PREFECT_API_URL is not set: start a server" in told[2]


@pytest.fixture
def deployed(prefect_server, tmp_path, repository, monkeypatch):
    """Deploys to a real server from a copy of our files, but makes no deployments; with a client, and the copy."""
    for name in ("prefect.yaml", "infra"):
        copy = shutil.copytree if (repository / name).is_dir() else shutil.copy
        copy(repository / name, tmp_path / name)
    monkeypatch.setattr(flows.deploy.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    project = Project(tmp_path)
    with get_client(sync_client=True) as client:

        def deploy() -> None:
            flows.deploy.deploy(project, flows.deploy.chosen(project, ["local", "kubernetes"]))

        yield client, project, deploy
        for pool in client.read_work_pools():
            client.delete_work_pool(pool.name)
        for automation in client.read_automations_by_name("sohes-dead-runs"):
            client.delete_automation(automation.id)


def test_a_pool_that_prefects_own_worker_has_made_gets_the_projects_volume(deployed):
    client, project, deploy = deployed
    own = {"job_configuration": {"command": "prefect"}, "variables": {"type": "object", "properties": {}}}
    client.create_work_pool(WorkPoolCreate(name="sohes-kubernetes", type="kubernetes", base_job_template=own))
    deploy()
    template = client.read_work_pool("sohes-kubernetes").base_job_template
    assert template == json.loads(project.pod_template.read_text())


def test_run_again_it_brings_pool_and_automation_up_to_date_and_changes_nothing_else(deployed, monkeypatch):
    client, project, deploy = deployed
    deploy()
    mine = client.read_work_pool("sohes").base_job_template | {"job_configuration": {"command": "nice prefect"}}
    client.update_work_pool("sohes", WorkPoolUpdate(base_job_template=mine))
    (automation,) = client.read_automations_by_name("sohes-dead-runs")
    client.pause_automation(automation.id)
    project.pod_template.write_text(project.pod_template.read_text().replace('"default": "4Gi"', '"default": "8Gi"'))
    project.automations.write_text(project.automations.read_text().replace("within: 180", "within: 360"))
    deploy()
    template = client.read_work_pool("sohes-kubernetes").base_job_template
    assert template["variables"]["properties"]["memory"]["default"] == "8Gi"
    assert client.read_work_pool("sohes").base_job_template == mine  # of processes: nothing in it is ours
    (automation,) = client.read_automations_by_name("sohes-dead-runs")
    assert automation.trigger.within.total_seconds() == 360
    assert not automation.enabled
    for change in ("update_work_pool", "update_automation", "create_automation", "create_work_pool"):
        monkeypatch.setattr(SyncPrefectClient, change, None)
    deploy()  # nothing is left to do


def test_a_pool_of_another_type_is_one_sentence(deployed):
    client, _, deploy = deployed
    client.create_work_pool(WorkPoolCreate(name="sohes-kubernetes", type="process"))
    with pytest.raises(SohesError, match="the work pool sohes-kubernetes is of type process, but kubernetes needs kub"):
        deploy()


def test_without_a_name_it_is_all_that_needs_no_cluster(repository):
    names = [found["name"] for found in flows.deploy.chosen(Project(repository), [])]
    assert names == ["local", "nightly", "explore", "evaluate"]
    assert [found["name"] for found in flows.deploy.chosen(Project(repository), ["slurm"])] == ["slurm"]


@pytest.mark.parametrize("parameters", [{}, {"parameters": None}, {"parameters": {"root": "."}}])
def test_a_deployment_without_a_profile_runs_where_its_flow_would(tmp_path, repository, monkeypatch, parameters):
    monkeypatch.delenv("SOHES_LAUNCH", raising=False)
    shutil.copytree(repository / "infra/launch", tmp_path / "infra/launch")
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [{"name": "mine", **parameters}]}))
    assert [found["name"] for found in flows.deploy.chosen(Project(tmp_path), [])] == ["mine"]
