import csv

import cv2
import pytest

from sohes.commands import compare
from sohes.errors import SohesError
from sohes.evaluate.ablation import Row, Table
from sohes.params import load_params
from sohes.project import Project
from sohes.tracking import tracking_client
from sohes.tracking.ablations import record_row, recorded_rows
from sohes.work.files import write_json

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TABLE = Table(
    title="Coverage", source="a paper, table 1", phase="explore", baseline="plain",
    rows={
        "plain": Row(set={}, paper={"AR": 8.1}),
        "cover": Row(set={"explore.theta_cover": 0.7}, paper={"AR": 9.0}),
    },
)  # fmt: skip


def record(root, params, row, recalls):
    details = {"per_image": {str(i): r for i, r in enumerate(recalls)}, "truths_per_image": {"0": 2, "1": 2}}
    write_json(root / "details/evaluate_details.json", {"explore": details})
    metrics = {"AR": sum(recalls) / 2, "AP": 1.0, "images": 2.0, "max_masks": 1000.0, "seconds_per_image": 0.5}
    return record_row("t", TABLE, row, params, metrics, root / "details/evaluate_details.json", root)


def test_rows_are_recorded_once_and_compared_with_the_baseline_and_the_paper(tmp_path, repository):
    base = load_params(repository / "params.yaml")
    cover = base.model_copy(update={"explore": base.explore.model_copy(update={"theta_cover": 0.7})})
    assert record(tmp_path, base, "plain", [20.0, 40.0])
    assert record(tmp_path, cover, "cover", [30.0, 50.0])
    assert not record(tmp_path, cover, "cover", [30.0, 50.0])  # the same again
    assert record(tmp_path, cover, "cover", [32.0, 52.0])  # another figure takes the place of the old one

    title, rows = recorded_rows("t", tmp_path)
    assert title == "Coverage"
    assert [(row.name, row.baseline) for row in rows] == [("plain", True), ("cover", False)]
    assert rows[1].params == {"explore.theta_cover": "0.7"}  # and none that all rows share
    assert rows[1].metrics == {"AR": 42.0, "AP": 1.0, "seconds_per_image": 0.5}
    assert rows[1].paper == {"AR": 9.0}

    text, written = compare.run("t", tmp_path)
    assert [path.suffix for path in written] == [".csv", ".md", ".png"]
    with written[0].open() as file:
        plain, changed = csv.DictReader(file)
    assert (plain["AR - baseline"], plain["95 % interval"]) == ("-", "-")
    assert (changed["AR - baseline"], changed["95 % interval"]) == ("+12.0", "+12.0 to +12.0")  # 12 in both images
    assert (changed["explore.theta_cover"], changed["AR"], changed["paper AR"]) == ("0.7", "42.0", "9.0")
    assert text in written[1].read_text()
    assert cv2.imread(str(written[2])).shape[1] == 1050


def test_rows_whose_refiner_knows_human_masks_are_named(tmp_path, repository):
    base = load_params(repository / "params.yaml")
    crm = base.model_copy(update={"explore": base.explore.model_copy(update={"theta_cover": 0.7, "refiner": "crm"})})
    record(tmp_path, base, "plain", [20.0, 40.0])
    record(tmp_path, crm, "cover", [30.0, 50.0])
    text, written = compare.run("t", tmp_path)
    assert "label-free, since human labels trained the refiner or the backbone: cover." in text
    assert text in written[1].read_text()


def test_rows_whose_backbone_knows_labels_or_is_unknown_are_named(tmp_path, repository):
    base = load_params(repository / "params.yaml")
    base = base.model_copy(update={"explore": base.explore.model_copy(update={"features": "tokens"})})
    for row, pretrained in (("plain", "vit_base_patch16_224.augreg_in21k"), ("cover", "weights.pth")):
        backbone = base.backbone.model_copy(update={"pretrained": pretrained})
        record(tmp_path, base.model_copy(update={"backbone": backbone}), row, [20.0, 40.0])
    text, _ = compare.run("t", tmp_path)
    assert "Not label-free, since human labels trained the refiner or the backbone: plain." in text
    assert "Unknown whether label-free, since it is unknown what trained the backbone: cover." in text


def test_rows_of_other_params_than_the_baselines_are_named(tmp_path, repository):
    base = load_params(repository / "params.yaml")
    record(tmp_path, base, "plain", [20.0, 40.0])
    cover = load_params(repository / "params.yaml", {"explore.theta_cover": 0.7, "instruct.steps": 7})
    record(tmp_path, cover, "cover", [30.0, 50.0])  # phase 1, which reads nothing of phase 2
    assert "other params" not in compare.run("t", tmp_path)[0]
    edited = load_params(repository / "params.yaml", {"explore.theta_cover": 0.7, "evaluate.max_masks": 100})
    assert record(tmp_path, edited, "cover", [30.0, 50.0])
    text, written = compare.run("t", tmp_path)
    assert "Made with other params than the baseline, beside those that the table sets: cover." in text
    assert text in written[1].read_text()
    client = tracking_client(tmp_path)
    (experiment,) = [one for one in client.search_experiments() if one.name == "ablation t"]
    for run in client.search_runs([experiment.experiment_id]):  # as an older version has recorded it
        if run.data.tags["sohes.row"] == "plain":
            client.delete_tag(run.info.run_id, "sohes.base")
    assert "other params" not in compare.run("t", tmp_path)[0]


def test_a_row_whose_recording_broke_is_recorded_again(tmp_path, repository, monkeypatch):
    from mlflow.tracking import MlflowClient

    def broken(*_):
        raise ConnectionError("the store is full")

    base = load_params(repository / "params.yaml")
    assert record(tmp_path, base, "plain", [10.0, 20.0])
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_artifact", broken)
        with pytest.raises(SohesError, match="the store is full"):
            record(tmp_path, base, "plain", [20.0, 40.0])
    assert [row.metrics["AR"] for row in recorded_rows("t", tmp_path)[1]] == [15.0]  # what was whole
    assert record(tmp_path, base, "plain", [20.0, 40.0])
    assert [row.metrics["AR"] for row in recorded_rows("t", tmp_path)[1]] == [30.0]
    assert not record(tmp_path, base, "plain", [20.0, 40.0])


def test_a_rows_name_may_hold_any_sign(tmp_path, repository, monkeypatch):
    name = 'the teacher\'s `best`, "0.5" of 100 %'
    monkeypatch.setitem(TABLE.rows, name, Row(set={}))
    base = load_params(repository / "params.yaml")
    assert [record(tmp_path, base, name, [20.0, 40.0]) for _ in range(2)] == [True, False]
    assert [row.name for row in recorded_rows("t", tmp_path)[1]] == [name]


def test_what_was_not_recorded_is_one_sentence(tmp_path):
    with pytest.raises(
        SohesError, match=r"no table 'nope' in .*params/ablations \(there is: .*, table-8\): name one of them"
    ):
        compare.run("nope", tmp_path)
    Project(tmp_path).ablations.mkdir(parents=True)
    (Project(tmp_path).ablations / "t.yaml").touch()
    for name in ("t", "ablation t"):
        with pytest.raises(SohesError, match=r"no experiment 'ablation t' at .*: run `sohes ablate t` first"):
            compare.run(name, tmp_path)
    with pytest.raises(SohesError, match=r"no table 'nope' in .* \(there is: .*, t\): name one of them"):
        compare.run("nope", tmp_path)
    assert not (tmp_path / "mlflow.db").exists()  # it was only read from
    tracking_client(tmp_path).create_experiment("another")
    with pytest.raises(SohesError, match="run `sohes ablate t` first"):
        compare.run("t", tmp_path)
