"""Phase 3, self-correction: a student learns from its own moving average, the teacher (paper 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sohes import hierarchy, masks
from sohes.data import augment
from sohes.data.augment import View
from sohes.data.dataset import Pair, PairBatch, PairDataset
from sohes.model.build import Network
from sohes.params import CorrectParams, LossParams
from sohes.structures import Targets
from sohes.train.loop import Learner, Recorder, train
from sohes.train.objective import losses_of
from sohes.train.state import ResumableState
from sohes.train.threshold import theta_score
from sohes.train.world import World

SIZES = {"S": (0, 32**2), "M": (32**2, 96**2), "L": (96**2, float("inf"))}  # COCO's, pixels of the photograph
_UPSAMPLED_AT_ONCE = 32  # masks: 1024 x 1024 floats of all would be gigabytes


@dataclass(frozen=True)
class Lesson:
    """A teacher's masks of one image in the weak view.

    masks_KSS: bool, on the teacher's device.  parents_K: their forest.  area_fractions_K: of the image.
    """

    masks_KSS: Tensor
    parents_K: np.ndarray
    area_fractions_K: np.ndarray


@torch.no_grad()
def teach(
    class_logits_Q2: Tensor, mask_logits_Qhw: Tensor, weak: View, params: CorrectParams, *, rng: np.random.Generator
) -> Lesson:
    """What the teacher is sure of in one weak view: dynamic threshold, NMS, forest by coverage (paper 3.3).

    Scores (class probability x mean mask probability inside the mask), areas, overlaps and the hierarchy are taken
    on the mask map; only the at most `max_targets` masks that are kept grow to the square's size.
    """
    size, (h, w) = weak.canvas_hw[0], mask_logits_Qhw.shape[1:]
    bottom, right = weak.window[2:]
    rows, columns = max(1, round(bottom * h / size)), max(1, round(right * w / size))
    logits_QP = mask_logits_Qhw[:, :rows, :columns].flatten(1).float()
    inside_QP = (logits_QP > 0).float()
    cells_Q = inside_QP.sum(1)
    certainty_Q = (logits_QP.sigmoid() * inside_QP).sum(1) / cells_Q.clamp(min=1)
    scores_Q = class_logits_Q2.float().softmax(-1)[:, 0] * certainty_Q
    scores, fractions = torch.stack([scores_Q, cells_Q / (rows * columns)]).double().cpu().numpy()
    wanted = theta_score(
        fractions,
        theta_score_small=params.theta_score_small,
        theta_score_large=params.theta_score_large,
        gamma=params.gamma,
    )
    sure = np.flatnonzero((scores > wanted) & (fractions > 0))
    inside_KP = inside_QP[torch.from_numpy(sure).to(inside_QP.device)]
    shared_KK = (inside_KP @ inside_KP.T).cpu().numpy().astype(np.int64)  # counts: exact in float32 below 2^24
    by_score = np.argsort(-scores[sure], kind="stable")
    kept = np.sort(masks.nms_from_iou(masks.iou_from_intersections(shared_KK), by_score, nms_iou=params.nms_iou))
    kept = kept[augment.sample_across_scales(np.diagonal(shared_KK)[kept], params.max_targets, rng=rng)]
    shared_KK = shared_KK[np.ix_(kept, kept)]
    ancestors_KK = hierarchy.ancestors_from_intersections(shared_KK, theta_cover=params.theta_cover)
    chosen = torch.from_numpy(sure[kept]).to(mask_logits_Qhw.device)
    masks_KSS = _grow(mask_logits_Qhw[chosen], size)
    masks_KSS[:, bottom:] = False
    masks_KSS[:, :, right:] = False
    parents_K = hierarchy.parents_from_ancestors(ancestors_KK, np.diagonal(shared_KK))
    return Lesson(masks_KSS, parents_K, fractions[sure[kept]])


def _grow(logits_Khw: Tensor, size: int) -> Tensor:
    """(K, S, S) bool masks from logits of a mask map."""
    grown = torch.zeros((len(logits_Khw), size, size), dtype=torch.bool, device=logits_Khw.device)
    for start in range(0, len(logits_Khw), _UPSAMPLED_AT_ONCE):
        some = logits_Khw[start : start + _UPSAMPLED_AT_ONCE, None].float()
        full = F.interpolate(some, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
        grown[start : start + _UPSAMPLED_AT_ONCE] = full > 0
    return grown


def into_strong_view(lesson: Lesson, pair: Pair) -> Targets:
    """The teacher's masks in the strong view's geometry, beneath what was pasted there, as the student's targets."""
    device = lesson.masks_KSS.device
    rows, columns, from_y, from_x = augment.shared_rectangle(pair.weak, pair.strong_view)
    moved = torch.zeros((len(lesson.parents_K), *pair.strong_view.canvas_hw), dtype=torch.bool, device=device)
    seen_rows, seen_columns = (torch.from_numpy(index).to(device) for index in (from_y, from_x))
    moved[:, rows, columns] = lesson.masks_KSS.index_select(1, seen_rows).index_select(2, seen_columns)
    pasted = torch.from_numpy(pair.strong.masks_NHW).to(device)
    visible = moved & ~pasted.any(0) if len(pasted) else moved
    before, after = torch.stack([moved.sum((1, 2)), visible.sum((1, 2))]).cpu().numpy()
    shows = np.flatnonzero(after >= augment.MIN_VISIBLE * before)
    kept = shows[augment.distinct(after[shows], hierarchy.relink(lesson.parents_K, shows))]
    above = pair.strong.parents_N
    parents = np.concatenate([hierarchy.relink(lesson.parents_K, kept), np.where(above >= 0, above + len(kept), -1)])
    targets = torch.cat([visible[torch.from_numpy(kept).to(device)], pasted])
    return Targets(targets, torch.from_numpy(hierarchy.forest_ancestors(parents)).to(device))


