"""Wheel and sdist as a packager builds them, and the wheel at work in a folder far from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from sohes.data.scenes.render import render_scene
from sohes.project import TEMPLATE, Project

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path, **environment: str) -> str:
    """What a command prints on both streams; it must end with 0."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        stdin=subprocess.DEVNULL, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}:\n{done.stdout}"
    return done.stdout


def build(what: str, source: Path, out: Path) -> Path:
    """Build an `sdist` or a `wheel` with the build tool that is installed, so without a network."""
    call = f"import sys; from setuptools import build_meta; print(build_meta.build_{what}(sys.argv[1]))"
    return out / run(sys.executable, "-c", call, out, cwd=source).splitlines()[-1]


@pytest.fixture(scope="module")
def tracked(repository) -> list[str]:
    """The checkout's files, whether they have been added to Git or not."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard")
    return [name for name in run(*command, cwd=repository).splitlines() if (repository / name).is_file()]


@pytest.fixture(scope="module")
def sdist(repository, tracked, tmp_path_factory) -> Path:
    source, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in tracked:  # a copy: the build writes beside the source, and reads what earlier builds have left there
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, source / name)
    return build("sdist", source, out)


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("wheel", source, sdist.parent)


@pytest.fixture(scope="module")
def installed(repository, wheel, tmp_path_factory) -> Callable[..., str]:
    """Runs `python ...` of an environment that holds the wheel, and sees this one's packages but not the checkout."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home)
    python = home / "bin/python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    site.joinpath("others.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files are not read
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    for file in (repository / "sohes").rglob("*.py"):  # numba keeps what it has compiled for a file of that time
        shutil.copystat(file, site / file.relative_to(repository))
    for compiled in (repository / "sohes").rglob("__pycache__/*.nb[ic]"):
        shutil.copy(compiled, site / compiled.relative_to(repository))
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def python_of_it(*arguments: object, cwd: Path) -> str:
        return run(python, *arguments, cwd=cwd, PATH=path, PYTHONPATH="", SOHES_WORKERS="1", DVC_NO_ANALYTICS="1")

    assert run(python, "-c", "import sohes; print(sohes.__file__)", cwd=home).strip() == str(site / "sohes/__init__.py")
    return python_of_it


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        Image.fromarray(render_scene(i, size=64, seed=0).image_HW3).save(folder / f"{i}.png")
    return folder


def test_the_sdist_holds_every_file_of_the_checkout(sdist, tracked):
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert sorted(set(tracked) - held) == []
    made = {name for name in held - set(tracked) if ".egg-info/" not in name}
    assert made == {"PKG-INFO", "setup.cfg"}


def test_the_wheel_holds_what_a_project_begins_with(wheel, repository):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        packed = {name.removeprefix("sohes/template/") for name in names if name.startswith("sohes/template/")}
        for name in packed:
            assert archive.read(f"sohes/template/{name}") == (repository / name).read_bytes()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    files = [TEMPLATE.params, TEMPLATE.graph, TEMPLATE.git_ignores, TEMPLATE.dvc_ignores, TEMPLATE.packs]
    files += [TEMPLATE.deployments, TEMPLATE.automations, TEMPLATE.pod_template, TEMPLATE.schema]
    for folder in (TEMPLATE.profiles, TEMPLATE.ablations, TEMPLATE.launch_profiles):
        found = list(folder.glob("*.yaml"))
        assert len(found) >= 3
        files += found
    assert {str(file.relative_to(TEMPLATE.root)) for file in files} <= packed
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"sohes", "flows"}
    for field in ("Author", "Keywords", "Classifier", "License-Expression", "Provides-Extra"):
        assert f"\n{field}: " in metadata
    assert "\nProject-URL: " not in metadata


def test_commands_work_far_from_the_checkout(installed, tmp_path, photos):
    assert "explore" in installed("-m", "sohes", "--help", cwd=tmp_path)
    assert installed("-m", "sohes", "--version", cwd=tmp_path).startswith("sohes ")
    assert "  In demo, " in installed("-m", "sohes", "params", "--explain", "explore.refiner", cwd=tmp_path)
    installed("-m", "sohes", "segment", "--explore", photos / "0.png", "--out", "masks", cwd=tmp_path)
    assert (tmp_path / "masks/0.json").exists()
    assert "made a project here: " in installed("-m", "sohes", "init", "--images", "photos", cwd=tmp_path)
    scripts = {path.name for path in Project(tmp_path).slurm_scripts.iterdir()}
    assert scripts == {path.name for path in TEMPLATE.slurm_scripts.iterdir()} == {"shards.sh", "train.sh"}
    assert installed("-m", "sohes", "params", "--schema", cwd=tmp_path) == Project(tmp_path).schema.read_text()
    assert "This machine can run params.yaml" in installed("-m", "sohes", "doctor", cwd=tmp_path)
    load = "import sohes; print('masks', len(sohes.load().segment('photos/0.png')))"
    assert int(installed("-c", load, cwd=tmp_path).split()[-1]) > 0
    assert "usage: " in installed("-m", "flows.pipeline", "--help", cwd=tmp_path)
    installed("-c", "import flows.ablate, flows.ablations, flows.deploy, flows.overhead, flows.ui", cwd=tmp_path)


def test_dvc_runs_the_stages_of_the_package_and_again_only_those_whose_code_changed(
    installed, tmp_path, photos, tiny_params
):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tiny_params))
    installed("-m", "sohes", "init", "--images", "photos", cwd=tmp_path)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["pull"]["folder"]["eval_fraction"] = 0.5
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    reproduce = ("-m", "dvc", "repro", "explore")
    assert "Running stage 'explore'" in installed(*reproduce, cwd=tmp_path)
    assert list((tmp_path / "data/pseudo_labels").glob("*.parquet"))
    assert "Stage 'explore' didn't change" in installed(*reproduce, cwd=tmp_path)
    code = Path(installed("-c", "import sohes.explore.local as m; print(m.__file__)", cwd=tmp_path).strip())
    text = code.read_text()
    try:
        code.write_text(f"{text}\n# another version\n")
        said = installed(*reproduce, cwd=tmp_path)
    finally:
        code.write_text(text)
    assert "Stage 'pull' didn't change" in said
    assert "Running stage 'explore'" in said
