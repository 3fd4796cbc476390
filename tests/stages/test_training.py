"""The stages `instruct` and `correct` on a project of a few tiny images: here, killed, and in two processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from packing import make_project
from PIL import Image
from safetensors.torch import load_file

from sohes.backbone.checkpoint import load_backbone, save_backbone
from sohes.backbone.vit import Backbone
from sohes.commands import segment
from sohes.errors import SohesError
from sohes.evaluate.figures import UNTRAINED, read_rows
from sohes.evaluate.phases import depends_on, make_predictor
from sohes.model.build import build_network
from sohes.model.cascade import CascadeSegmenter
from sohes.model.checkpoint import begin_from, load_checkpoint, save_checkpoint
from sohes.model.queries import GridQueries
from sohes.params import Params, load_params
from sohes.project import Project
from sohes.stages import correct, evaluate, instruct
from sohes.train.dataset import PairDataset, open_dataset
from sohes.train.world import World
from sohes.work.files import digest_file


def tiny_params(repository: Path, **section) -> Params:
    """The demo's params, made small: a network of some ten thousand weights on 64 x 64 pixels."""
    values = load_params(repository / "params.yaml").model_dump(mode="json")
    values["model"] |= {
        "image_size": 64, "hidden_dim": 16, "num_queries": 21, "queries": "grid", "num_heads": 2,
        "feedforward_dim": 32, "pixel_decoder_layers": 1, "decoder_layers": 1, "recompute_blocks": False,
        "adapter": {"interactions": 1, "stem_dim": 8, "num_heads": 2, "points": 2},
    }  # fmt: skip
    for phase in ("instruct", "correct"):
        values[phase] |= {"steps": 6, "batch_size": 4, "accumulate": 1, "workers": 0, "checkpoint_every": 2} | section
    return Params.model_validate(values)


STAGE = """
import sys; from pathlib import Path; import torch; torch.set_num_threads(1)
from sohes.stages import {stage} as stage; from sohes.params import Params
root = Path(sys.argv[1])
{more}
stage.run(Params.model_validate_json((root / 'params.json').read_text()), root)
"""
NOTED = """
from sohes.train.dataset import LabelDataset; sample_for = LabelDataset.sample_for
from sohes.work.files import write_file  # whole or not at all: the process is killed at any time
def noted(dataset, at, k): write_file(root / 'begun', str(at)); return sample_for(dataset, at, k)
LabelDataset.sample_for = noted
"""


def script(root: Path, params: Params, stage: str, more: str = "") -> str:
    """Code that runs the stage in the folder that is its argument, after `more`."""
    (root / "params.json").write_text(params.model_dump_json())
    return STAGE.format(stage=stage, more=more)


def start(root: Path, params: Params, stage: str, **environment: str) -> subprocess.Popen:
    """The stage in a process of its own, which notes the step that it has begun in the file `begun`."""
    return subprocess.Popen(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", script(root, params, stage, NOTED), str(root)],
        env={**os.environ, "SOHES_TRACKING": "off", **environment},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, repository):
    """A project after both stages."""
    root = tmp_path_factory.mktemp("trained")
    make_project(root)
    params = tiny_params(repository, validate_every=3)
    instruct.run(params, root)
    correct.run(params, root)
    return root


def test_both_stages_write_a_model_its_card_and_the_history(trained, repository):
    for phase in ("instruct", "correct"):
        model, card = load_checkpoint(trained / f"models/{phase}.safetensors")
        history = json.loads((trained / f"metrics/{phase}.json").read_text())
        assert history[-1]["step"] == 6
        assert card["metrics"] == history[-1]
        assert set(card["digests"]) >= {"images", "labels", "backbone"}
        assert set(card["params"]) == {"model", "loss", phase}
        assert card["evaluate"]["nms_iou"] == tiny_params(repository).evaluate.nms_iou
        assert model.params.image_size == 64
        assert not (trained / ".sohes" / phase).exists()  # the resumable state of a finished run is gone
    assert "moving average of the student's weights" in card["weights"]
    assert card["digests"]["instruct"] == load_checkpoint(trained / "models/instruct.safetensors")[1]["digest"]