class Correction(Learner):
    """Student (`network`) and teacher (`average`), both clones of phase 2's model; the teacher is what is kept.

    L = L_seg(student(strong(I1)), initial labels) + L_seg(student(strong(I2)), teacher(weak(I2))), equal weights.
    """

    images_per_sample = 2

    def __init__(self, network: Network, params: CorrectParams, loss: LossParams) -> None:
        super().__init__(network, averaged=True)
        self.params, self.loss = params, loss

    def momentum(self, step: int) -> float:
        return self.params.teacher_momentum

    def forward(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        lessons = self._lessons(batch, generator)
        taught = tuple(into_strong_view(lesson, pair) for lesson, pair in zip(lessons, batch.pairs, strict=True))
        given, own = (batch.initial.images_B3HW, batch.initial.targets), (batch.strong_B3HW, taught)
        initial, teacher = losses_of(self.network, [given, own], self.loss, generator)
        branches = {"initial_labels": initial["loss"].detach(), "teacher_labels": teacher["loss"].detach()}
        counts = teacher_masks_per_image(lessons, batch.pairs)
        kept = {name: initial["loss"].new_tensor(count) for name, count in counts.items()}
        return {**{name: initial[name] + teacher[name] for name in initial}, **branches, **kept}

    @torch.no_grad()
    def _lessons(self, batch: PairBatch, generator: torch.Generator) -> list[Lesson]:
        assert self.average is not None
        output = self.average(batch.weak_B3HW)
        return [
            teach(
                output.class_logits_BQ2[b],
                output.mask_logits_BQhw[b],
                pair.weak,
                self.params,
                rng=np.random.default_rng((generator.initial_seed(), b)),
            )
            for b, pair in enumerate(batch.pairs)
        ]


def teacher_masks_per_image(lessons: list[Lesson], pairs: tuple[Pair, ...]) -> dict[str, float]:
    """How many masks the teacher was sure of, by their size in the photograph: `teacher_masks_S`, `_M`, `_L`."""
    areas = [
        lesson.area_fractions_K * (pair.weak.height * pair.weak.width)
        for lesson, pair in zip(lessons, pairs, strict=True)
    ]
    pooled = np.concatenate(areas)
    return {
        f"teacher_masks_{name}": float(((pooled >= low) & (pooled < high)).sum() / len(pairs))
        for name, (low, high) in SIZES.items()
    }


def correct(
    network: Network,
    dataset: PairDataset,
    params: CorrectParams,
    loss: LossParams,
    *,
    seed: int,
    world: World,
    state: ResumableState,
    recorder: Recorder,
    validate: Callable[[Learner], dict[str, float]] | None = None,
) -> tuple[Network, list[dict[str, float]]]:
    """Train on from phase 2's segmenter; the teacher, which is what to keep, and the history of the losses."""
    learner = Correction(network, params, loss)
    history = train(
        learner,
        dataset,
        params,
        title="correct",
        seed=seed,
        world=world,
        state=state,
        recorder=recorder,
        validate=validate,
    )
    return learner.kept, history
