"""`sohes bench decode`: seconds and memory of decoding the raw predictions of one image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sohes import masks
from sohes.bench.cost import Cost, compared, cost_of
from sohes.bench.own_process import in_own_process
from sohes.masks import forest
from sohes.model.decode import decode
from sohes.structures import Logits, MaskSet

QUERIES, SIZE = 300, 1024
NMS_IOU, ANCESTOR_THRESHOLD = 0.9, 0.5


def blob_logits(count: int, side: int, seed: int = 0) -> Tensor:
    """(count, side, side) logits of wavy discs, most of them small, a few as large as the image."""
    generator = torch.Generator().manual_seed(seed)
    cells = (torch.arange(side) + 0.5) / side
    logits = torch.empty(count, side, side)
    for mask in logits:  # one by one, so that decoding dominates the peak memory
        centre_y, centre_x, size, turn = torch.rand(4, generator=generator)
        radius = 0.03 * 20**size  # 3 to 60 % of the side, log-uniform
        y, x = cells[:, None] - centre_y, cells[None, :] - centre_x
        waves = 1 + 0.15 * torch.sin(5 * torch.atan2(y, x) + 6 * turn)
        mask.copy_(12 * (1 - (x.square() + y.square()).sqrt() / (radius * waves)).clamp(min=-1))
    return logits


def bench_decode(reference: bool = False) -> dict[str, str | float]:
    """One image of 1024 x 1024 with 300 queries on one core. Keys name, seconds_median, cpu_seconds_median, peak_mb.

    reference: also the plain way, with masks enlarged by `interpolate` and packed by pycocotools; adds
    reference_cpu_seconds, reference_peak_mb and ratio (reference over ours). Each way runs in its own process; the peak
    is the growth of its memory beyond the predictions themselves.
    """
    cost = in_own_process(_measure, False)
    result: dict[str, str | float] = {"name": "decode", **cost.figures()}
    if reference:
        plain = in_own_process(_measure, True)
        result |= {**compared(cost, plain), "reference_peak_mb": round(plain.peak_mb, 1)}
    return result


def _measure(reference: bool, rounds: int = 5) -> Cost:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    classes, logits = torch.randn(QUERIES, 2, generator=generator), blob_logits(QUERIES, SIZE // 4)
    ancestors = torch.randn(QUERIES, QUERIES, generator=generator) - 4
    once = _plain if reference else _ours
    once(classes, logits[:, :8, :8], ancestors, size=32)  # compile before the clock starts
    return cost_of(lambda: once(classes, logits, ancestors), repeats=rounds)[0]


def _ours(class_logits_Q2: Tensor, mask_logits_Qhw: Tensor, ancestor_logits_QQ: Tensor, size: int = SIZE) -> MaskSet:
    return decode(
        Logits(class_logits_Q2.numpy(), mask_logits_Qhw.numpy(), ancestor_logits_QQ.numpy()),
        content_hw=(size, size),
        image_hw=(size, size),
        max_masks=1000,
        mask_threshold=0.5,
        nms_iou=NMS_IOU,
        votes=False,
        ancestor_threshold=ANCESTOR_THRESHOLD,
        coverage=False,
        theta_cover=0.9,
        source="bench",
    )


def _plain(class_logits_Q2: Tensor, mask_logits_Qhw: Tensor, ancestor_logits_QQ: Tensor, size: int = SIZE) -> MaskSet:
    logits = F.interpolate(mask_logits_Qhw[:, None], size=(size, size), mode="bilinear")[:, 0]
    inside = logits > 0
    scores = class_logits_Q2.softmax(-1)[:, 0] * (logits.sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(1)
    order = torch.argsort(scores, descending=True).numpy()
    shared = masks.intersections(inside.numpy())
    kept = masks.nms_from_iou(masks.iou_from_intersections(shared), order, nms_iou=NMS_IOU)
    said = ancestor_logits_QQ.sigmoid().numpy()[kept][:, kept] > ANCESTOR_THRESHOLD
    parents = forest.forest_from_relation(said, shared.diagonal()[kept], scores.numpy()[kept])
    return masks.mask_set(inside.numpy()[kept], scores=scores.numpy()[kept], parents=parents, sources="bench")