def test_the_stages_change_the_weights(trained):
    instructed, corrected = (load_file(trained / f"models/{phase}.safetensors") for phase in ("instruct", "correct"))
    backbone = load_file(trained / "models/backbone.safetensors")
    name = "patch_embed.proj.weight"
    found = [tensors[next(n for n in tensors if n.endswith(name))] for tensors in (instructed, corrected)]
    assert not torch.equal(found[0], backbone[name])
    assert not torch.equal(found[0], found[1])


def test_what_phase_3_asks_of_its_data_reaches_it(trained, repository):
    section = tiny_params(repository).correct
    tiles = section.tiles.model_copy(update={"levels": (0.6,)})
    shape = {"image_size": 64, "normalisation": ((0.5,) * 3, (0.25,) * 3), "seed": 0}
    plain, asked = (
        open_dataset(PairDataset, Project(trained), section.model_copy(update=changes), **shape).pair_for(0, 0)
        for changes in ({}, {"keep_labels": True, "tiles": tiles})
    )
    assert len(plain.labels_LSS.packed_NB) == len(plain.tiles.windows) == 0
    assert len(asked.labels_LSS.packed_NB) > 0
    assert len(asked.tiles.windows) > 0


def test_phase_2_can_begin_with_a_trained_model(trained, tmp_path, repository, capsys):
    """What fits is taken over: with hardly any learning it stays; weights of another shape start from scratch."""
    make_project(tmp_path)
    given = trained / "models/correct.safetensors"
    still = {"steps": 1, "checkpoint_every": 1, "start": str(given), "ema": 0.0}
    params = tiny_params(repository)
    section = params.instruct.model_dump() | still
    section["optim"]["learning_rate"] = 1e-12
    begun = params.model_copy(update={"instruct": type(params.instruct).model_validate(section)})
    instruct.run(begun, tmp_path)
    assert "100% of the weights begin as those of" in capsys.readouterr().out
    made, expected = (load_file(path) for path in (tmp_path / "models/instruct.safetensors", given))
    for name, weight in expected.items():
        torch.testing.assert_close(made[name], weight, rtol=0, atol=1e-5)
    assert load_checkpoint(tmp_path / "models/instruct.safetensors")[1]["digests"]["start"] == digest_file(given)

    wider = begun.model_copy(update={"model": params.model.model_copy(update={"feedforward_dim": 48})})
    instruct.run(wider, tmp_path)
    share = int(capsys.readouterr().out.partition("instruct: ")[2].partition("%")[0])
    assert 50 < share < 100
    finer = begun.model_copy(update={"model": params.model.model_copy(update={"num_queries": 84})})
    instruct.run(finer, tmp_path)
    assert "100% of the weights begin as those of" in capsys.readouterr().out
    name = "mask_decoder.queries.embedding"
    made = load_file(tmp_path / "models/instruct.safetensors")[name]
    torch.testing.assert_close(made, GridQueries.for_grids(expected[name], 84), rtol=0, atol=1e-5)
    for other in ({"head": "cascade", "num_queries": 12}, {"queries": "learned", "num_queries": 12}):  # without grids
        vit = load_backbone(trained / "models/backbone.safetensors")
        network = build_network(vit, params.model.model_copy(update=other))
        assert 0 < begin_from(network, given) < 1
    with pytest.raises(ValueError, match="backbone_of_start needs a model: set start, too"):
        type(params.instruct).model_validate(section | {"start": None, "backbone_of_start": True})
    absent = begun.instruct.model_copy(update={"start": "gone.safetensors"})
    with pytest.raises(SohesError, match=r"no model at .*gone\.safetensors"):
        instruct.run(begun.model_copy(update={"instruct": absent}), tmp_path)


@pytest.mark.parametrize("stage", [instruct, correct])
def test_the_first_process_alone_reads_all_labels(trained, repository, monkeypatch, stage):
    class Second(World):
        def of_first(self, make):
            return {"labels": "as the first one read them"}

    def read_here(*_):
        raise AssertionError

    told = {}
    monkeypatch.setattr(stage, "join_world", lambda: nullcontext(Second(1, 2, torch.device("cpu"))))
    monkeypatch.setattr(stage, "input_digests", read_here)
    monkeypatch.setattr(stage, "train_phase", lambda *_, **given: told.update(given))
    stage.run(tiny_params(repository), trained)
    assert told["digests"]["labels"] == "as the first one read them"


