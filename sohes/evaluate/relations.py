"""How far two hierarchies of the same masks differ (paper table 6b)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sohes.errors import SohesError
from sohes.hierarchy import forest_ancestors
from sohes.structures import ImageRecord


def relations_changed(records: Iterable[ImageRecord], baseline: Iterable[ImageRecord]) -> float:
    """Percent of the baseline's ancestor relations that are gone, or new, in `records`.

    Both must hold the same masks of the same images in the same order: SohesError otherwise.
    """
    changed = total = 0
    for found, before in zip(records, baseline, strict=True):
        if found.image_id != before.image_id or found.masks.rles != before.masks.rles:
            raise SohesError(f"the masks of image {found.image_id} differ: only the hierarchies of equal masks compare")
        ancestors, ancestors_before = forest_ancestors(found.masks.parents), forest_ancestors(before.masks.parents)
        changed += int(np.count_nonzero(ancestors != ancestors_before))
        total += int(np.count_nonzero(ancestors_before))
    return 100 * changed / total if total else 0.0
