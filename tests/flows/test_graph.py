import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.graph import command_of, is_fresh, outputs, params_file, stage_order
from sohes.errors import SohesError


def dvc(*arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def write_graph(folder: Path, stages: dict) -> None:
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def test_the_order_is_the_one_in_which_dvc_runs_the_stages(project, repository):
    (project / "params.yaml").write_text((repository / "params.yaml").read_text())
    for stage in yaml.safe_load((project / "dvc.yaml").read_text())["stages"].values():
        for output in outputs(stage):  # something must lie there, or a dry run stops at the second stage
            (project / output).parent.mkdir(parents=True, exist_ok=True)
            (project / output).touch()
    announced = re.findall(r"^Running stage '(\w+)'", dvc("repro", "--dry", cwd=project), re.MULTILINE)
    assert stage_order(project) == announced
    assert len(announced) == 7


def test_every_stage_comes_after_those_it_reads_from_as_dvc_draws_them(repository):
    order = stage_order(repository)
    edges = re.findall(r'^"(\w+)" -> "(\w+)"', dvc("dag", "--dot", cwd=repository), re.MULTILINE)
    assert len(edges) >= 8
    assert {name for edge in edges for name in edge} == set(order)
    for producer, consumer in edges:
        assert order.index(producer) < order.index(consumer)


def test_a_file_in_another_order_is_sorted(tmp_path):
    write_graph(
        tmp_path,
        {
            "last": {"cmd": "x", "deps": ["metrics/a.json", "b/inside"]},
            "second": {"cmd": "x", "deps": ["a"], "outs": [{"b": {"persist": True}}]},
            "first": {
                "cmd": "x",
                "deps": ["code.py"],
                "outs": ["a"],
                "metrics": [{"metrics/a.json": {"cache": False}}],
            },
        },
    )
    assert stage_order(tmp_path) == ["first", "second", "last"]


def test_a_list_of_commands_is_read_as_dvc_runs_it():
    command = command_of({"cmd": ["mkdir -p x", "python -m sohes pull --params mine.yaml"]})
    assert command[:4] == ("mkdir", "-p", "x", "&&")
    assert params_file(command) == Path("mine.yaml")


def test_a_path_that_only_begins_alike_is_another_path(tmp_path):
    stages = {"b": {"cmd": "x", "deps": ["data/image"]}, "a": {"cmd": "x", "deps": ["z"], "outs": ["data/images"]}}
    write_graph(tmp_path, stages)
    assert stage_order(tmp_path) == ["b", "a"]


@pytest.mark.parametrize("text", ["", "stages: {}\n", "plots: []\n"])
def test_a_file_without_stages_is_one_sentence(tmp_path, text):
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(SohesError, match=r"has no stages|is empty"):
        stage_order(tmp_path)


def test_a_folder_without_the_file_is_one_sentence(tmp_path):
    with pytest.raises(SohesError, match=f"no dvc.yaml in {tmp_path}"):
        stage_order(tmp_path)


def test_a_stage_is_fresh_until_its_input_changes(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    dvc("init", "--quiet", cwd=tmp_path)
    (tmp_path / "in.txt").write_text("1")
    write_graph(tmp_path, {"copy": {"cmd": "cp in.txt out.txt", "deps": ["in.txt"], "outs": ["out.txt"]}})
    assert not is_fresh("copy", tmp_path)
    dvc("repro", "--quiet", cwd=tmp_path)
    assert is_fresh("copy", tmp_path)
    (tmp_path / "in.txt").write_text("2")
    assert not is_fresh("copy", tmp_path)


def test_dvc_in_a_folder_that_is_no_project_is_one_sentence(tmp_path):
    write_graph(tmp_path, {"copy": {"cmd": "x", "deps": ["a"]}})
    with pytest.raises(SohesError, match="dvc status copy failed: ERROR: you are not inside of a DVC repository"):
        is_fresh("copy", tmp_path)
