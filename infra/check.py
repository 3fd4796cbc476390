"""`make infra-check`: check everything in infra/ that can be checked without a cluster. Prints one line per file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import kubernetes_validate
import yaml

from sohes.launch import Kind, KubernetesProfile, Task, load_profile
from sohes.launch.kubernetes import render_job, render_service

HERE = Path(__file__).parent
VERSION = "1.34"  # of Kubernetes


def check_manifests() -> None:
    for folder in sorted((HERE / "kubernetes").glob("*/")):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        for name in listed:
            assert (folder / name).exists(), f"{folder}/kustomization.yaml names {name}, which does not exist"
        unlisted = {path.name for path in folder.glob("*.yaml")} - set(listed) - {"kustomization.yaml"}
        assert not unlisted, f"{folder}/kustomization.yaml does not name {unlisted}"
        for path in sorted(folder.glob("[!k]*.yaml")):
            for manifest in yaml.safe_load_all(path.read_text()):
                kubernetes_validate.validate(manifest, VERSION, strict=True)
            print(f"{path.relative_to(HERE)}: valid")


def check_rendered_jobs() -> None:
    """Validate the Jobs that the launcher and the work pool render from their templates."""
    for path in sorted((HERE / "launch").glob("*.yaml")):
        profile = load_profile(HERE / "launch", path.stem)
        if isinstance(profile, KubernetesProfile):
            for kind in get_args(Kind):
                resources = getattr(profile, kind)
                root = Path(profile.volumes[0].path)
                task = Task("x", ("python", "-m", "sohes", "instruct"))
                job = render_job(task, "x", root, profile, resources, {}, submission="x", train=kind == "train")
                for manifest in (job, *render_service("x", profile, resources, submission="x")):
                    kubernetes_validate.validate(manifest, VERSION, strict=True)
        print(f"{path.relative_to(HERE)}: valid")
    path = HERE / "kubernetes/work-pool.json"
    kubernetes_validate.validate(render_work_pool(json.loads(path.read_text())), VERSION, strict=True)
    print(f"{path.relative_to(HERE)}: valid when rendered")


def render_work_pool(template: dict) -> dict:
    """The Job that the pool renders with its defaults."""
    properties = template["variables"]["properties"]
    text = json.dumps(template["job_configuration"]["job_manifest"])
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(properties), f"the work pool's template and its variables differ: {used ^ set(properties)}"

    def filled(match: re.Match[str]) -> str:
        value = properties[match[2]].get("default")
        # Prefect writes the environment as a list and leaves quantities unchanged.
        value = [{"name": k, "value": v} for k, v in value.items()] if match[2] == "env" else value
        return match[1] + json.dumps(str(value) if match[2] == "gpus" else value)

    text = re.sub(r'(: )"{{ (\w+) }}"', filled, text)
    text = re.sub(r"{{ (\w+) }}", lambda match: str(properties[match[1]]["default"]), text)
    return json.loads(text)


def check_automations() -> None:
    from prefect.events.schemas.automations import AutomationCore

    path = HERE / "prefect/automations.yaml"
    for automation in yaml.safe_load(path.read_text())["automations"]:
        AutomationCore.model_validate(automation)
    print(f"{path.relative_to(HERE)}: valid")


def check_compose() -> None:
    """No password has a default, and all ports are on loopback only."""
    path = HERE / "docker/compose.yaml"
    text = path.read_text()
    services = yaml.safe_load(text)["services"]
    defaults = re.findall(r"\$\{\w+(?!\w|:\?)[^}]*\}", text)
    assert not defaults, f"{path}: {defaults} must be required, as ${{NAME:?}}"
    open_ports = [port for service in services.values() for port in service.get("ports", []) if "127.0.0.1" not in port]
    assert not open_ports, f"{path}: {open_ports} must begin with 127.0.0.1"
    print(f"{path.relative_to(HERE)}: valid")


def check_dockerfile() -> None:
    path = HERE / "docker/Dockerfile"
    lines = path.read_text().splitlines()
    assert lines[2].startswith("ARG BASE="), f"{path}: the base must be an argument"
    assert any(line.startswith("USER 10001") for line in lines), f"{path}: must not run as root"
    installs = [line for line in lines if re.search(r"pip install", line)]
    assert all("--constraint constraints.txt" in line for line in installs), f"{path}: packages must be pinned"
    print(f"{path.relative_to(HERE)}: valid")


def check_scripts() -> None:
    scripts = [*sorted(HERE.rglob("*.sh")), HERE.parent / ".ci/run"]
    shellcheck = Path(sys.executable).parent / "shellcheck"
    subprocess.run([str(shellcheck), *map(str, scripts)], check=True)
    print(f"{len(scripts)} shell scripts: valid")


def main() -> int:
    try:
        for check in (
            check_manifests,
            check_rendered_jobs,
            check_automations,
            check_compose,
            check_dockerfile,
            check_scripts,
        ):
            check()
    except (AssertionError, ValueError, subprocess.CalledProcessError, kubernetes_validate.ValidationError) as error:
        print(f"infra-check: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
