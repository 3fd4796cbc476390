import getpass
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sohes.work.surroundings import cache_home, may_write, settle, temporary_home


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
    """None of the caller's; temporary files below `tmp_path`. What `settle` sets is gone after the test."""
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY",
                 "no_proxy"):  # fmt: skip
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    temporary_home.cache_clear()
    yield
    temporary_home.cache_clear()


def test_a_home_that_can_be_written_to_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "not/made/yet"))
    before = dict(os.environ)
    settle()
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == [tmp_path / "temporary"]  # nothing was made


def test_without_a_home_libraries_get_a_private_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    settle()
    home = tmp_path / f"temporary/sohes-{os.getuid()}"
    assert cache_home() == temporary_home() == home
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert Path(os.environ["MPLCONFIGDIR"]).parent == home
    assert os.environ["HOME"] == "/proc/nowhere"  # credentials may lie there


def test_a_cache_folder_that_the_user_has_named_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    settle()
    assert cache_home() == tmp_path / "mine"


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_a_folder_that_somebody_else_may_have_prepared_is_not_used(tmp_path, kind):
    place = tmp_path / f"temporary/sohes-{os.getuid()}"
    if kind == "open to others":
        place.mkdir()
        place.chmod(0o777)
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.touch()
    assert temporary_home() is None


def test_a_user_that_the_system_does_not_know_gets_a_name_and_a_home(monkeypatch, tmp_path):
    def unknown(*_):
        raise KeyError("uid not found")

    monkeypatch.setenv("LOGNAME", "")
    monkeypatch.setenv("HOME", "gone")
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    settle()
    assert getpass.getuser() == f"user-{os.getuid()}"
    assert Path.home() == temporary_home()
    assert may_write(cache_home())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, "127.0.0.1,localhost,::1"),
        ({"http_proxy": "http://proxy:3128", "NO_PROXY": "intranet, localhost"}, "intranet,localhost,127.0.0.1,::1"),
        ({"all_proxy": "socks5://proxy", "no_proxy": "*"}, "*"),
    ],
)
def test_this_machines_servers_are_reached_without_a_proxy(monkeypatch, given, expected):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settle()
    assert os.environ.get("no_proxy") == expected
    if expected and expected != "*":
        assert os.environ["NO_PROXY"] == expected


def as_somebody_else(command: list[str], package: Path, home: str, temporary: Path) -> subprocess.CompletedProcess:
    """Run it as a user without a name, who may read everything and write nothing but temporary files."""
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv to become somebody else")
        only_read = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
        command = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *only_read,
                   "--bounding-set=-all,+dac_read_search", *command]  # fmt: skip
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package), "HOME": home, "TMPDIR": str(temporary)}
    return subprocess.run(command, env=environment, cwd=temporary, capture_output=True, text=True, check=False)


@pytest.fixture
def package(repository, tmp_path) -> Path:
    """A copy of the package that nobody can write to."""
    folder = tmp_path / "package"
    for name in ("sohes", "params", "infra"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", "prefect.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(repository / name, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def test_a_read_only_package_and_no_home_are_enough(package, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.chmod(0o1777)
    (temporary / "photos").mkdir()
    (temporary / "photos/a.png").touch()
    init = [sys.executable, "-m", "sohes", "init", "--images", "photos"]
    done = as_somebody_else(init, package, "/proc/none", temporary)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    program = "import numpy as np; from sohes.masks.rle import compressed; from sohes.work.compiled import kept_in; "
    program += "compressed(np.array([2, 5]), 9); print(kept_in(), len(compressed.stats.cache_hits))"
    for hits in ("0", "1"):  # the second process compiles nothing
        done = as_somebody_else([sys.executable, "-c", program], package, "/proc/none", temporary)
        assert done.returncode == 0, done.stderr
        folder, found = done.stdout.split()
        assert found == hits
        assert Path(folder).is_relative_to(temporary)


def test_without_any_folder_functions_are_compiled_by_every_process(package, tmp_path):
    program = "import tempfile; tempfile.tempdir = '/proc'; from sohes.work.compiled import compiled, kept_in; "
    program += "print(kept_in(), compiled(lambda x: 2 * x)(21))"
    done = as_somebody_else([sys.executable, "-c", program], package, "/proc/none", tmp_path / "temporary")
    assert (done.stdout, done.returncode) == ("None 42\n", 0), done.stderr
