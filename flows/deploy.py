"""Work pools and deployments on a Prefect server, for what one has:

    python -m flows.deploy [--name local] [--name slurm] [--root FOLDER]

`prefect deploy --all` wants the pool of every deployment, of a cluster too. Here each pool is made that a chosen
deployment of prefect.yaml names, and the automation that notices dead runs. To run it again brings all up to date:
what was changed in Prefect's pages and stands in our files is as in the files again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows.command import exit_code
from flows.server import require_server
from sohes.errors import SohesError
from sohes.launch import KubernetesProfile, LocalProfile, load_profile
from sohes.project import Project, read_json, read_mapping


def chosen(project: Project, names: Iterable[str]) -> list[dict[str, Any]]:
    """The deployments of prefect.yaml with these names, or without names all that need no cluster.

    SohesError names those that there are.
    """
    if not project.deployments.exists():
        raise SohesError(f"no prefect.yaml in {project.root}: run in the project's folder or name it with --root")
    known = {found["name"]: found for found in read_mapping(project.deployments)["deployments"]}
    if unknown := [name for name in names if name not in known]:
        raise SohesError(f"no deployment {unknown[0]!r} in {project.deployments} (there is: {', '.join(known)})")
    return [known[name] for name in names] or [
        found for found in known.values() if isinstance(_profile(project, found), LocalProfile)
    ]


def deploy(project: Project, deployments: list[dict[str, Any]]) -> None:
    """Make or update all of it on the server that PREFECT_API_URL names. SohesError if Prefect refuses."""
    with get_client(sync_client=True) as client:
        for deployment in deployments:
            _set_pool(client, deployment["work_pool"]["name"], project, deployment)
        for automation in read_mapping(project.automations)["automations"]:
            _set_automation(client, AutomationCore.model_validate(automation))
    wanted = [word for deployment in deployments for word in ("--name", deployment["name"])]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *wanted], cwd=project.root, check=False,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "1000"},
    )  # fmt: skip
    if done.returncode != 0:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise SohesError(f"Prefect does not deploy: {(said or ['no message'])[-1].strip()}")


def _set_pool(client: SyncPrefectClient, name: str, project: Project, deployment: dict[str, Any]) -> None:
    """Make the pool, or give it our template; that of a pool of processes is Prefect's own and stays."""
    ours = isinstance(_profile(project, deployment), KubernetesProfile)
    if ours:
        kind, template = "kubernetes", read_json(project.pod_template, "restore it from the repository")
    else:
        kind, template = ProcessWorker.type, ProcessWorker.get_default_base_job_template()
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
        return
    if found.type != kind:
        raise SohesError(
            f"the work pool {name} is of type {found.type}, but {deployment['name']} needs {kind}: delete it "
            f"(`prefect work-pool delete {name}`) and run the same command again"
        )
    if ours and found.base_job_template != template:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def _set_automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Make the automation, or set it as it stands in the file; one that somebody has switched off stays off."""
    known = client.read_automations_by_name(wanted.name)
    if not known:
        client.create_automation(wanted)
    for found in known:
        wanted.enabled = found.enabled
        if found.model_dump(include=set(AutomationCore.model_fields)) != wanted.model_dump():
            client.update_automation(found.id, wanted)


def _profile(project: Project, deployment: dict[str, Any]) -> object:
    return load_profile(project.launch_profiles, (deployment.get("parameters") or {}).get("launch"))


def main(arguments: list[str] | None = None) -> int:
    """Deploy and print what to start next; 0, or as every `sohes` command ends."""
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description="Pools and deployments for Prefect.")
    parser.add_argument("--name", action="append", default=[], help="of prefect.yaml; all that need no cluster")
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder")
    options = parser.parse_args(arguments)
    project = Project(options.root.resolve())

    def work() -> None:
        deployments = chosen(project, options.name)
        if not PREFECT_API_URL.value():
            raise SohesError("PREFECT_API_URL is not set: start a server, such as `make ui`, and name its API in it")
        require_server()
        deploy(project, deployments)
        print(f"Deployed {', '.join(deployment['name'] for deployment in deployments)}. Start what runs them:")
        for pool in dict.fromkeys(deployment["work_pool"]["name"] for deployment in deployments):
            print(f"  prefect worker start --pool {pool}")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
