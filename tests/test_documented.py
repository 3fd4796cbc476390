"""The commands of the documentation: each is run as it stands there, or `documented.yaml` says where, or why not."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from processes import answers, end_group, free_port
from typer.testing import CliRunner

from sohes import cli
from sohes.bench.viewer import chromium
from sohes.data.store.labels import export_coco
from sohes.errors import SohesError
from sohes.masks import mask_set
from sohes.project import Project
from sohes.structures import ImageRecord

PROGRAMS = (
    "sohes",
    "make",
    "dvc",
    "prefect",
    "mlflow",
    "python",
    "pip",
    "uv",
    "hf",
    "kubectl",
    "sbatch",
    "docker",
    "git",
)
COMMAND = re.compile(rf"(?:{'|'.join(PROGRAMS)}) [-\w.]")
HISTORY_AND_REFERENCE = ("log.md", "cli.md")  # what was run once; what `--help` says
SHELL = ("export ", "source ", "printf ", "curl ")  # lines that only prepare or surround a command
STANDS_FOR = {
    "KEY": "explore.theta_merge", "NAME": "lvis", "FILE": "labels.json", "PREDICTIONS": "labels.json",
    "OTHERS": "labels.json", "COMMAND": "table", "STAGE": "explore", "K": "0", "DIR": "~/photos",
}  # fmt: skip
PHOTOGRAPHS = ("000000000139.jpg", "000000000285.jpg", "000000000632.jpg", "000000000724.jpg")


def commands(page: str) -> Iterator[str]:
    """Every command line of a page: in code blocks all, in running text those with an argument."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if language == "bash":
            yield from _lines(block.replace("\\\n", " ").splitlines())
        if language == "console":
            yield from _lines(line[2:] for line in block.splitlines() if line.startswith("$ "))
    text = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    yield from _lines(line[4:] for line in text.splitlines() if line[:4] == "    " and COMMAND.match(line[4:]))
    for named in re.findall(r"`([^`\n]+)`", text):
        # `sohes segment` names a command; one of theirs is run as it stands.
        if COMMAND.match(named) and not named.endswith("...") and (named[:6] != "sohes " or len(named.split()) > 2):
            yield named


def _lines(code: Iterator[str] | list[str]) -> Iterator[str]:
    for line in code:
        command = " ".join(re.sub(r"(^|\s)#.*", "", line).split())
        if command and not command.startswith(SHELL):
            yield command


@pytest.fixture(scope="module")
def documented(repository) -> dict:
    return yaml.safe_load((repository / "tests/documented.yaml").read_text())


def test_every_command_is_run_or_it_is_said_why_not(repository, documented):
    pages = [page for page in (repository / "docs").glob("*.md") if page.name not in HISTORY_AND_REFERENCE]
    pages += [repository / "README.md", repository / "CONTRIBUTING.md"]
    shown = {command for page in pages for command in commands(page.read_text())}
    known = [*documented["here"], *documented["elsewhere"], *documented["not_run"]]
    assert len(known) == len(set(known))
    assert sorted(shown - set(known)) == [], "in the documentation, but not in tests/documented.yaml"
    assert sorted(set(known) - shown) == [], "in tests/documented.yaml, but not in the documentation"


def test_what_runs_a_command_elsewhere_is_there(repository, documented):
    for command, where in documented["elsewhere"].items():
        file, _, test = where.partition("::")
        text = (repository / file).read_text()
        assert (f"def {test}(" if test else command) in text, f"{command}: {where}"


