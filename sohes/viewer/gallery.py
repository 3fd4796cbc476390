"""What the viewer shows: photographs with layers of masks, from results or from a project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sohes import masks
from sohes.data.imaging import encode_jpeg, fit
from sohes.data.store.decode import MAX_MEGAPIXELS, decode_image
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.errors import SohesError
from sohes.evaluate import pictures
from sohes.masks import forest
from sohes.masks.mask_json import read_sa1b
from sohes.pipeline import PHASES
from sohes.project import Project
from sohes.structures import MaskSet

TRUTH = "ground truth"
LONGEST = 1024  # pixels of a side as shown; masks are reduced with their photograph


@dataclass(frozen=True)
class Picture:
    """A photograph, (H, W, 3) uint8, and its layers by name."""

    image: np.ndarray
    layers: dict[str, MaskSet]


class Gallery(Protocol):
    """Pictures by their place in `names`."""

    @property
    def names(self) -> Sequence[str]: ...

    def read(self, place: int) -> Picture: ...


class ResultGallery:
    """What `sohes segment` wrote: JSON files with `<name>.photo.jpg` beside them."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self.names = [file.stem for file in self.files]

    def read(self, place: int) -> Picture:
        """One picture with the layer `masks`. SohesError for a file that is not such a result, or has no photograph."""
        file = self.files[place]
        photo = file.with_name(f"{file.stem}.photo.jpg")
        if not photo.exists():
            raise SohesError(f"no photograph at {photo}: run `sohes segment` again")
        image = decode_image(photo.read_bytes(), max_megapixels=MAX_MEGAPIXELS, apply_exif=False)
        return Picture(image, {"masks": read_result(file)})


class ProjectGallery:
    """A project's held-out images: the ground truth, if there is any, and the masks of each phase."""

    def __init__(self, root: Path) -> None:
        project = Project(root)
        self.images = ImageStore(project.held_out)
        shards = [(TRUTH, project.truth), *((phase, project.predictions(phase)) for phase in PHASES)]
        self.layers = {name: LabelStore(folder) for name, folder in shards if folder.exists()}
        self.names = [self.images.entry(image_id).file_name for image_id in self.images.image_ids]

    def read(self, place: int) -> Picture:
        image_id = int(self.images.image_ids[place])
        found = {name: store.record(image_id).masks for name, store in self.layers.items() if image_id in store}
        return Picture(self.images.read(image_id), found)


def read_result(file: Path) -> MaskSet:
    """The masks of one JSON file of `sohes segment`. SohesError if it is none, or if its parents form a cycle."""
    try:
        return read_sa1b(json.loads(file.read_bytes()), file).masks
    except (ValueError, RecursionError, SohesError) as error:
        raise SohesError(
            f"{file} is not a result of `sohes segment` ({error}): name the folder that it wrote, or segment again"
        ) from None


def is_result(file: Path) -> bool:
    """A JSON file with its photograph beside it."""
    return file.suffix == ".json" and file.with_name(f"{file.stem}.photo.jpg").exists()


def as_shown(picture: Picture) -> tuple[bytes, dict[str, Any]]:
    """The photograph as JPEG and its layers as JSON, both no longer than LONGEST."""
    layers = []
    image = fit(picture.image, LONGEST)
    for name, found in picture.layers.items():
        if (found.height, found.width) != picture.image.shape[:2]:
            raise SohesError(f"the masks of {name} are {found.width} x {found.height} pixels, the photograph is not")
        layers.append({"name": name, "masks": _masks(pictures.reduced_masks(found, image.shape[:2]))})
    return encode_jpeg(image), {"height": image.shape[0], "width": image.shape[1], "layers": layers}


def _masks(found: MaskSet) -> list[dict[str, Any]]:
    areas, levels = masks.areas(found).tolist(), forest.levels(found.parents).tolist()
    return [
        {
            "counts": found.rles[i].decode("ascii"),
            "score": round(float(found.scores[i]), 4),
            "parent": int(found.parents[i]),
            "level": levels[i],
            "area": areas[i],
        }
        for i in range(len(found))
    ]
