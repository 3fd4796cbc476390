"""The containers that the rooms exchange, and the legend of shape letters.

Shape letters, used as suffixes (`mask_logits_BQhw`) and in docstrings:

    B  images in a batch          Q  queries               N  masks of one image
    C  channels                   T  targets of one image  P  points
    H, W  image pixels            h, w  cells of a feature or mask map

Relations: `ancestors[i, j]` is true if mask i is an ancestor of mask j (the paper's P, section 3.2);
`parents[j]` is the index of j's direct parent, or -1 for a root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:  # torch takes seconds to import, and half of the commands never need it
    from torch import Tensor


CROWD = "crowd"  # source of ground truth over many objects at once: evaluation neither asks for it nor punishes it


@dataclass(frozen=True)
class MaskSet:
    """The masks of one image with their scores and their forest; `sohes.masks` packs and unpacks it.

    rles: N byte strings, COCO's compressed run lengths of an H x W mask.
    scores: (N,) float32 in [0, 1]; float64 from other people's files, until a shard rounds them.
    parents: (N,) int64, index into this set, -1 for a root.
    sources: N words for the step that found each mask (`global`, `local`, `instruct`, ...), or CROWD.
    stated_areas: (N,) float64, the areas that the file of a ground truth states, NaN where it states none; or None.
    """

    height: int
    width: int
    rles: tuple[bytes, ...]
    scores: np.ndarray
    parents: np.ndarray
    sources: tuple[str, ...]
    stated_areas: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.rles)
        stated = (n,) if self.stated_areas is None else self.stated_areas.shape
        if not (self.scores.shape == self.parents.shape == stated == (n,) and len(self.sources) == n):
            raise ValueError(
                f"a MaskSet needs as many scores, parents and sources as masks (got {n} masks, "
                f"scores {self.scores.shape}, parents {self.parents.shape}, {len(self.sources)} sources)"
            )

    def __len__(self) -> int:
        return len(self.rles)

    @property
    def entities(self) -> int:
        """The number of masks that a prediction is asked for: all but crowds."""
        return sum(source != CROWD for source in self.sources)


@dataclass(frozen=True)
class ImageRecord:
    """One image and its masks: a row of a label or prediction shard."""

    image_id: int
    file_name: str
    digest: str
    masks: MaskSet


class Movable:
    """A dataclass of tensors, also in tuples and in further dataclasses, that moves as one."""

    def to(self, device: object) -> Self:
        """On the device; from pinned memory without waiting for the copy."""
        return _each_tensor(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        return _each_tensor(self, lambda tensor: tensor.pin_memory())


def _each_tensor(value: Any, change: Callable[[Any], Any]) -> Any:
    if type(value) is tuple:
        return tuple(_each_tensor(part, change) for part in value)
    if hasattr(value, "pin_memory") and not isinstance(value, Movable):  # a tensor, or what becomes one
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _each_tensor(getattr(value, f.name), change) for f in fields(value)}
        return replace(value, **parts)
    return value


@dataclass(frozen=True)
class Targets(Movable):
    """What one training image should give. masks_THW: bool. ancestors_TT: bool, [i, j] = i is an ancestor of j.

    From a loader the masks come as `sohes.train.bits.Bits`, which become a tensor when the batch is moved.
    """

    masks_THW: Tensor
    ancestors_TT: Tensor


@dataclass(frozen=True)
class Batch(Movable):
    """Training images, normalised for the backbone, and their targets. images_B3HW: float32."""

    images_B3HW: Tensor
    targets: tuple[Targets, ...]
    image_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class MaskFactors:
    """Mask logits that are not multiplied out: embedding times features, plus a term of the row and one of the column.

    The logits of all queries and layers are by far the largest tensor of a training step, and the loss looks at few of
    them.  embedding_BQC.  features_BChw.  rows_BQh, columns_BQw: None where the queries have no window.
    """

    embedding_BQC: Tensor
    features_BChw: Tensor
    rows_BQh: Tensor | None = None
    columns_BQw: Tensor | None = None

    def __getitem__(self, images: slice) -> MaskFactors:
        return self.map(lambda part: part[images])

    def parts(self) -> list[Tensor]:
        """The tensors that are there, in their order."""
        parts = (self.embedding_BQC, self.features_BChw, self.rows_BQh, self.columns_BQw)
        return [part for part in parts if part is not None]

    def map(self, change: Callable[[Tensor], Tensor]) -> MaskFactors:
        return MaskFactors(*map(change, self.parts()))

    def logits_BQhw(self) -> Tensor:
        """Multiplied out."""
        logits_BQhw = (self.embedding_BQC @ self.features_BChw.flatten(2)).unflatten(2, self.features_BChw.shape[2:])
        if self.rows_BQh is not None and self.columns_BQw is not None:  # in place: it is the largest tensor
            logits_BQhw.add_(self.rows_BQh[..., None]).add_(self.columns_BQw[..., None, :])
        return logits_BQhw


@dataclass(frozen=True)
class ModelOutput:
    """Raw predictions of the segmenter; `losses` and `model.decode` meet here.

    class_logits_BQ2: (entity, no object).  masks: logits (B, Q, h, w) at a quarter of the input size, or their factors.
    ancestor_logits_BQQ: [b, i, j] = query i's mask is an ancestor of query j's; None for auxiliary outputs,
    and for a head that knows no ancestors.
    auxiliary: the outputs of the earlier decoder layers, first layer first, for deep supervision.
    """

    class_logits_BQ2: Tensor
    masks: Tensor | MaskFactors
    ancestor_logits_BQQ: Tensor | None
    auxiliary: tuple[ModelOutput, ...] = field(default=())

    @cached_property
    def mask_logits_BQhw(self) -> Tensor:
        """The masks, multiplied out."""
        return self.masks.logits_BQhw() if isinstance(self.masks, MaskFactors) else self.masks


@dataclass(frozen=True)
class Logits:
    """A `ModelOutput` of one image as float32 arrays, whatever library computed it."""

    class_Q2: np.ndarray
    mask_Qhw: np.ndarray
    ancestor_QQ: np.ndarray | None
