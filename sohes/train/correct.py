"""Phase 3, self-correction: a student learns from its own moving average, the teacher (paper 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sohes import masks
from sohes.masks import forest
from sohes.masks.sizes import SIZES
from sohes.model.build import Network
from sohes.params import CorrectParams, LossParams
from sohes.structures import ModelOutput, Targets
from sohes.train import augment
from sohes.train.closer import in_parts, joined, with_tiles
from sohes.train.dataset import Pair, PairBatch
from sohes.train.lesson import Lesson, areas_of, teach
from sohes.train.loop import Learner
from sohes.train.objective import losses_of
from sohes.train.outlines import refined
from sohes.train.parent_crops import with_children
from sohes.work.transfer import to_device, to_host


def into_strong_views(
    lessons: Sequence[Lesson], pairs: Sequence[Pair], *, max_targets: int, rngs: Sequence[np.random.Generator]
) -> tuple[Targets, ...]:
    """The student's targets: the lessons' masks in the strong views, underneath what was pasted there.

    At most `max_targets` of both together, across all scales. A GPU waits once.
    """
    views = [_moved(*one) for one in zip(lessons, pairs, strict=True)]
    areas = to_host([torch.stack([areas_of(moved), areas_of(visible)]) for moved, visible, _ in views], np.int64)
    found = []
    for lesson, pair, (_, visible, pasted), (before, after), rng in zip(
        lessons, pairs, views, areas, rngs, strict=True
    ):
        shows = np.flatnonzero(after >= augment.MIN_VISIBLE * before)
        kept = shows[augment.distinct(after[shows], forest.relink(lesson.parents_K, shows))]
        above = pair.strong.parents_N
        below = np.where(above >= 0, above + len(kept), -1)
        parents = np.concatenate([forest.relink(lesson.parents_K, kept), below])
        both = np.concatenate([after[kept], masks.pixel_counts(pair.strong.masks_NHW)])
        chosen = augment.sample_across_scales(both, max_targets, rng=rng)
        from_lesson, from_guest = kept[chosen[chosen < len(kept)]], chosen[chosen >= len(kept)] - len(kept)
        device = visible.device
        targets = torch.cat([visible[to_device(device, from_lesson)], pasted[to_device(device, from_guest)]])
        ancestors = forest.forest_ancestors(forest.relink(parents, chosen))
        found.append(Targets(targets, to_device(device, ancestors)))
    return tuple(found)


def _moved(lesson: Lesson, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """The lesson's masks in the strong view, what can be seen of them, and the masks that were pasted."""
    device = lesson.masks_KSS.device
    rows, columns, from_y, from_x = augment.shared_rectangle(pair.weak, pair.strong_view)
    moved = torch.zeros((len(lesson.parents_K), *pair.strong_view.canvas_hw), dtype=torch.bool, device=device)
    seen_rows, seen_columns = (to_device(device, index) for index in (from_y, from_x))
    moved[:, rows, columns] = lesson.masks_KSS.index_select(1, seen_rows).index_select(2, seen_columns)
    pasted = to_device(device, pair.strong.masks_NHW)
    return moved, moved & ~pasted.any(0) if len(pasted) else moved, pasted


