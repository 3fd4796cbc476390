import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import sohes
from sohes import masks
from sohes.data.scenes.render import render_scene
from sohes.errors import SohesError
from sohes.model.checkpoint import load_checkpoint
from sohes.model.onnx import card_of, load_onnx
from sohes.model.onnx_export import export_onnx

SCENES = [np.asarray(render_scene(i, size=96, seed=0).image_HW3) for i in range(10)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx") / "tiny.onnx"


@pytest.fixture
def model(tiny_model, exported):
    """The checkpoint, and the ONNX file that is made of it once: the network's seed is fixed."""
    if not exported.exists():
        export_onnx(tiny_model, exported)
    return tiny_model, exported


def test_logits_are_those_of_torch(model):
    network, card = load_checkpoint(model[0])
    side = network.params.image_size
    squares = [scene[:side, :side] for scene in SCENES]
    for ours, theirs in zip(load_onnx(model[1]).predict(squares), network.predict(squares), strict=True):
        for name in ("class_Q2", "mask_Qhw", "ancestor_QQ"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-3, rtol=1e-3, err_msg=name)
    assert card_of(model[1]) == card


def test_masks_scores_and_forest_are_those_of_torch(model):
    torch_model, onnx_model = (sohes.load(path) for path in model)
    for a, b in zip(torch_model.segment_many(SCENES), onnx_model.segment_many(SCENES), strict=True):
        assert len(a) == len(b) > 3
        together = np.concatenate([a.masks, b.masks])
        iou = masks.iou_from_intersections(masks.intersections(together))[: len(a), len(a) :]
        assert np.diagonal(iou).min() > 0.99
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
        np.testing.assert_array_equal(a.parents, b.parents)


def test_a_file_that_was_replaced_is_read_again(model, tmp_path):
    path = tmp_path / "mine.onnx"
    path.write_bytes(model[1].read_bytes())
    assert sohes.load(path).segment(SCENES[0]).masks.any()
    path.write_bytes(b"garbage")
    with pytest.raises(SohesError, match=r"mine\.onnx is not a network"):
        sohes.load(path)


def test_it_can_be_pickled_and_moved_to_where_it_is(model):
    predictor = sohes.load(model[1])
    again = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(again.segment(SCENES[0]).masks, predictor.segment(SCENES[0]).masks)
    assert all(predictor.to(device) is predictor for device in ("cpu", "cpu:0", torch.device("cpu")))


def test_segment_needs_no_torch(model, tmp_path):
    """Of all that `sohes segment` does, from its words to its pictures."""
    from PIL import Image

    Image.fromarray(SCENES[0]).save(tmp_path / "scene.png")
    words = ["sohes", "segment", str(tmp_path / "scene.png"), "--model", str(model[1]), "--out", str(tmp_path / "out")]
    code = (
        f"import sys\nfrom sohes.cli import main\nsys.argv = {words}\n"
        "try:\n    main()\nfinally:\n    print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert json.loads((tmp_path / "out/scene.json").read_text())["annotations"]


def test_what_is_no_exported_model_is_said(model, tmp_path):
    with pytest.raises(SohesError, match=r"no model at .*absent.onnx"):
        load_onnx(tmp_path / "absent.onnx")
    (tmp_path / "rubbish.onnx").write_bytes(b"\x08\x0a" + bytes(100))
    with pytest.raises(SohesError, match=r"rubbish.onnx is not a network that onnxruntime reads"):
        sohes.load(tmp_path / "rubbish.onnx")
    (tmp_path / "cut.onnx").write_bytes(model[1].read_bytes()[:-5000])
    with pytest.raises(SohesError, match=r"cut.onnx is not a network that onnxruntime reads"):
        sohes.load(tmp_path / "cut.onnx")
    with pytest.raises(SohesError, match=r"ends in .onnx \(got .*model.pb\)"):
        export_onnx(model[0], tmp_path / "model.pb")
    with pytest.raises(SohesError, match=r"runs on the CPU \(got cuda:0\)"):
        sohes.load(model[1]).to("cuda:0")


@pytest.mark.parametrize("card", [None, "", "no JSON", "[]"])
def test_another_programs_network_is_refused(card, tmp_path):
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if card is not None:
        helper.set_model_props(made, {"card": card})
    onnx.save(made, tmp_path / "other.onnx")
    with pytest.raises(SohesError, match=r"other.onnx holds another program's network"):
        sohes.load(tmp_path / "other.onnx")
