"""Whether the GPU computes what the CPU computes: tokens, logits, losses, gradients, masks, assignments, lessons."""

from __future__ import annotations

import numpy as np
import torch

from infra.gpu.lab import Lab, Row, Rows, batch, blobs, network
from sohes.bench.decode import blob_logits
from sohes.losses.criterion import criterion
from sohes.losses.matcher import assign, matching_cost
from sohes.model.decode import decode
from sohes.params import Params
from sohes.structures import Logits
from sohes.train.augment import weak_view
from sohes.train.lesson import teach

BAR = 1e-3  # of the largest number
SIDE = 256  # pixels: the CPU has to do it too
Numbers = dict[str, torch.Tensor]


def run(lab: Lab) -> Rows:
    """The network in float32 and under bf16 autocast against the CPU's float32, then what follows the network."""
    params = lab.params("one-gpu")
    side = min(SIDE, params.model.image_size)
    params = params.model_copy(update={"model": params.model.model_copy(update={"image_size": side})})
    reference = _numbers(params, torch.device("cpu"), amp=False)
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    exact = _against(reference, _numbers(params, lab.device, amp=False))
    torch.backends.cudnn.allow_tf32 = tf32
    yield {"what": "float32", **exact, "within_bar": max(exact.values()) <= BAR}
    yield {"what": "float32, convolutions in TF32", **_against(reference, _numbers(params, lab.device, amp=False))}
    yield {"what": "bf16 autocast", **_against(reference, _numbers(params, lab.device, amp=True))}
    yield {"what": "after the network", **_after(lab, params)}


def _numbers(params: Params, device: torch.device, *, amp: bool) -> Numbers:
    """Tokens of the ViT, logits, the loss and all gradients of one step on one image, on the CPU."""
    model = network(params, device).train()
    given = batch(params, 1).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
        with torch.no_grad():
            tokens = model.backbone.tokens(given.images_B3HW)
        output = model(given.images_B3HW)
        # points are drawn on the CPU, so both devices compare the same ones
        losses = criterion(output, given.targets, params.loss, generator=torch.Generator().manual_seed(0))
    losses["loss"].backward()
    found = {
        "tokens": tokens,
        "classes": output.class_logits_BQ2,
        "masks": output.mask_logits_BQhw,
        "ancestors": output.ancestor_logits_BQQ,
        "loss": losses["loss"],
        "gradients": torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]),
    }
    return {name: value.detach().float().cpu() for name, value in found.items()}


def _against(reference: Numbers, found: Numbers) -> dict[str, float]:
    """The largest error of each, as a share of the reference's largest number."""
    return {
        name: float(f"{float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-12)):.3g}")
        for name, value in reference.items()
    }


def _after(lab: Lab, params: Params) -> Row:
    """The same raw predictions on both devices: equal masks, assignments and lessons of the teacher?"""
    side, count = params.model.image_size, 100
    logits = blob_logits(count, side // 4, seed=1)
    classes = torch.randn(count, 2, generator=torch.Generator().manual_seed(1)) + torch.tensor([2.0, -2.0])
    ancestors = torch.randn(count, count, generator=torch.Generator().manual_seed(2)) - 2
    both = [
        [value.to(device) for value in (classes, logits, ancestors)] for device in (torch.device("cpu"), lab.device)
    ]
    decoded = [_decode(*given, side, params) for given in both]
    assigned = [_assign(*given[:2], side) for given in both]
    lessons = [_lesson(*given[:2], side, params) for given in both]
    return {
        "masks": len(decoded[0]),
        "equal_masks": decoded[0].rles == decoded[1].rles,
        "equal_forests": bool(np.array_equal(decoded[0].parents, decoded[1].parents)),
        "equal_assignments": all(np.array_equal(a, b) for a, b in zip(*assigned, strict=True)),
        "lesson_masks": len(lessons[0].parents_K),
        "equal_lessons": bool(torch.equal(lessons[0].masks_KSS.cpu(), lessons[1].masks_KSS.cpu())),
    }


def _decode(classes, logits, ancestors, side: int, params: Params):
    options = params.evaluate.model_dump(
        include={"max_masks", "mask_threshold", "nms_iou", "votes", "ancestor_threshold", "coverage"}
    )
    sizes = {"content_hw": (side, side), "image_hw": (side, side)}
    arrays = Logits(*(part.cpu().numpy() for part in (classes, logits, ancestors)))
    return decode(arrays, **sizes, **options, theta_cover=0.9, source="check")


def _assign(classes, logits, side: int) -> tuple[np.ndarray, np.ndarray]:
    targets = torch.from_numpy(blobs(side)[0][:, 2::4, 2::4].copy()).flatten(1).float().to(logits.device)
    weights = {"class_weight": 2, "mask_weight": 5, "dice_weight": 5}
    return assign(matching_cost(classes, logits.flatten(1), targets, **weights).cpu().numpy())


def _lesson(classes, logits, side: int, params: Params):
    view = weak_view(side, side, size=side, rng=np.random.default_rng(0))
    return teach(
        classes[None], logits[None], [view], [(0, 0, side, side)], params.correct, rngs=[np.random.default_rng(0)]
    )[0]
