"""What detectron2 gets from us and gives back; with the package itself where it is installed."""

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from packing import pack_images
from PIL import Image

from sohes import masks
from sohes.backbone.vit import Backbone
from sohes.data.store.labels import write_shard
from sohes.errors import SohesError
from sohes.evaluate.recall import evaluate_masks
from sohes.model.build import build_network
from sohes.model.cascade_heads import TorchvisionCascade
from sohes.model.detectron2_data import as_dict, dataset_dicts, record_of, register
from sohes.model.detectron2_heads import Detectron2Cascade
from sohes.params import ModelParams
from sohes.structures import CROWD, ImageRecord, Targets

SIZE = 64


def whole_and_part() -> np.ndarray:
    shown = np.zeros((2, 24, 32), bool)
    shown[0, 2:20, 4:28], shown[1, 4:12, 6:14] = True, True
    return shown


def model_params(head: str) -> ModelParams:
    params = {
        "head": head, "image_size": SIZE, "hidden_dim": 16, "num_queries": 20, "queries": "learned", "num_heads": 2,
        "feedforward_dim": 32, "pixel_decoder_layers": 1, "decoder_layers": 1, "recompute_blocks": False,
        "adapter": {"interactions": 1, "stem_dim": 8, "num_heads": 2, "points": 2},
        "cascade": {"ious": [0.5, 0.6, 0.7], "proposals": 60, "samples": 32, "anchor_scale": 4, "nms_iou": 0.7,
                    "theta_cover": 0.9},
    }  # fmt: skip
    return ModelParams.model_validate(params)


