"""Compare hierarchies of the same masks (paper table 6b)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from sohes.errors import SohesError
from sohes.evaluate.recall import Side, paired
from sohes.masks import packed
from sohes.masks.forest import forest_ancestors, parents_by_coverage
from sohes.masks.stretch import as_packed
from sohes.structures import ImageRecord

SIDES = Side("labels", "hold", "lack"), Side("baseline's labels", "hold", "lack")


def relations_changed(records: Iterable[ImageRecord], baseline: Iterable[ImageRecord]) -> float | None:
    """Number of ancestor relations that are gone or new in `records`, as a percentage of the baseline's relations.

    None if the baseline has no relation. SohesError unless both hold the same images, in any order, and of each the
    same masks in the same order.
    """
    changed = total = 0
    for found, before in paired(records, baseline, sides=SIDES, remedy="compare labels of the same images"):
        if found.masks.rles != before.masks.rles:
            raise SohesError(f"the masks of image {found.image_id} differ: hierarchies compare only for the same masks")
        ancestors, ancestors_before = forest_ancestors(found.masks.parents), forest_ancestors(before.masks.parents)
        changed += int(np.count_nonzero(ancestors != ancestors_before))
        total += int(np.count_nonzero(ancestors_before))
    return 100 * changed / total if total else None


def with_coverage(records: Iterable[ImageRecord], thetas: Sequence[float]) -> list[list[ImageRecord]]:
    """For each threshold, the same masks with the forest by coverage at that threshold (paper 3.1, step 4)."""
    by_theta: list[list[ImageRecord]] = [[] for _ in thetas]
    for record in records:
        shared = packed.intersections(as_packed(record.masks))
        for theta_cover, at_theta in zip(thetas, by_theta, strict=True):
            parents = parents_by_coverage(shared, theta_cover=theta_cover)
            at_theta.append(replace(record, masks=replace(record.masks, parents=parents)))
    return by_theta


def relations_per_image(records: Sequence[ImageRecord]) -> float:
    """Mean number of pairs of masks in which one is an ancestor of the other."""
    return sum(int(forest_ancestors(record.masks.parents).sum()) for record in records) / len(records)
