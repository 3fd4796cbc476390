import json
import shutil
from pathlib import Path

import pytest

from sohes import tracking
from sohes.params import Params, load_params
from sohes.project import Project
from sohes.tracking.makers import MADE_BY, NOTE
from sohes.work.cost import measured

mlflow = pytest.importorskip("mlflow")

# MLflow's own modules use what their dependencies have deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def root(tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOHES_TRACKING", "on")
    shutil.copy(database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def first(repository: Path) -> Params:
    return load_params(repository / "params.yaml")


@pytest.fixture
def second(first: Params) -> Params:
    """Differs in what only phase 3 and the report read."""
    return first.model_copy(update={"correct": first.correct.model_copy(update={"steps": first.correct.steps + 1})})


def stage(name: str, params: Params, root: Path, *, dataset: str = "") -> str:
    """Run a stage that does nothing as its command would; its run's id."""
    with measured(name, params, root), tracking.stage_run(name, params, root) as recorder:
        if dataset:
            recorder.dataset(Path(dataset), "sha256:0123", "training")
        if name == "evaluate":
            recorder.overall({"correct/AR": 36.2}, "# AR")
    return recorder.run_id


def pipeline(params: Params, root: Path):
    client = mlflow.MlflowClient(tracking.tracking_uri(root))
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    name = tracking.pipeline_id(params)
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`sohes.pipeline` = '{name}'")
    return run


def made_by(params: Params, root: Path) -> dict[str, str]:
    tags = pipeline(params, root).data.tags
    return {tag.removeprefix(MADE_BY): run_id for tag, run_id in tags.items() if tag.startswith(MADE_BY)}


def test_a_pipeline_names_the_runs_of_what_it_found_ready(root, first, second):
    made = {name: stage(name, first, root, dataset=f"data/{name}") for name in ("pull", "explore", "correct")}
    stage("evaluate", first, root)
    assert made_by(first, root) == {}
    assert pipeline(first, root).data.tags[NOTE] == "# AR"

    stage("correct", second, root)
    ready = {name: made[name] for name in ("pull", "explore")}
    assert made_by(second, root) == ready
    experiment = pipeline(second, root).info.experiment_id
    view = "?workflowType=machine_learning"
    links = [f"[{name}](#/experiments/{experiment}/runs/{run_id}{view})" for name, run_id in ready.items()]
    assert pipeline(second, root).data.tags[NOTE] == f"Found ready, made by other runs: {', '.join(links)}"
    stage("evaluate", second, root)  # whose own run of `correct` is no other pipeline's
    assert made_by(second, root) == ready
    assert pipeline(second, root).data.tags[NOTE] == f"# AR\n\nFound ready, made by other runs: {', '.join(links)}"
    assert {d.dataset.name for d in pipeline(second, root).inputs.dataset_inputs} == {"data/pull", "data/explore"}

    stage("explore", second, root)
    assert made_by(second, root) == {"pull": made["pull"]}
    assert pipeline(second, root).data.tags[NOTE].endswith(f"other runs: {links[0]}")


def test_the_outputs_name_the_run_and_not_the_last_one_with_the_same_params(root, first, second):
    older = stage("explore", first, root)
    signed = Project(root).cost("explore").read_text()
    assert json.loads(signed)["made_by"] == older
    stage("explore", first, root)
    Project(root).cost("explore").write_text(signed)  # as `dvc checkout` would
    stage("correct", second, root)
    assert made_by(second, root) == {"explore": older}


def test_a_run_that_the_store_does_not_have_is_not_named_and_none_signs_without_tracking(
    root, first, second, monkeypatch
):
    stage("pull", first, root)
    cost = Project(root).cost("pull")
    cost.write_text(json.dumps(json.loads(cost.read_text()) | {"made_by": "0" * 32}))
    stage("explore", second, root)
    assert made_by(second, root) == {}
    assert NOTE not in pipeline(second, root).data.tags or not pipeline(second, root).data.tags[NOTE]
    monkeypatch.setenv("SOHES_TRACKING", "off")
    stage("pull", first, root)
    assert "made_by" not in json.loads(cost.read_text())
