import numpy as np
import pytest
import torch

from sohes.backbone.vit import Backbone
from sohes.downstream.probes import DetectionProbe, SemanticProbe, classes_at
from sohes.params import AdapterParams

ADAPTER = AdapterParams(interactions=1, stem_dim=8, num_heads=2, points=4)


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    shape = {"patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
    return Backbone("vit_tiny_patch16_224", shape)


def detector(backbone: Backbone) -> DetectionProbe:
    return DetectionProbe(backbone, ADAPTER, classes=3, dim=16, image_size=64)


def losses(probe, images):
    if isinstance(probe, SemanticProbe):
        return probe.losses(images, torch.randint(0, 3, (2, 64, 64)), void=-1)
    return probe.losses(
        images, (torch.tensor([[4.0, 4, 40, 40]]), torch.zeros(0, 4)), (torch.tensor([2]), torch.zeros(0).long())
    )


@pytest.mark.parametrize("task", ["semantic", "detection"])
def test_all_that_may_learn_learns_and_the_vit_does_not(backbone, task):
    probe = SemanticProbe(backbone, ADAPTER, classes=3) if task == "semantic" else detector(backbone)
    losses(probe.train(), torch.randn(2, 3, 64, 64))["loss"].backward()
    learns = {name for name, p in probe.named_parameters() if p.requires_grad}
    # gamma is zero at first, so nothing flows through the injectors' attention yet: its gradient is 0, not None
    assert {name for name, p in probe.named_parameters() if p.grad is not None} == learns
    assert not [name for name in learns if "vit." in name]
    assert [name for name in learns if "extractors" in name]
    assert not probe.backbone.training


@pytest.mark.parametrize(("patch_size", "side"), [(14, 70), (16, 80), (14, 224)])
def test_a_square_of_whole_patches_is_taken_as_it_is(patch_size, side):
    shape = {"patch_size": patch_size, "embed_dim": 32, "depth": 1, "num_heads": 2, "img_size": side}
    backbone = Backbone("vit_tiny_patch16_224", shape)
    seen = []
    backbone.vit.patch_embed.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    probe = DetectionProbe(backbone, ADAPTER, classes=3, dim=16, image_size=side).train()
    images = torch.randn(1, 3, side, side)
    assert probe.losses(images, (torch.tensor([[1.0, 1, 30, 30]]),), (torch.tensor([2]),))["loss"].isfinite()
    assert torch.equal(seen[0], images)


def test_boxes_are_float32_also_under_autocast(backbone):
    probe, seen = detector(backbone).train(), {}
    probe.detector.head.register_forward_hook(lambda module, given, made: seen.update(made))
    probe.detector.backbone.coarser.register_forward_hook(lambda module, given, made: seen.update(maps=made[0][0]))
    with torch.autocast("cpu", torch.bfloat16):
        assert losses(probe, torch.randn(2, 3, 64, 64))["loss"].dtype == torch.float32
    assert seen["maps"].dtype == torch.bfloat16
    assert seen["bbox_regression"].dtype == seen["cls_logits"].dtype == torch.float32


def test_void_pixels_teach_nothing(backbone):
    probe, images = SemanticProbe(backbone, ADAPTER, classes=3), torch.randn(1, 3, 64, 64)
    wanted = torch.randint(0, 3, (1, 64, 64))
    half = wanted.clone()
    half[:, 32:] = -1
    other = half.clone()
    assert probe.losses(images, half, void=-1)["loss"] != probe.losses(images, wanted, void=-1)["loss"]
    assert probe.losses(images, other, void=-1)["loss"] == probe.losses(images, half, void=-1)["loss"]
    assert probe.losses(images, torch.full_like(wanted, -1), void=-1)["loss"] == 0


def test_boxes_come_in_pixels_of_the_square_best_first(backbone):
    probe = detector(backbone).eval()
    torch.nn.init.constant_(probe.detector.head.classification_head.cls_logits.bias, 0.0)
    with torch.inference_mode():
        (found,) = probe.detect(torch.randn(1, 3, 64, 64))
    assert len(found.boxes_K4) > 0
    assert (found.boxes_K4 >= 0).all()
    assert (found.boxes_K4 <= 64).all()
    assert (found.scores_K.diff() <= 0).all()


def test_classes_of_a_photograph_from_a_square():
    """20 classes, more than are enlarged at once: 17 on the left half of a 32 x 16 content, 3 on the right one."""
    logits = torch.zeros(20, 8, 8)
    logits[17, :, :4] = 5
    logits[3, :, 4:] = 5
    found = classes_at(logits, content_hw=(16, 32), image_hw=(40, 80), size=32)
    assert found.shape == (40, 80)
    assert (found[:, :38] == 17).all()
    assert (found[:, 42:] == 3).all()
    assert set(np.unique(found)) == {3, 17}