class Correction(Learner[Network]):
    """Student (`network`) and teacher (`average`), both clones of phase 2's model; the teacher is what is kept.

    L = L_seg(student(strong(I1)), initial labels) + L_seg(student(strong(I2)), teacher(weak(I2))), equal weights. With
    `keep_labels`, I2 has its initial labels, too; with `hold_free`, both branches hold free queries to the teacher.
    """

    images_per_sample = 2

    def __init__(self, network: Network, params: CorrectParams, loss: LossParams) -> None:
        super().__init__(network, averaged=True, frozen=params.optim.backbone_lr_scale == 0)
        self.params, self.loss = params, loss
        self.own_loss = loss.model_copy(update={"no_object_weight": params.no_object_weight})  # the teacher's branch

    def momentum(self, step: int) -> float:
        return self.params.teacher_momentum

    def forward(self, batch: PairBatch, generator: torch.Generator) -> dict[str, Tensor]:
        rngs = [np.random.default_rng((generator.initial_seed(), pair.place)) for pair in batch.pairs]
        found = self._lessons(batch, rngs)
        lessons = self._beside_labels(found, batch.pairs, rngs)
        taught = into_strong_views(lessons, batch.pairs, max_targets=self.params.max_targets, rngs=rngs)
        given, own = (
            (batch.initial.images_B3HW, batch.initial.targets, self.loss),
            (batch.strong_B3HW, taught, self.own_loss),
        )
        initial, teacher = losses_of(self.network, [given, own], generator, self._holding(given[0], own[0]))
        branches = {"initial_labels": initial["loss"].detach(), "teacher_labels": teacher["loss"].detach()}
        counts = {
            name: initial["loss"].new_full((), count)
            for name, count in teacher_masks_per_image(found, batch.pairs).items()
        }
        return {**{name: initial[name] + teacher[name] for name in initial}, **branches, **counts}

    @torch.no_grad()
    def _holding(self, *views_B3HW: Tensor) -> ModelOutput | None:
        """With `hold_free`: what the teacher says of the student's own views."""
        return self.average(torch.cat(views_B3HW)) if self.average is not None and self.params.hold_free else None

    @torch.no_grad()
    def _lessons(self, batch: PairBatch, rngs: Sequence[np.random.Generator]) -> list[Lesson]:
        assert self.average is not None
        output = self.average(batch.weak_B3HW)
        closer = in_parts(self.average, len(batch.pairs))
        views = [pair.weak for pair in batch.pairs]
        shown = [pair.shown for pair in batch.pairs]
        lessons = teach(output.class_logits_BQ2, output.mask_logits_BQhw, views, shown, self.params, rngs=rngs)
        cell = batch.weak_B3HW.shape[-1] / output.mask_logits_BQhw.shape[-1]
        seen = 0
        for b, (pair, rng) in enumerate(zip(batch.pairs, rngs, strict=True)):
            own = slice(seen, seen := seen + len(pair.tiles.windows))
            if pair.tiles.windows and (squares := batch.tiles_U3SS(own)) is not None:
                lessons[b] = with_tiles(
                    lessons[b], pair.tiles, closer(squares), pair.weak, shown[b], self.params, rng=rng
                )
            if self.params.parent_crops:
                lessons[b] = with_children(
                    lessons[b], batch.weak_B3HW[b], pair.weak, shown[b], closer, self.params, rng=rng
                )
            lessons[b] = refined(lessons[b], pair.weak_HW3, pair.weak, self.params, cell=cell)
        return lessons

    def _beside_labels(
        self, found: list[Lesson], pairs: tuple[Pair, ...], rngs: Sequence[np.random.Generator]
    ) -> list[Lesson]:
        """With `keep_labels`: each pair's labels and, where there is room, found masks that resemble none of them.

        They get a new forest, by coverage, since the labels' own says nothing of the teacher's masks.
        """
        if not self.params.keep_labels:
            return found
        return [
            joined(pair.labels_LSS, lesson.masks_KSS, pair.weak, pair.shown, self.params, rng=rng, known_first=True)
            for lesson, pair, rng in zip(found, pairs, rngs, strict=True)
        ]


def teacher_masks_per_image(lessons: list[Lesson], pairs: tuple[Pair, ...]) -> dict[str, float]:
    """The teacher's masks that the student sees, by size in the photograph: `teacher_masks_S`, `_M`, `_L`.

    With `keep_labels` they are counted before they are compared with the labels.
    """
    areas = [
        lesson.area_fractions_K * (pair.weak.height * pair.weak.width)
        for lesson, pair in zip(lessons, pairs, strict=True)
    ]
    pooled = np.concatenate(areas)
    return {
        f"teacher_masks_{name}": float(((pooled >= low) & (pooled <= high)).sum() / len(pairs))
        for name, (low, high) in SIZES.items()
    }
