"""What stands around the code for others' services: each does what the Makefile and `.ci/run` do, and no more."""

import json
import os
import re
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet


@pytest.fixture(scope="module")
def allowed(repository) -> SpecifierSet:
    return SpecifierSet(tomllib.loads((repository / "pyproject.toml").read_text())["project"]["requires-python"])


def test_githubs_workflow_runs_ci_with_a_python_that_is_allowed_and_no_secret(repository, allowed):
    text = (repository / ".github/workflows/ci.yml").read_text()
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(repository / ".ci/run", os.X_OK)
    (python,) = (step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", ""))
    assert python in allowed
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets" not in text


def test_the_dev_container_installs_as_the_makefile_does_with_a_python_that_is_allowed(repository, allowed):
    container = json.loads((repository / ".devcontainer/devcontainer.json").read_text())
    assert container["image"].removeprefix("python:") in allowed
    target = container["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"^{target}: ", (repository / "Makefile").read_text(), re.MULTILINE)
