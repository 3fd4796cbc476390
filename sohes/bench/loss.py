"""`sohes bench loss`: CPU seconds and memory of the criterion and of transformers' Mask2FormerLoss in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sohes.bench.cost import Cost, cost_of, peak_gb
from sohes.bench.own_process import in_own_process
from sohes.errors import SohesError
from sohes.losses.criterion import criterion
from sohes.params import LossParams
from sohes.structures import MaskFactors, ModelOutput, Targets

SIZE, TARGETS, QUERIES, POINTS = 1024, 200, 200, 12544
LAYERS = 10  # supervised outputs, as in transformers: nine auxiliary ones and the last
ROUNDS = 3


def bench_loss(reference: bool = False) -> dict[str, str | float]:
    """Forward and backward of one 1024 x 1024 image's loss: 200 targets, 200 queries, 12,544 points, 10 layers.

    The product of embeddings and features, which makes the masks, belongs to either contender's loss.

    Keys name, seconds_median, cpu_seconds_median, peak_mb (of the process); with `reference` also
    reference_cpu_seconds, reference_peak_mb and ratio, here ours over transformers' CPU seconds. Each contender runs in
    its own process, so that their memory is separate. SohesError if the reference needs transformers and it is missing.
    """
    ours = in_own_process(_measure_ours)
    result: dict[str, str | float] = {"name": "loss", **ours.figures(3)}
    if reference:
        theirs = in_own_process(_measure_transformers)
        result["reference_cpu_seconds"] = round(theirs.cpu_seconds, 3)
        result["reference_peak_mb"] = round(theirs.peak_mb, 1)
        result["ratio"] = round(ours.cpu_seconds / theirs.cpu_seconds, 3)
    return result


def _measure_ours() -> Cost:
    params = LossParams(
        class_weight=2,
        matching_class_weight=2,
        queries_per_target=1,
        near_dice=0.7,
        mask_weight=5,
        dice_weight=5,
        ancestor_weight=1,
        no_object_weight=0.1,
        num_points=POINTS,
        oversample_ratio=3,
        importance_fraction=0.75,
        deep_supervision=True,
        matched_only=False,
    )
    masks_THW, class_logits, masks = example()
    ancestor_logits_BQQ = torch.zeros(1, QUERIES, QUERIES, requires_grad=True)
    ancestors_TT = torch.ones(TARGETS, TARGETS).tril(-1).bool()
    auxiliary = [ModelOutput(c, m, None) for c, m in zip(class_logits[:-1], masks[:-1], strict=True)]
    output = ModelOutput(class_logits[-1], masks[-1], ancestor_logits_BQQ, tuple(auxiliary))
    targets = (Targets(masks_THW, ancestors_TT),)
    return _cost(lambda: criterion(output, targets, params)["loss"])


def _measure_transformers() -> Cost:
    try:
        from transformers import Mask2FormerConfig
        from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss
    except ImportError:
        raise SohesError("the reference needs transformers: pip install 'sohes[dev]'") from None
    config = Mask2FormerConfig(num_queries=QUERIES, train_num_points=POINTS)
    config.num_labels = 1
    weights = {"loss_cross_entropy": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}
    reference = Mask2FormerLoss(config, weights)
    masks_THW, class_logits, masks = example()
    labels_THW, labels_T = masks_THW.float(), torch.zeros(TARGETS, dtype=torch.int64)

    def loss() -> Tensor:
        mask_logits = [of_layer.logits_BQhw() for of_layer in masks]
        auxiliary = [
            {"masks_queries_logits": m, "class_queries_logits": c}
            for c, m in zip(class_logits[:-1], mask_logits[:-1], strict=True)
        ]
        parts = reference(mask_logits[-1], class_logits[-1], [labels_THW], [labels_T], auxiliary)
        return sum(  # type: ignore[return-value]
            weight * value for name, value in parts.items() for key, weight in weights.items() if name.startswith(key)
        )

    return _cost(loss)


def example() -> tuple[Tensor, list[Tensor], list[MaskFactors]]:
    """Discs as targets (T, H, W), and per layer class logits (1, Q, 2) and the factors of similar masks."""
    draw = torch.Generator().manual_seed(0)
    centre_T2 = torch.rand(TARGETS, 2, generator=draw) * SIZE
    radius_T = torch.rand(TARGETS, generator=draw) * 150 + 10
    line = torch.arange(SIZE) + 0.5
    masks = [
        (line[:, None] - centre[0]) ** 2 + (line[None] - centre[1]) ** 2 < radius**2
        for centre, radius in zip(centre_T2, radius_T, strict=True)
    ]
    masks_THW = torch.stack(masks)
    features = (masks_THW[None, :, 2::4, 2::4].float() * 6 - 3).requires_grad_()
    resembles_Q = torch.randperm(TARGETS, generator=draw)[:QUERIES]
    class_logits, predicted = [], []
    for _ in range(LAYERS):
        class_logits.append(torch.randn(1, QUERIES, 2, generator=draw).requires_grad_())
        noise = torch.randn(1, QUERIES, TARGETS, generator=draw) * 0.03
        embedding_BQC = (torch.eye(TARGETS)[resembles_Q] + noise).requires_grad_()
        predicted.append(MaskFactors(embedding_BQC, features))
    return masks_THW, class_logits, predicted


def _cost(loss: Callable[[], Tensor]) -> Cost:
    """The cost, with all memory of the process: the example is small compared with the loss."""
    return replace(cost_of(lambda: loss().backward(), repeats=ROUNDS)[0], peak_mb=1000 * peak_gb())
