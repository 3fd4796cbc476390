"""Image ids in numpy: which row an image has, without a Python object an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa

from sohes.errors import SohesError
from sohes.structures import ImageRecord


class Ids:
    """Distinct image ids in the order of their rows, `in_order` (N,) int64; each is found in log N steps.

    Ids that rise, as those of packs do, need no memory besides. Others need as much again.
    """

    def __init__(self, in_order: np.ndarray) -> None:
        self.in_order = in_order.view()
        self.in_order.setflags(write=False)
        rises = bool((in_order[1:] > in_order[:-1]).all())
        self._rows = None if rises else np.argsort(in_order, kind="stable")  # rows by rising id
        self._rising = self.in_order if self._rows is None else in_order[self._rows]

    @classmethod
    def of_column(cls, column: pa.ChunkedArray) -> Ids:
        """Of a column of int64. ValueError if one is missing."""
        if column.null_count:
            raise ValueError("an image has no id")
        # pyarrow's own `to_numpy` imports pandas first, which takes a second.
        return cls(np.concatenate([np.zeros(0, np.int64), *map(np.from_dlpack, column.chunks)]))

    def __len__(self) -> int:
        return len(self.in_order)

    def row(self, image_id: int) -> int | None:
        """The row of an image, None if it has none."""
        place = int(np.searchsorted(self._rising, image_id))
        if place == len(self) or self._rising[place] != image_id:
            return None
        return place if self._rows is None else int(self._rows[place])

    def twice(self) -> int | None:
        """An id that occurs more than once, None if all are distinct."""
        repeated = np.flatnonzero(self._rising[1:] == self._rising[:-1])
        return int(self._rising[repeated[0]]) if len(repeated) else None


def distinct(records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    """The records as they come. SohesError for one whose image id another had before."""
    seen: set[int] = set()
    for record in records:
        if record.image_id in seen:
            raise SohesError(
                f"image id {record.image_id} occurs twice, the second time for {record.file_name or 'an image'}: give "
                "every image an id of its own, or remove the stale copy"
            )
        seen.add(record.image_id)
        yield record
