"""The embedded dataset as a source: drawn scenes with an exact hierarchy of masks, without a download."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from PIL import Image

from sohes.data.scenes.render import EVAL_OFFSET, render_scene
from sohes.data.sources.source import Photograph, Plan
from sohes.errors import SohesError
from sohes.masks import mask_set
from sohes.structures import ImageRecord


@dataclass(frozen=True)
class ScenesSource:
    """`train` scenes for training and `held_out` for evaluation, `size` x `size` pixels.

    The image id of a scene is its index in the generator plus one. Held-out scenes start at EVAL_OFFSET, so they do not
    change with the number of training scenes.
    """

    size: int
    train: int
    held_out: int
    seed: int

    def plan(self) -> Plan:
        if self.train > EVAL_OFFSET:
            raise SohesError(f"pull.scenes.train must be at most {EVAL_OFFSET} (got {self.train})")
        train = tuple(map(_photograph, range(self.train)))
        held_out = tuple(map(_photograph, range(EVAL_OFFSET, EVAL_OFFSET + self.held_out)))
        return Plan(train, held_out, apply_exif=False)

    def read(self, photograph: Photograph) -> bytes:
        scene = render_scene(photograph.image_id - 1, size=self.size, seed=self.seed)
        png = io.BytesIO()
        Image.fromarray(scene.image_HW3).save(png, "PNG")
        return png.getvalue()

    def truth(self, image_ids: Collection[int]) -> Iterator[ImageRecord]:
        for image_id in image_ids:
            scene = render_scene(image_id - 1, size=self.size, seed=self.seed)
            masks = mask_set(scene.masks_NHW, parents=scene.parents_N, sources="scene")
            yield ImageRecord(image_id, _photograph(image_id - 1).file_name, "", masks)


def _photograph(index: int) -> Photograph:
    return Photograph(index + 1, f"scene-{index:07d}.png")