def test_the_model_that_phase_2_begins_with_is_looked_up_in_the_project(trained, tmp_path, repository, monkeypatch):
    params, told = tiny_params(repository), {}
    begun = {"start": "models/correct.safetensors", "backbone_of_start": True}
    section = type(params.instruct).model_validate(params.instruct.model_dump() | begun)
    monkeypatch.setattr(instruct, "train_phase", lambda *_, **given: told.update(given))
    monkeypatch.chdir(tmp_path)
    instruct.run(params.model_copy(update={"instruct": section}), trained)
    assert told["digests"]["start"] == digest_file(trained / "models/correct.safetensors")


def test_phase_2_can_keep_the_vit_of_the_model_that_it_begins_with(trained, tmp_path, repository, capsys):
    """The pipeline's own, of another width, has found the pseudo-labels."""
    make_project(tmp_path)
    vit = Backbone("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3})
    save_backbone(vit, tmp_path / "models/backbone.safetensors", {})
    given = trained / "models/correct.safetensors"
    params = tiny_params(repository, steps=1, checkpoint_every=1)

    def run(*, keep: bool):
        start = params.instruct.model_copy(update={"start": str(given), "backbone_of_start": keep})
        instruct.run(params.model_copy(update={"instruct": start}), tmp_path)
        made, _ = load_checkpoint(tmp_path / "models/instruct.safetensors")
        return made.backbone.embed_dim, int(capsys.readouterr().out.partition("instruct: ")[2].partition("%")[0])

    width = load_checkpoint(given)[0].backbone.embed_dim
    assert width != 48
    assert run(keep=True) == (width, 100)
    kept = params.instruct.model_copy(update={"start": str(given), "backbone_of_start": True})
    untrained = partial(make_predictor, UNTRAINED, root=tmp_path)
    assert untrained(params.model_copy(update={"instruct": kept})).args[0].backbone.embed_dim == width
    assert untrained(params).args[0].backbone.embed_dim == 48
    gone = kept.model_copy(update={"start": "gone.safetensors"})
    with pytest.raises(
        SohesError, match=rf"no model at {tmp_path}/gone\.safetensors, whose ViT phase 2 trains: set instruct.start"
    ):
        depends_on(UNTRAINED, params.model_copy(update={"instruct": gone}), tmp_path)
    own, share = run(keep=False)
    assert own == 48
    assert share < 100
    digests = load_checkpoint(tmp_path / "models/instruct.safetensors")[1]["digests"]
    assert digests["backbone"] == digest_file(tmp_path / "models/backbone.safetensors")
    correct.run(params, tmp_path)
    after = load_checkpoint(tmp_path / "models/correct.safetensors")[1]["digests"]
    assert after["start"] == digests["start"] == digest_file(given)


def test_phase_3_can_begin_with_a_model_from_elsewhere(trained, tmp_path, repository):
    """Its card, as that of a released model, need not say what it has learned from."""
    make_project(tmp_path)
    model, card = load_checkpoint(trained / "models/instruct.safetensors")
    card["digests"] = None
    save_checkpoint(tmp_path / "models/instruct.safetensors", model, card)
    correct.run(tiny_params(repository, steps=1, checkpoint_every=1), tmp_path)
    digests = load_checkpoint(tmp_path / "models/correct.safetensors")[1]["digests"]
    assert digests["instruct"] == digest_file(tmp_path / "models/instruct.safetensors")


def test_phase_3_may_use_less_memory_than_phase_2(trained, tmp_path, repository):
    """What changes no weight is no other architecture."""
    make_project(tmp_path)
    shutil.copytree(trained / "models", tmp_path / "models", dirs_exist_ok=True)
    params = tiny_params(repository, steps=1, checkpoint_every=1)
    cascade = params.model.cascade.model_copy(update={"nms_iou": 0.1})
    model = params.model.model_copy(update={"recompute_blocks": True, "cascade": cascade})
    correct.run(params.model_copy(update={"model": model}), tmp_path)
    corrected, _ = load_checkpoint(tmp_path / "models/correct.safetensors")
    assert corrected.params == model
    assert corrected.adapter.recompute_blocks
    other = model.model_copy(update={"decoder_layers": 2})
    with pytest.raises(SohesError, match="has another architecture than `model` in the params"):
        correct.run(params.model_copy(update={"model": other}), tmp_path)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("data/images/manifest.arrow", "run `sohes pull` first"),
        ("data/pseudo_labels", "no pseudo-labels at .*run `sohes explore` first"),
        ("models/backbone.safetensors", "no backbone at .*run `sohes backbone` first"),
    ],
)
def test_a_missing_input_names_the_stage_to_run_first(tmp_path, repository, missing, sentence):
    make_project(tmp_path)
    (tmp_path / missing).rename(tmp_path / "gone")
    with pytest.raises(SohesError, match=sentence):
        instruct.run(tiny_params(repository), tmp_path)


