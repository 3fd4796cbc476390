"""Nothing in the losses, the matcher, the network or the decoder is broken: eight images can be learned by heart."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sohes import masks
from sohes.backbone.vit import Backbone
from sohes.data.scenes.render import render_scene
from sohes.evaluate.predict import segment_images
from sohes.evaluate.recall import evaluate_masks
from sohes.losses.criterion import criterion
from sohes.losses.points import area_targets
from sohes.masks.forest import forest_ancestors
from sohes.model.decode import decode
from sohes.model.network import Segmenter
from sohes.params import EvaluateParams, LossParams, ModelParams, OptimParams, TilesParams
from sohes.structures import ImageRecord, Logits, MaskSet, Targets
from sohes.train.optim import make_optimizer, rate_factor, set_rate

SIZE, IMAGES, STEPS = 64, 8, 500
LOSS = LossParams(
    class_weight=2, matching_class_weight=2, queries_per_target=1, near_dice=0.7,
    mask_weight=5, dice_weight=5, ancestor_weight=1,
    no_object_weight=0.1, num_points=1024, oversample_ratio=3, importance_fraction=0.75,
    deep_supervision=True, matched_only=False,
)  # fmt: skip
OPTIM = OptimParams(
    learning_rate=0.003, backbone_lr_scale=1.0, weight_decay=0.0, warmup_steps=20, clip_norm=1.0, amp=False
)
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
    batch_size=IMAGES,
    images_per_shard=IMAGES,
)


def network() -> Segmenter:
    torch.manual_seed(0)
    shape = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": SIZE}
    params = ModelParams.model_validate(
        {
            "image_size": SIZE, "hidden_dim": 64, "num_queries": 84, "queries": "grid", "num_heads": 4,
            "feedforward_dim": 128, "pixel_decoder_layers": 1, "decoder_layers": 2, "recompute_blocks": False,
            "adapter": {"interactions": 1, "stem_dim": 32, "num_heads": 4, "points": 4}, "head": "mask2former",
            "cascade": {"ious": [0.5], "proposals": 10, "samples": 8, "anchor_scale": 4, "nms_iou": 0.7,
                        "theta_cover": 0.9},
        }
    )  # fmt: skip
    return Segmenter(Backbone("vit_tiny_patch16_224", shape), params)


def ceiling(scene) -> MaskSet:
    """The best masks that stride-4 maps can hold: logits fitted to the pixels of their bilinear enlargement."""
    wanted = torch.from_numpy(scene.masks_NHW).float()
    shares = area_targets(torch.from_numpy(scene.masks_NHW), SIZE // 4, SIZE // 4).clamp(0.01, 0.99)
    logits = shares.logit().unflatten(1, (SIZE // 4, SIZE // 4)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        enlarged = F.interpolate(logits[:, None], size=(SIZE, SIZE), mode="bilinear")[:, 0]
        F.binary_cross_entropy_with_logits(enlarged, wanted, reduction="sum").backward()
        optimizer.step()
    sure = torch.tensor([[9.0, 0.0]]).expand(len(logits), -1)
    rules = RULES.model_dump(
        include={"max_masks", "mask_threshold", "nms_iou", "votes", "ancestor_threshold", "coverage"}
    )
    sizes = {"content_hw": (SIZE, SIZE), "image_hw": (SIZE, SIZE)}
    given = Logits(sure.numpy(), logits.detach().numpy(), None)
    return decode(given, **sizes, theta_cover=0.9, source="ceiling", **rules)


@pytest.mark.slow
def test_eight_images_are_learned_by_heart():
    scenes = [render_scene(i, size=SIZE, seed=0) for i in range(IMAGES)]
    model = network().train()
    images_B3HW = model.backbone.normalise([scene.image_HW3 for scene in scenes])
    targets = tuple(
        Targets(torch.from_numpy(s.masks_NHW), torch.from_numpy(forest_ancestors(s.parents_N))) for s in scenes
    )
    optimizer = make_optimizer(model, model.backbone, OPTIM)
    for step in range(STEPS):
        set_rate(optimizer, rate_factor(step, steps=STEPS, warmup_steps=OPTIM.warmup_steps))
        optimizer.zero_grad()
        criterion(model(images_B3HW), targets, LOSS)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
        optimizer.step()

    truth = [
        ImageRecord(i, "", "", masks.mask_set(s.masks_NHW, parents=s.parents_N)) for i, s in enumerate(scenes)
    ]  # fmt: skip
    found = segment_images(model, [np.asarray(s.image_HW3) for s in scenes], RULES, source="overfit")
    learned = evaluate_masks(truth, [ImageRecord(i, "", "", f) for i, f in enumerate(found)], max_masks=100)
    possible = evaluate_masks(truth, [ImageRecord(i, "", "", ceiling(s)) for i, s in enumerate(scenes)], max_masks=100)
    print(f"AR@100 {learned.AR:.1f} of {possible.AR:.1f}, ancestor F1 {learned.ancestor_f1:.1f}")  # pytest -s
    assert learned.AR > 0.9 * possible.AR
    assert learned.ancestor_f1 > 80
