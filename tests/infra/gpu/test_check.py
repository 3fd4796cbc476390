"""The GPU check ends in time with a line for every stage, whatever a stage does, and its figures become tables."""

import json
import subprocess
import sys
import time
import tomllib

import pytest
from packaging.requirements import Requirement

from infra.gpu import check, worker


def lines_of(folder):
    return [json.loads(line) for line in (folder / "check.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_without_a_gpu_it_runs_as_a_toy_and_ends_in_time(repository, tmp_path):
    seconds, began = 240, time.monotonic()  # enough on a busy machine, too
    command = [sys.executable, "infra/gpu/check.py", "--seconds", str(seconds), "--out", str(tmp_path)]
    command += ["--stages", "loader", "falls", "agreement"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    assert time.monotonic() - began < seconds + 10
    lines = lines_of(tmp_path)
    assert lines == [json.loads(line) for line in done.stdout.splitlines()]
    first, *rest = lines
    assert first["stage"] == "machine"
    assert first["gpu"] is None
    assert list(dict.fromkeys(line["stage"] for line in rest)) == ["loader", "falls", "agreement"]
    good = [line for line in rest if "error" not in line]
    assert any(line.get("samples_per_second", 0) > 0 for line in good), done.stderr


def fake(monkeypatch, *scripts):
    """Workers that run these scripts, one after another, in place of the stages."""
    left, Popen = list(scripts), subprocess.Popen
    monkeypatch.setattr(
        check.subprocess, "Popen", lambda command, **options: Popen([sys.executable, "-c", left.pop(0)], **options)
    )


def told(*events):
    return "".join(f"print({json.dumps(event)!r}, flush=True)\n" for event in map(dict, events))


def begin(stage):
    return {"event": "begin", "stage": stage, "seconds": 0.1}


def row(stage, **figures):
    return {"event": "row", "stage": stage, **figures}


def end(stage):
    return {"event": "end", "stage": stage, "seconds": 0.1}


def test_a_stage_that_dies_or_hangs_costs_its_own_lines_only(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(check, "LATE", (1, 1))
    dies = told(begin("agreement"), row("agreement", what="a", value=1)) + "import os; os._exit(3)"
    hangs = "print('words')\n" + told(begin("training")) + "import time; time.sleep(60)"
    works = told(begin("loader"), row("loader", what="b", value=2), end("loader"))
    fake(monkeypatch, dies, hangs, works)
    check.Check(tmp_path, 30).run(["agreement", "training", "loader"], [])
    lines = [line for line in lines_of(tmp_path) if line["what"] != "end"]
    assert lines == [
        {"stage": "agreement", "what": "a", "value": 1},
        {"stage": "agreement", "what": "failed", "error": "the process ended with status 3"},
        {"stage": "training", "what": "failed", "error": "ended after 1 seconds"},
        {"stage": "loader", "what": "b", "value": 2},
    ]
    assert "words" in capsys.readouterr().err


def test_a_worker_that_never_begins_and_no_time_left_are_lines_too(monkeypatch, tmp_path):
    fake(monkeypatch, "raise SystemExit(1)", "import time; time.sleep(60)")
    monkeypatch.setattr(check, "LAST", 0.5)
    check.Check(tmp_path, 4).run(["agreement", "training", "loader"], [])
    lines = lines_of(tmp_path)
    assert [line["stage"] for line in lines] == ["agreement", "training", "loader"]
    assert lines[0]["error"] == "the process ended with status 1"
    assert lines[2]["error"] == "no time left"


def test_the_time_left_is_shared_by_the_stages_left():
    assert list(worker.STAGES) == list(check.ORDER)
    shares = list(worker.STAGES.values())
    assert worker.allotted(list(worker.STAGES), sum(shares)) == pytest.approx(shares[0])
    assert worker.allotted(["compile"], 7) == 7


def test_the_figures_replace_what_stands_between_the_markers(repository, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{check.BEGIN}\nold\n{check.END}\nafter\n")
    lines = [
        {"stage": "loader", "what": "8 workers", "samples_per_second": 3.5, "places": {"a.py:3": 2}, "good": True},
        {"stage": "loader", "what": "1 worker", "curve": [1, 2]},
        {"stage": "loader", "what": "end", "seconds": 3},
        {"stage": "machine", "gpu": None, "torch": "2.11"},
    ]
    for _ in range(2):
        check.write_table(lines, page)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith(f"{check.END}\nafter\n")
    assert text.count("**loader**") == 1
    assert "| what | samples per second | places | good | curve |" in text
    assert "| 8 workers | 3.5 | `a.py:3` 2 | yes |  |" in text
    assert "| 1 worker |  |  |  | 2 numbers |" in text
    assert check.BEGIN in (repository / "docs/performance.md").read_text()


def test_every_package_of_the_base_install_is_on_the_machine_or_carried(repository):
    """A check on a lent machine once ended at `import ruamel`, a dependency that was newer than the list."""
    on_machine = {
        "filelock", "jinja2", "llvmlite", "matplotlib", "numba", "numpy", "onnxruntime", "opencv-python-headless",
        "packaging", "pillow", "pyarrow", "pyyaml", "rich", "safetensors", "scipy", "typer", "urllib3",
    }  # fmt: skip
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    needed = {Requirement(line).name for line in project["dependencies"]}
    listed = (repository / "infra/gpu/requirements.txt").read_text().splitlines()
    carried = {Requirement(line).name for line in listed if line and not line.startswith("#")}
    assert needed - on_machine <= carried
