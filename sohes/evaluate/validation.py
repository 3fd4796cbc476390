"""Recall on the held-out images while a network trains. Each of the processes that train together takes its share."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.evaluate.predict import segment_images
from sohes.evaluate.recall import score_images, summarise
from sohes.params import EvaluateParams
from sohes.project import Project
from sohes.structures import ImageRecord

T = TypeVar("T")


class Processes(Protocol):
    """Those that train together: `sohes.train.world.World`, which this room must not import."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, value: T) -> list[T]: ...


def validator(
    project: Project, params: EvaluateParams, names: Mapping[str, str], world: Processes
) -> Callable[[Any], dict[str, float]] | None:
    """AR on the held-out images of a learner's networks, by `{attribute: name of the metric}`.

    The function must be called in every process, and gives each the same figures. None, with a message, if the
    held-out images have no annotations.
    """
    if not project.truth.exists():
        if world.rank == 0:
            print(f"no validation while training: there are no annotations at {project.truth}", file=sys.stderr)
        return None
    images, truth = ImageStore(project.held_out), LabelStore(project.truth)
    share = images.image_ids[world.rank :: world.size].tolist()

    def validate(learner: Any) -> dict[str, float]:
        values: dict[str, float] = {}
        for attribute, name in names.items():
            shown = (images.read(image_id) for image_id in share)
            masks = segment_images(getattr(learner, attribute), shown, params, source=name)
            found = (
                ImageRecord(i, images.entry(i).file_name, images.entry(i).digest, one)
                for i, one in zip(share, masks, strict=True)
            )
            own = score_images((truth.record(i) for i in share), found, max_masks=params.max_masks)
            scores = summarise(itertools.chain.from_iterable(world.gather(own)))
            if scores.AR is not None:
                values[f"{name}/AR"] = scores.AR
        return values

    return validate