@pytest.fixture
def home(tmp_path_factory, monkeypatch) -> Path:
    """A home folder with photographs of one bright square each, which COCO and LVIS have annotated."""
    home = tmp_path_factory.mktemp("home")
    (home / "coco/val2017").mkdir(parents=True)
    records, random = [], np.random.default_rng(0)
    for number, name in enumerate(PHOTOGRAPHS):
        drawn = np.zeros((1, 64, 96), bool)
        drawn[0, 16:56, 10 * number : 10 * number + 40] = True
        pixels = random.integers(0, 40, (64, 96, 3)) + 180 * drawn[0, :, :, None]
        Image.fromarray(pixels.astype(np.uint8)).save(home / "coco/val2017" / name, quality=95)
        records.append(ImageRecord(int(name[:12]), name, "", mask_set(drawn)))
    export_coco(records, home / "coco/annotations/instances_val2017.json")
    shutil.copytree(home / "coco", home / "lvis")
    lvis = json.loads((home / "coco/annotations/instances_val2017.json").read_text())
    for image in lvis["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"
    (home / "lvis/annotations/lvis_v1_val.json").write_text(json.dumps(lvis))
    shutil.copytree(home / "coco/val2017", home / "photos")
    monkeypatch.setenv("HOME", str(home))
    return home


@pytest.fixture
def folder(project, tiny_params, home, repository, monkeypatch) -> Path:
    """A project with every profile cut down to seconds, and a photograph."""
    tiny_params["pull"]["source"] = "folder"
    tiny_params["pull"]["folder"] |= {"images": str(home / "photos"), "eval_fraction": 0.5}
    tiny_params["explore"]["image_size"] = 128  # `sohes calibrate` looks for 200 regions
    (project / "params").mkdir()
    for profile in ("photographs", "paper", "released", "one-gpu"):
        (project / f"params/{profile}.yaml").write_text(yaml.safe_dump(tiny_params))
    shutil.copy(repository / "params/schema.json", project / "params")
    tiny_params["pull"] |= {"source": "scenes"}
    (project / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    shutil.copy(home / "photos" / PHOTOGRAPHS[0], project / "cat.jpg")
    monkeypatch.chdir(project)
    for name, value in {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{project}{os.pathsep}{repository}",  # the copy has no flows
        "SOHES_WORKERS": "1",
        "BROWSER": "true",  # what `sohes view` opens
        "COLUMNS": "80",
    }.items():
        monkeypatch.setenv(name, value)
    return project


@pytest.fixture
def browser() -> Iterator:
    """None where there is none, which the tests of the viewer say."""
    with ExitStack() as stack:
        found = None
        with suppress(SohesError):
            found = stack.enter_context(chromium())
        yield found


@pytest.mark.slow
def test_every_command_of_the_documentation_works_as_written(folder, documented, browser):
    """In the order of the file, so that one finds what those before it have made."""
    for command in documented["here"]:
        if command.startswith("sohes view"):
            opened(command, browser)
            continue
        for word, meant in STANDS_FOR.items():
            command = re.sub(rf"\b{word}\b", meant, command)
        if "corrected.json" in command:  # what a person has made of the labels
            shutil.copy("labels.json", "corrected.json")
        said = shown(command)
        if command == "dvc repro":
            commit_all()
            look(browser, Project(folder).report.as_uri(), "h1")
        if command == "dvc metrics show":
            assert re.search(r"metrics/recall.json +[\d.]+ +[\d.]+ +[\d.]+", said), said
    assert json.loads(Path("ours.json").read_text())["AR"] > 10  # phase 1 finds bright squares


def shown(command: str) -> str:
    """What a command line says; one of `sohes` runs in this process, which saves seconds of imports."""
    said = ""
    for part in command.split(" && ") if command.startswith("sohes ") else [command]:
        if part.startswith("sohes ") and "--debug" not in part:  # which stays in the environment
            words = [str(Path(word).expanduser()) if word[:1] == "~" else word for word in shlex.split(part)[1:]]
            result = CliRunner().invoke(cli.app, words)
            assert result.exit_code == 0, f"{command}:\n{result.output}\n{result.exception!r}"
            said += result.output
        else:
            done = subprocess.run(part, shell=True, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
            said += done.stdout
    return said


def commit_all() -> None:
    Path(".gitignore").write_text("/data\n/models\n/predictions\n/sohes\n/infra\n/.sohes\n/reports\n")
    subprocess.run(["git", "add", "--all"], check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", "the first run"], check=True)


def look(browser, address: str, wanted: str) -> None:
    """Open a page at the width of a desktop and a phone: empty console, no other hosts, no overflow."""
    for width in (1280, 390) if browser else ():
        page, said, asked = browser.new_page(viewport={"width": width, "height": 800}), [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector(wanted)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
        assert said == []
        assert not [url for url in asked if not url.startswith(("file:", "data:", "http://127.0.0.1:"))]


def opened(command: str, browser) -> None:
    """The page of `sohes view`."""
    command = command.replace("--port 8000", f"--port {free_port()}")
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        assert answers(address)
        look(browser, address, "body[data-ready=yes] .panel")
    finally:
        end_group(process)
        process.stdout.close()
