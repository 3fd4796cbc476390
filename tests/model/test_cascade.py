import numpy as np
import pytest
import torch

from sohes import masks
from sohes.backbone.vit import Backbone
from sohes.evaluate.predict import segment_images
from sohes.model.build import build_network
from sohes.model.cascade import CascadeSegmenter, paste, truth_of
from sohes.model.cascade_heads import Detections
from sohes.model.footprint import activation_bytes
from sohes.params import EvaluateParams, ModelParams, TilesParams
from sohes.structures import Targets

SIZE = 64
RULES = EvaluateParams(
    max_masks=100,
    mask_threshold=0.5,
    nms_iou=0.9,
    votes=False,
    ancestor_threshold=0.5,
    coverage=False,
    refiner="none",
    refine_size=64,
    refine_min_iou=0.5,
    tiles=TilesParams(levels=(), overlap=0.25, score_factor=0.9),
    theta_cover=0.9,
    batch_size=2,
    images_per_shard=2,
)


def cascade_params(**changes):
    params = {
        "head": "cascade", "image_size": SIZE, "hidden_dim": 16, "num_queries": 20, "queries": "learned",
        "num_heads": 2, "feedforward_dim": 32, "pixel_decoder_layers": 1, "decoder_layers": 1,
        "recompute_blocks": False, "adapter": {"interactions": 1, "stem_dim": 8, "num_heads": 2, "points": 2},
        "cascade": {"ious": [0.5, 0.6, 0.7], "proposals": 60, "samples": 32, "anchor_scale": 4, "nms_iou": 0.7,
                    "theta_cover": 0.9},
    }  # fmt: skip
    return ModelParams.model_validate(params | changes)


def tiny(**changes) -> CascadeSegmenter:
    torch.manual_seed(0)
    shape = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": SIZE}
    network = build_network(Backbone("vit_tiny_patch16_224", shape), cascade_params(**changes))
    assert isinstance(network, CascadeSegmenter)
    return network


def a_square_with_a_part():
    shown = np.zeros((2, SIZE, SIZE), bool)
    shown[0, 10:50, 8:48], shown[1, 14:30, 12:28] = True, True
    image = np.full((SIZE, SIZE, 3), 40, np.uint8)
    image[shown[0]], image[shown[1]] = (200, 60, 60), (60, 60, 220)
    return image, Targets(torch.from_numpy(shown), torch.tensor([[False, True], [False, False]]))


def no_targets():
    return Targets(torch.zeros(0, SIZE, SIZE, dtype=torch.bool), torch.zeros(0, 0, dtype=torch.bool))


def test_boxes_hold_whole_pixels_and_nothing_has_none():
    shown = torch.zeros(1, 8, 8, dtype=torch.bool)
    shown[0, 2:4, 3:7] = True
    assert truth_of(Targets(shown, torch.zeros(1, 1, dtype=torch.bool))).boxes_T4.tolist() == [[3, 2, 7, 4]]
    assert truth_of(no_targets()).boxes_T4.shape == (0, 4)


def test_a_pasted_mask_lies_where_its_box_lies():
    """A box of 32 x 16 pixels whose left half is the mask: 4 x 4 cells of the map."""
    grid = torch.zeros(1, 28, 28)
    grid[:, :, :14] = 1
    logits = paste(Detections(torch.tensor([[8.0, 16.0, 40.0, 32.0]]), torch.ones(1), grid), 16, 16)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:8, 2:6] = True
    assert torch.equal(logits[0] > 0, expected)
    none = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, 28, 28))
    assert paste(none, 16, 16).shape == (0, 16, 16)


def test_every_parameter_learns_whether_or_not_there_are_targets():
    network = tiny().train()
    image, targets = a_square_with_a_part()
    images = network.backbone.normalise([image, image])
    for given in ((targets, no_targets()), (no_targets(), no_targets())):
        network.zero_grad(set_to_none=True)
        losses = network.losses(images, given)
        assert set(losses) == {"loss", "objectness", "anchor", "class", "box", "mask"}
        parts = sum(value for name, value in losses.items() if name != "loss")
        torch.testing.assert_close(losses["loss"].detach(), parts)
        losses["loss"].backward()
        assert [name for name, p in network.named_parameters() if p.grad is None] == []
        assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("part", ["pyramid.inner_blocks.0.0.weight", "detector.stages.0.box_predictor.bbox_pred.bias"])
@pytest.mark.parametrize("second", [a_square_with_a_part()[1], no_targets()])
def test_a_weight_that_is_no_number_shows_in_the_loss(part, second):
    network = tiny().train()
    with torch.no_grad():
        network.get_parameter(part).view(-1)[-1] = torch.nan
    losses = network.losses(torch.randn(2, 3, SIZE, SIZE), [a_square_with_a_part()[1], second])
    assert losses["loss"].isnan()


def test_boxes_that_all_collapse_leave_those_before_them():
    network = tiny().train()
    with torch.no_grad():
        network.detector.stages[0].box_predictor.bbox_pred.bias[4:] = torch.tensor([0.0, 0.0, -60.0, -60.0])
    losses = network.losses(torch.randn(2, 3, SIZE, SIZE), [a_square_with_a_part()[1], no_targets()])
    assert losses["loss"].isfinite()


def test_bfloat16_autocast_trains():
    network = tiny().train()
    image, targets = a_square_with_a_part()
    with torch.autocast("cpu", torch.bfloat16):
        loss = network.losses(network.backbone.normalise([image]), [targets])["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_the_output_is_of_the_form_of_the_other_heads():
    network = tiny().eval()
    with torch.no_grad():
        output = network(torch.randn(2, 3, SIZE, SIZE))
    assert output.class_logits_BQ2.shape == (2, 20, 2)
    assert output.mask_logits_BQhw.shape == (2, 20, SIZE // 4, SIZE // 4)
    assert output.ancestor_logits_BQQ is None
    scores = output.class_logits_BQ2.softmax(-1)[..., 0]
    assert (scores.diff(dim=1) <= 1e-6).all()
    assert output.mask_logits_BQhw.isfinite().all()


def test_it_learns_one_image_and_its_hierarchy_by_heart():
    network = tiny().train()
    image, targets = a_square_with_a_part()
    images = network.backbone.normalise([image])
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    for _ in range(100):
        optimizer.zero_grad()
        network.losses(images, [targets])["loss"].backward()
        optimizer.step()
    (found,) = segment_images(network, [image], RULES.model_copy(update={"max_masks": 2}), source="cascade")
    dense, wanted = (m.reshape(2, -1).astype(float) for m in (masks.decode(found), targets.masks_THW.numpy()))
    shared = dense @ wanted.T
    iou = shared / (dense.sum(1)[:, None] + wanted.sum(1)[None] - shared)
    whole, part = iou.argmax(0)
    assert iou[[whole, part], [0, 1]].min() > 0.75
    assert found.scores.min() > 0.5
    assert found.parents[[whole, part]].tolist() == [-1, whole]


def test_memory_can_be_counted_without_any():
    with torch.device("meta"):
        small, large = tiny(), tiny(cascade=cascade_params().cascade.model_copy(update={"samples": 64}).model_dump())
    assert 0 < activation_bytes(small, amp=False) < activation_bytes(large, amp=False)
