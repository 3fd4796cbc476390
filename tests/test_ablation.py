from pathlib import Path

import pytest
import yaml

from sohes.ablation import FOLDER, folder_name, load_table, make_workspace, row_params, stages_for
from sohes.errors import SohesError

ROOT = Path(__file__).parents[1]
TABLES = sorted(path.stem for path in (ROOT / FOLDER).glob("*.yaml"))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("profile", ["params.yaml", "params/paper.yaml"])
def test_every_row_of_every_table_is_a_valid_profile(name, profile, tmp_path):
    table = load_table(name, ROOT)
    for row in table.rows.values():
        row_params(ROOT / profile, row.set, tmp_path / "params.yaml")
    folders = {folder_name(row).casefold() for row in table.rows}
    assert len(folders) == len(table.rows)


def test_the_papers_figures_stand_where_the_paper_has_them():
    assert load_table("table-2", ROOT).rows["refined"].paper["AR"] == 16.4
    assert load_table("table-3", ROOT).rows["phase 3, dynamic threshold"].paper["AR"] == 33.3
    six_a = load_table("table-6a", ROOT)
    assert [row.paper["AR_S"] for row in six_a.rows.values()] == [1.9, 4.3, 5.1, 5.1]
    assert [row.set["explore.theta_small"] for row in six_a.rows.values()] == [0, 1 / 2048, 1 / 1024, 1 / 512]
    assert load_table("table-7", ROOT).rows["448, patch 32"].set["backbone.patch_size"] == 32


def test_a_row_sets_its_keys_and_makes_paths_absolute(tmp_path):
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["pull"]["folder"]["images"] = "photos"
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(raw))
    params = row_params(tmp_path / "base.yaml", {"explore.theta_cover": 0.7}, tmp_path / "row/params.yaml")
    assert params.explore.theta_cover == 0.7
    assert params.pull.folder.images == tmp_path / "photos"
    with pytest.raises(SohesError, match=r"the table sets explore.theta_cove, which .* does not have"):
        row_params(tmp_path / "base.yaml", {"explore.theta_cove": 0.7}, tmp_path / "row/params.yaml")
    with pytest.raises(SohesError, match=r"explore\.theta_cover"):
        row_params(tmp_path / "base.yaml", {"explore.theta_cover": 7}, tmp_path / "row/params.yaml")


def test_a_phase_needs_no_stage_behind_it():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages_for(graph, "explore")) == ["pull", "backbone", "evaluate"]
    assert list(stages_for(graph, "instruct")) == ["pull", "backbone", "explore", "instruct", "evaluate"]
    assert list(stages_for(graph, "correct")) == ["pull", "backbone", "explore", "instruct", "correct", "evaluate"]
    evaluate = stages_for(graph, "instruct")["evaluate"]
    assert evaluate["cmd"].endswith("evaluate --phase instruct")
    assert "models/instruct.safetensors" in evaluate["deps"]
    assert "models/correct.safetensors" not in evaluate["deps"]


def test_a_workspace_shares_the_projects_cache_and_code(tmp_path):
    make_workspace(ROOT, tmp_path / "row", ROOT / "params.yaml", {"seed": 3}, "explore")
    assert f"dir = {ROOT.resolve() / '.dvc/cache'}" in (tmp_path / "row/.dvc/config").read_text()
    assert (tmp_path / "row/sohes/cli.py").samefile(ROOT / "sohes/cli.py")
    assert yaml.safe_load((tmp_path / "row/params.yaml").read_text())["seed"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("", "is empty: fix it"),
        ("title: \udcfc", "is not UTF-8 text"),
        ("title: x", "source: Field required"),
        ("{title: x, source: y, phase: explore, baseline: z, rows: {a: {set: {}}}}", "the baseline must be a row"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_sentence(tmp_path, text, message):
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "mine.yaml").write_text(text, errors="surrogateescape")
    with pytest.raises(SohesError, match=message):
        load_table("mine", tmp_path)
    with pytest.raises(SohesError, match=r"no table 'theirs' in .* \(there is: mine\)"):
        load_table("theirs", tmp_path)
