from pathlib import Path

import pytest
import yaml

from sohes.errors import SohesError
from sohes.evaluate.ablation import load_table
from sohes.params import Params
from sohes.params.keys import set_keys
from sohes.project import Project

ROOT = Path(__file__).parents[2]


def test_the_papers_figures_stand_where_the_paper_has_them():
    assert load_table("table-2", ROOT).rows["refined"].paper["AR"] == 16.4
    assert load_table("table-3", ROOT).rows["phase 3, dynamic threshold"].paper["AR"] == 33.3
    six_a = load_table("table-6a", ROOT)
    assert [row.paper["AR_S"] for row in six_a.rows.values()] == [1.9, 4.3, 5.1, 5.1]
    assert [row.set["explore.theta_small"] for row in six_a.rows.values()] == [0, 1 / 2048, 1 / 1024, 1 / 512]
    assert load_table("table-7", ROOT).rows["448, patch 32"].set["backbone.patch_size"] == 32


@pytest.mark.parametrize("profile", ["paper.yaml", "one-gpu.yaml"])
def test_both_heads_of_table_8_may_find_what_is_scored(profile):
    """AR counts up to 1,000 masks, and a cascade has no queries that would limit it."""
    file = ROOT / "params" / profile
    values = yaml.safe_load(file.read_text())
    set_keys(values, load_table("table-8", ROOT).rows["Cascade Mask R-CNN"].set, who="table-8", file=file)
    params = Params.model_validate(values)
    assert min(params.model.num_queries, params.model.cascade.proposals) >= params.evaluate.max_masks == 1000


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
    folder = Project(tmp_path).ablations
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(text, errors="surrogateescape")
    with pytest.raises(SohesError, match=message):
        load_table("mine", tmp_path)
    with pytest.raises(SohesError, match=r"no table 'theirs' in .* \(there is: .*, mine\)"):
        load_table("theirs", tmp_path)