@pytest.fixture
def project(tmp_path):
    """Two photographs and their labels, one with a crowd."""
    files, records = [], []
    for image_id in (3, 7):
        image = np.random.default_rng(image_id).integers(0, 255, (24, 32, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append((image_id, f"{image_id}.png", file.getvalue()))
        sources = ["global", CROWD if image_id == 7 else "local"]
        found = masks.mask_set(whole_and_part(), parents=[-1, 0], sources=sources)
        records.append(ImageRecord(image_id, f"{image_id}.png", "", found))
    pack_images(
        files, tmp_path / "images", images_per_shard=2, max_megapixels=1, apply_exif=False, max_rejected_fraction=0
    )
    (tmp_path / "labels").mkdir()
    write_shard(tmp_path / "labels/shard-00000.parquet", records)
    return tmp_path


def test_a_record_in_detectron2s_words(tmp_path):
    found = masks.mask_set(whole_and_part(), parents=[-1, 0], sources=["global", CROWD])
    entry = as_dict(ImageRecord(5, "5.png", "", found), tmp_path / "5.png")
    assert (entry["image_id"], entry["height"], entry["width"]) == (5, 24, 32)
    first, second = entry["annotations"]
    assert first["bbox"] == [4, 2, 24, 18]  # x, y, width, height
    assert (first["bbox_mode"], first["category_id"], first["iscrowd"], first["parent"]) == (1, 0, 0, -1)
    assert (second["iscrowd"], second["parent"]) == (1, 0)
    assert first["segmentation"]["size"] == [24, 32]


def test_data_set_dictionaries_point_at_unpacked_photographs(project):
    entries = list(dataset_dicts(project / "images", project / "labels", project / "files"))
    assert [entry["image_id"] for entry in entries] == [3, 7]
    expected = np.random.default_rng(3).integers(0, 255, (24, 32, 3), np.uint8)
    assert np.array_equal(np.array(Image.open(entries[0]["file_name"])), expected)
    again = list(dataset_dicts(project / "images", project / "labels", project / "files"))
    assert again == entries


def test_predictions_go_through_our_evaluator(tmp_path):
    """The masks themselves, one empty one, the forest by coverage."""
    dense = np.concatenate([whole_and_part(), np.zeros((1, 24, 32), bool)])
    predicted = SimpleNamespace(pred_masks=torch.from_numpy(dense), scores=torch.tensor([0.9, 0.8, 0.7]))
    entry = {"image_id": 5, "file_name": "/x/5.png", "height": 24, "width": 32}
    found = record_of(entry, predicted, theta_cover=0.9)
    assert (found.image_id, found.file_name, len(found.masks)) == (5, "5.png", 2)
    assert found.masks.parents.tolist() == [-1, 0]
    truth = ImageRecord(5, "5.png", "", masks.mask_set(whole_and_part(), parents=[-1, 0]))
    scores = evaluate_masks([truth], [found])
    assert (scores.AR, scores.ancestor_f1) == (100, 100)
    with pytest.raises(SohesError, match="need masks of 24 x 32 pixels and finite scores"):
        record_of(entry | {"height": 32, "width": 24}, predicted, theta_cover=0.9)
    predicted.scores[1] = float("nan")
    with pytest.raises(SohesError, match="2 of 3 scores finite"):
        record_of(entry, predicted, theta_cover=0.9)


def test_without_the_package_one_sentence_says_how_to_get_it(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(SohesError, match=r"facebookresearch/detectron2, as its INSTALL.md says, or take model.head"):
        register("sohes_test", project / "images", project / "labels")
    with pytest.raises(SohesError, match=r"model.head: detectron2-cascade .* need detectron2"):
        build_network(tiny_backbone(), model_params("detectron2-cascade"))


# ---------------------------------------------------------------- with detectron2


def tiny_backbone() -> Backbone:
    return Backbone(
        "vit_tiny_patch16_224", {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": SIZE}
    )


@pytest.fixture
def detectron2():
    return pytest.importorskip("detectron2", reason="detectron2 is not installed")


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
def test_a_registered_data_set_is_read_by_its_own_loader(detectron2, project):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.detection_utils import annotations_to_instances

    register("sohes_test", project / "images", project / "labels", files=project / "files")
    try:
        entries = DatasetCatalog.get("sohes_test")
        assert MetadataCatalog.get("sohes_test").thing_classes == ["entity"]
        plain = [a for a in entries[0]["annotations"] if not a["iscrowd"]]
        for each in plain:  # detectron2's mapper does the same with the boxes
            each["bbox"] = [each["bbox"][0], each["bbox"][1], each["bbox"][0] + each["bbox"][2],
                            each["bbox"][1] + each["bbox"][3]]  # fmt: skip
            each["bbox_mode"] = 0
        read = annotations_to_instances(plain, (24, 32), mask_format="bitmask")
        assert np.array_equal(read.gt_masks.tensor.numpy(), whole_and_part())
        with pytest.raises(SohesError, match="choose another name"):
            register("sohes_test", project / "images", project / "labels")
    finally:
        DatasetCatalog.remove("sohes_test")


def theirs_from_ours(ours: TorchvisionCascade, theirs: Detectron2Cascade) -> None:
    """Copy our weights: background comes last there, and box deltas and masks have no background."""
    with torch.no_grad():
        for k, stage in enumerate(ours.stages):
            head, predictor = theirs.heads.box_head[k], theirs.heads.box_predictor[k]
            pairs = [(head.fc1, stage.box_head.fc6), (head.fc2, stage.box_head.fc7)]
            for name in ("weight", "bias"):
                for there, here in pairs:
                    getattr(there, name).copy_(getattr(here, name))
                getattr(predictor.cls_score, name).copy_(getattr(stage.box_predictor.cls_score, name).flip(0))
                getattr(predictor.bbox_pred, name).copy_(getattr(stage.box_predictor.bbox_pred, name)[4:])
        mask = theirs.heads.mask_head
        for name in ("weight", "bias"):
            for i in range(4):
                getattr(getattr(mask, f"mask_fcn{i + 1}"), name).copy_(getattr(ours.mask_head[i][0], name))
            getattr(mask.deconv, name).copy_(getattr(ours.mask_predictor.conv5_mask, name))
            getattr(mask.predictor, name).copy_(getattr(ours.mask_predictor.mask_fcn_logits, name)[1:])


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
def test_our_cascade_gives_its_boxes_scores_and_masks(detectron2, monkeypatch):
    """With the same weights and proposals."""
    from detectron2.structures import Boxes, Instances

    torch.manual_seed(0)
    ours = TorchvisionCascade(model_params("cascade")).eval()
    theirs = Detectron2Cascade(model_params("detectron2-cascade"), pooler="ROIAlign").eval()
    for stage in ours.stages:  # deltas that move boxes by some pixels
        torch.nn.init.normal_(stage.box_predictor.bbox_pred.weight, std=0.5)
        torch.nn.init.normal_(stage.box_predictor.cls_score.weight, std=0.5)
    theirs_from_ours(ours, theirs)
    features = {str(i): torch.randn(2, 16, SIZE // s, SIZE // s) for i, s in enumerate((4, 8, 16, 32, 64))}
    corners = torch.rand(2, 30, 2) * 40
    rois = [torch.cat([c, c + 4 + 20 * torch.rand(30, 2)], 1).clamp(max=SIZE) for c in corners]
    proposals = [Instances((SIZE, SIZE), proposal_boxes=Boxes(r), objectness_logits=torch.zeros(30)) for r in rois]
    monkeypatch.setattr(ours.rpn, "forward", lambda *_: (rois, {}))
    monkeypatch.setattr(theirs.rpn, "forward", lambda *_: (proposals, {}))
    images = torch.zeros(2, 3, SIZE, SIZE)
    with torch.no_grad():
        for a, b in zip(ours.detect(images, features), theirs.detect(images, features), strict=True):
            assert len(a.scores_K) > 5
            torch.testing.assert_close(a.scores_K, b.scores_K, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(a.boxes_K4, b.boxes_K4, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(a.masks_Kmm, b.masks_Kmm, atol=1e-4, rtol=1e-4)


@pytest.mark.detectron2
@pytest.mark.filterwarnings("ignore")
def test_its_cascade_learns_our_labels(detectron2):
    torch.manual_seed(0)
    network = build_network(tiny_backbone(), model_params("detectron2-cascade")).train()
    shown = np.zeros((2, SIZE, SIZE), bool)
    shown[0, 10:50, 8:48], shown[1, 14:30, 12:28] = True, True
    image = np.full((SIZE, SIZE, 3), 40, np.uint8)
    image[shown[0]], image[shown[1]] = (200, 60, 60), (60, 60, 220)
    targets = Targets(torch.from_numpy(shown), torch.tensor([[False, True], [False, False]]))
    nothing = Targets(torch.zeros(0, SIZE, SIZE, dtype=torch.bool), torch.zeros(0, 0, dtype=torch.bool))
    images = network.backbone.normalise([image])
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    masks_losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses = network.losses(images, [targets])
        losses["loss"].backward()
        optimizer.step()
        masks_losses.append(float(losses["mask"]))
    assert set(losses) == {"loss", "objectness", "anchor", "class", "box", "mask"}
    assert masks_losses[-1] < 0.7 * masks_losses[0]
    assert network.losses(images, [nothing])["loss"].isfinite()
    with torch.no_grad():
        output = network.eval()(images)
    assert output.mask_logits_BQhw.shape == (1, 20, SIZE // 4, SIZE // 4)