def test_phase_3_needs_phase_2_of_the_same_architecture(trained, tmp_path, repository):
    make_project(tmp_path)
    with pytest.raises(SohesError, match=r"no model at .*run `sohes instruct` first"):
        correct.run(tiny_params(repository), tmp_path)
    params = tiny_params(repository)
    other = params.model_copy(update={"model": params.model.model_copy(update={"hidden_dim": 32})})
    with pytest.raises(SohesError, match=r"another architecture .*run `sohes instruct` again"):
        correct.run(other, trained)


def test_a_state_that_other_code_has_made_is_not_continued(tmp_path, repository, monkeypatch, capsys):
    make_project(tmp_path)
    params = tiny_params(repository, steps=2)
    _run_until(tmp_path, params, "instruct", 1)
    monkeypatch.setattr("sohes.train.phase.code_digest", lambda *modules: f"of {modules} after an edit")
    instruct.run(params, tmp_path)
    assert "discarded: it was made with other params, inputs or code" in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["instruct", pytest.param("correct", marks=pytest.mark.slow)])
def test_kill_9_then_the_same_command_ends_in_the_same_weights(trained, tmp_path, repository, stage):
    make_project(tmp_path)
    if stage == "correct":
        for name in ("instruct.safetensors", "instruct.json"):
            (tmp_path / "models" / name).write_bytes((trained / "models" / name).read_bytes())
    params = tiny_params(repository, steps=2000)  # more than it can do before it is killed
    process = start(tmp_path, params, stage)
    state = tmp_path / f".sohes/{stage}/state.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # into the middle of something
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    done = torch.load(state, weights_only=True)["step"]
    assert done >= 2
    assert int((tmp_path / "begun").read_text()) - done <= params.instruct.checkpoint_every  # steps to be done again

    # six more steps of the same run (its 2,000 would take minutes), against as many without a kill
    for root in (tmp_path, tmp_path / "straight"):
        if root != tmp_path:
            make_project(root)
            if stage == "correct":
                for name in ("instruct.safetensors", "instruct.json"):
                    (root / "models" / name).write_bytes((trained / "models" / name).read_bytes())
        _run_until(root, params, stage, done + 6)
    a, b = (torch.load(r / f".sohes/{stage}/state.pt", weights_only=True) for r in (tmp_path, tmp_path / "straight"))
    assert a["step"] == b["step"] == done + 6
    assert all(torch.equal(a["learner"][name], b["learner"][name]) for name in a["learner"])


@pytest.mark.slow
def test_kill_9_then_the_same_command_is_one_mlflow_run(tmp_path, repository):
    """The process that is killed says nothing any more: its run is found by the note that it made before step 1."""
    from mlflow.tracking import MlflowClient

    make_project(tmp_path)
    params = tiny_params(repository, steps=40)
    process = start(tmp_path, params, "instruct", SOHES_TRACKING="on")
    state = tmp_path / ".sohes/instruct/state.pt"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    again = start(tmp_path, params, "instruct", SOHES_TRACKING="on")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments) if run.info.run_name == "instruct"]
    assert [run.info.status for run in runs] == ["FINISHED"]
    losses = client.get_metric_history(runs[0].info.run_id, "loss")
    assert [metric.step for metric in losses] == [10, 20, 30, 40]
    assert load_checkpoint(tmp_path / "models/instruct.safetensors")[1]["metrics"]["step"] == 40


