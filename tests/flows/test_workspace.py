import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from flows.workspace import folder_name, make_workspace, row_params, stages_for
from sohes.commands.new_project import make_project
from sohes.errors import SohesError
from sohes.evaluate.ablation import load_table
from sohes.pipeline import CODE
from sohes.project import Project

ROOT = Path(__file__).parents[2]
TABLES = sorted(path.stem for path in Project(ROOT).ablations.glob("*.yaml"))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("profile", ["params.yaml", "params/paper.yaml"])
def test_every_row_of_every_table_is_a_valid_profile(name, profile, tmp_path):
    table = load_table(name, ROOT)
    for row in table.rows.values():
        row_params(ROOT, ROOT / profile, row.set, tmp_path / "params.yaml")
    folders = {folder_name(row).casefold() for row in table.rows}
    assert len(folders) == len(table.rows)


def test_a_row_sets_its_keys_and_makes_paths_absolute(tmp_path):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["pull"]["folder"]["images"] = "photos"
    raw["pull"]["archives"] |= {"images": ["a.tar", "https://a.org/b.tar"], "annotations": "c.zip#d.json"}
    raw["backbone"]["pretrained"], raw["instruct"]["start"] = "dino.safetensors", "small"
    (tmp_path / "dino.safetensors").touch()
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(raw))
    params = row_params(tmp_path, tmp_path / "base.yaml", {"explore.theta_cover": 0.7}, tmp_path / "row/params.yaml")
    assert params.explore.theta_cover == 0.7
    assert params.pull.folder.images == tmp_path / "photos"
    assert params.pull.folder.annotations is None
    assert params.pull.archives.images == (str(tmp_path / "a.tar"), "https://a.org/b.tar")
    assert params.pull.archives.annotations == str(tmp_path / "c.zip#d.json")
    assert params.backbone.pretrained == str(tmp_path / "dino.safetensors")
    assert params.instruct.start == "small"
    assert params.backbone.distill.teacher.pretrained == raw["backbone"]["distill"]["teacher"]["pretrained"]
    with pytest.raises(SohesError, match=r"the table sets explore.theta_cove, which .* does not have"):
        row_params(tmp_path, tmp_path / "base.yaml", {"explore.theta_cove": 0.7}, tmp_path / "row/params.yaml")
    with pytest.raises(SohesError, match=r"explore\.theta_cover"):
        row_params(tmp_path, tmp_path / "base.yaml", {"explore.theta_cover": 7}, tmp_path / "row/params.yaml")


def test_a_phase_needs_no_stage_behind_it():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages_for(graph, "explore")) == ["pull", "backbone", "evaluate"]
    assert list(stages_for(graph, "instruct")) == ["pull", "backbone", "explore", "instruct", "evaluate"]
    assert list(stages_for(graph, "correct")) == ["pull", "backbone", "explore", "instruct", "correct", "evaluate"]
    evaluate = stages_for(graph, "instruct")["evaluate"]
    assert evaluate["cmd"].endswith("evaluate --phase instruct")
    assert "models/instruct.safetensors" in evaluate["deps"]
    assert "models/correct.safetensors" not in evaluate["deps"]


def test_a_row_is_computed_from_its_own_params_whatever_file_the_stages_read():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for stage in graph.values():
        stage["cmd"] += " --params params/paper.yaml"
        stage["params"] = [{"params/paper.yaml": stage["params"]}]
    for stage in stages_for(graph, "correct").values():
        assert "params/paper.yaml" not in stage["cmd"]
        assert "seed" in stage["params"]


def test_an_evaluation_of_one_phase_promises_no_more_than_it_writes():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    evaluate = stages_for(graph, "explore")["evaluate"]
    promised = [*evaluate["outs"], *evaluate["metrics"]]
    figures = {"metrics/evaluate.json", "metrics/evaluate_details.json", "metrics/recall.json"}
    assert {"predictions", *figures} <= set(promised)
    assert not [path for path in promised if "regions" in path]


def test_a_workspace_shares_the_projects_cache_and_code(tmp_path):
    make_workspace(ROOT, tmp_path / "row", ROOT / "params.yaml", {"seed": 3}, "explore")
    (cache,) = re.findall("dir = (.*)", (tmp_path / "row/.dvc/config").read_text())
    assert Path(os.path.normpath(tmp_path.resolve() / "row/.dvc" / cache)) == ROOT.resolve() / ".dvc/cache"
    assert (tmp_path / "row/sohes/cli.py").samefile(ROOT / "sohes/cli.py")
    assert yaml.safe_load((tmp_path / "row/params.yaml").read_text())["seed"] == 3


def test_a_copied_projects_workspace_runs_the_copys_code(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        (root / "sohes").mkdir(parents=True)
        (root / "sohes/cli.py").write_text(root.name)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, root)
    row = ".sohes/ablations/t/row"
    make_workspace(first, first / row, first / "params.yaml", {}, "explore")
    shutil.copytree(first / ".sohes", second / ".sohes", symlinks=True)
    assert (second / row / "sohes/cli.py").read_text() == "second"
    (second / row / "sohes").unlink()
    (second / row / "sohes").symlink_to(first / "sohes")  # as older versions linked it
    make_workspace(second, second / row, second / "params.yaml", {}, "explore")
    assert (second / row / "sohes/cli.py").read_text() == "second"
    assert (second / row / ".dvc/config").read_text() == (first / row / ".dvc/config").read_text()


def test_a_row_of_a_project_without_the_code_runs_that_of_the_package(tmp_path):
    make_project(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    make_workspace(tmp_path, tmp_path / "row", tmp_path / "params.yaml", {"explore.theta_cover": 0.7}, "explore")
    stages = yaml.safe_load((tmp_path / "row/dvc.yaml").read_text())["stages"]
    assert list(stages) == [CODE, "pull", "backbone", "evaluate"]
    assert str(Project(Path()).code("evaluate")) in stages["evaluate"]["deps"]
    assert not (tmp_path / "row/sohes").is_symlink()
    assert load_table("table-2", tmp_path).rows  # which comes with the code


def test_rows_that_differ_in_letters_beyond_ascii_have_folders_of_their_own():
    assert len({folder_name(row) for row in ("größe", "grüße", "大", "小", "gr-e")}) == 5
    assert folder_name("224, patch 8") == "224-patch-8"