def _run_until(root: Path, params: Params, stage: str, step: int) -> None:
    """Run the stage here and ask it to stop, as a cluster does, when it draws the samples of `step`."""
    from sohes.train.dataset import LabelDataset

    sample_for = LabelDataset.sample_for

    def sample_or_stop(self, at, k):
        if (at, k) == (step - 1, 0):
            os.kill(os.getpid(), signal.SIGUSR1)
        return sample_for(self, at, k)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelDataset, "sample_for", sample_or_stop)
        with pytest.raises(SystemExit) as end:
            {"instruct": instruct, "correct": correct}[stage].run(params, root)
    assert end.value.code == 75


def test_the_cascade_head_goes_through_all_stages(tmp_path, repository):
    """Instruct, correct, evaluate and segment with `model.head: cascade`; what is stored says which head it is."""
    make_project(tmp_path)
    values = tiny_params(repository, steps=3).model_dump(mode="json")
    values["model"] |= {"head": "cascade", "num_queries": 12}
    values["model"]["cascade"] |= {"proposals": 40, "samples": 16}
    values["explore"] |= {"image_size": 64, "crop_size": 32, "min_crop": 32}
    params = Params.model_validate(values)
    instruct.run(params, tmp_path)
    history = json.loads((tmp_path / "metrics/instruct.json").read_text())
    assert {"loss", "objectness", "anchor", "class", "box", "mask"} <= set(history[-1])
    correct.run(params, tmp_path)
    model, card = load_checkpoint(tmp_path / "models/correct.safetensors")
    assert isinstance(model, CascadeSegmenter)
    assert card["model"]["head"] == "cascade"
    evaluate.run(params, tmp_path)
    rows = read_rows(Project(tmp_path))
    assert list(rows) == ["explore", "instruct", "correct"]
    assert all(0 < rows[phase]["masks_per_image"] <= 12 for phase in ("instruct", "correct"))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(photo)
    trained = tmp_path / "models/correct.safetensors"
    options = {"evaluate": params.evaluate, "explore": None, "out": tmp_path / "out", "root": tmp_path}
    ((written, _),) = segment.run([str(photo)], model=str(trained), **options)
    assert json.loads(written.read_text())["image"]["height"] == 40
    with pytest.raises(SohesError, match=r"another architecture"):
        correct.run(tiny_params(repository), tmp_path)  # of the other head


@pytest.mark.slow
def test_two_processes_train_one_model_though_most_parts_of_a_batch_have_no_targets(
    tmp_path, repository, two_processes
):
    make_project(tmp_path, labelled=[0])
    quiet = {"copy_paste": 0.0, "scale_min": 1.0, "scale_max": 1.0, "colour_jitter": 0.0, "greyscale": 0.0, "blur": 0.0}
    params = tiny_params(repository, steps=4, accumulate=2, augment=quiet)
    two_processes(script(tmp_path, params, "instruct"), tmp_path)
    history = json.loads((tmp_path / "metrics/instruct.json").read_text())
    assert history[-1]["step"] == 4
    assert 0 < history[-1]["loss"] < 100
    load_checkpoint(tmp_path / "models/instruct.safetensors")


SLOW_VALIDATION = """
import time; from datetime import timedelta; from torch import distributed
from sohes.data.store.images import ImageStore; from sohes.evaluate import validation

read, validator = ImageStore.read, stage.validator
def slow_read(store, image_id):
    if store.folder.name == 'eval':
        time.sleep(2)
    return read(store, image_id)
def impatient(*arguments):
    distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=10), distributed.group.WORLD)
    return validator(*arguments)
ImageStore.read, stage.validator = slow_read, impatient
"""


def test_a_validation_that_outlasts_the_patience_of_the_others_is_shared_among_them(trained, two_processes):
    """Sixteen seconds of reading against ten of patience; eight in each of two processes."""
    repository = Path(__file__).parents[2]
    params = tiny_params(repository, steps=2, validate_every=2)
    two_processes(script(trained, params, "instruct", SLOW_VALIDATION), trained)
    assert json.loads((trained / "metrics/instruct.json").read_text())[-1]["step"] == 2
