"""What segmenting one photograph gives: masks with scores and a forest, and their export."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from sohes import masks
from sohes.data.imaging import encode_jpeg, encode_png, encode_webp
from sohes.errors import SohesError
from sohes.evaluate import pictures
from sohes.masks import forest, mask_json
from sohes.structures import MaskSet
from sohes.work.files import write_file

if TYPE_CHECKING:
    import supervision

PictureFormat = Literal["webp", "png"]
IN_NOTEBOOK = 800  # pixels of the longer side of the picture there
LONGEST = 1600  # pixels of a side of a WebP picture; a PNG has those of the photograph


@dataclass(frozen=True, eq=False)
class Result:
    """One photograph's masks, best first where a model found them. It can be pickled.

    image: (H, W, 3) uint8 RGB, the photograph that the masks are for.
    found: the masks as run lengths; `masks` unpacks them into N x H x W bytes.
    """

    image: np.ndarray
    found: MaskSet

    def __len__(self) -> int:
        return len(self.found)

    def __repr__(self) -> str:
        return f"Result({len(self)} masks of {self.found.width} x {self.found.height} pixels)"

    def __getstate__(self) -> dict[str, Any]:
        return {"image": self.image, "found": self.found}  # the rest is computed again

    @cached_property
    def masks(self) -> np.ndarray:
        """(N, H, W) bool."""
        return masks.decode(self.found)

    @property
    def scores(self) -> np.ndarray:
        """(N,) float32 in [0, 1]."""
        return self.found.scores

    @property
    def parents(self) -> np.ndarray:
        """(N,) int64: the index of the mask that each is a part of, -1 for a whole entity."""
        return self.found.parents

    @cached_property
    def levels(self) -> np.ndarray:
        """(N,) int64: 0 for a whole entity, 1 for its parts, 2 for their parts, ..."""
        return forest.levels(self.parents)

    @cached_property
    def areas(self) -> np.ndarray:
        """(N,) int64 pixels."""
        return masks.areas(self.found)

    @cached_property
    def boxes_xywh(self) -> np.ndarray:
        """(N, 4) float64 pixels."""
        return masks.boxes_xywh(self.found)

    def to_json(self, file_name: str = "") -> dict[str, Any]:
        """SA-1B's JSON of one image with scores and the forest, as `sohes.masks.mask_json` describes it."""
        return mask_json.sa1b(self.found, file_name)

    def to_coco(self, file_name: str = "", *, image_id: int = 1) -> dict[str, Any]:
        """COCO's JSON of the single category `entity`, which pycocotools reads, with scores and the forest."""
        return {
            "images": [mask_json.coco_image(self.found, file_name, image_id)],
            "categories": mask_json.CATEGORIES,
            "annotations": mask_json.coco_annotations(self.found, image_id),
        }

    def to_supervision(self) -> supervision.Detections:
        """Roboflow's `supervision.Detections`: one class, `parent` and `level` in `data`.

        SohesError without the package; what keeps one that is installed from loading is its own error.
        """
        try:
            from supervision import Detections
        except ModuleNotFoundError as error:
            if error.name != "supervision":
                raise
            raise SohesError("to_supervision needs the package supervision: pip install supervision") from None
        corners = self.boxes_xywh.copy()
        corners[:, 2:] += corners[:, :2]
        return Detections(
            xyxy=corners.astype(np.float32),
            mask=self.masks,
            confidence=self.scores,
            class_id=np.zeros(len(self), int),
            data={"parent": self.parents, "level": self.levels},
        )

    def plot(self, *, level: int | None = None, min_score: float = 0.4) -> np.ndarray:
        """(H, W, 3) uint8: the photograph with its masks above `min_score`, at least the ten best, tinted.

        level: one depth of the forest only, 0 for whole entities.
        """
        return pictures.overlay(self.image, pictures.strongest(self.found, min_score=min_score), level=level)

    def _repr_png_(self) -> bytes:
        """What a notebook shows that cannot show `_repr_html_`."""
        return encode_png(self._shown())

    def _repr_html_(self) -> str:
        picture = base64.b64encode(encode_webp(self._shown())).decode()
        whole = int((self.parents < 0).sum())
        words = f"{len(self)} masks: {whole} whole entities and {len(self) - whole} parts"
        image = f'<img src="data:image/webp;base64,{picture}" alt="{words}">'
        return f"<figure>{image}<figcaption>{words}</figcaption></figure>"

    def _shown(self) -> np.ndarray:
        return pictures.overlay(*pictures.reduced(self.image, pictures.strongest(self.found), longest=IN_NOTEBOOK))

    def save(
        self,
        folder: Path | str,
        name: str = "photo",
        *,
        file_name: str = "",
        digest: str = "",
        picture_format: PictureFormat = "webp",
    ) -> Path:
        """Write `<name>.json`, the photograph as `<name>.photo.jpg`, `<name>.overlay.webp` and `<name>.levels.webp`.

        file_name: the photograph's name in the JSON. digest: of its file, noted there too. picture_format: `png` for
        an overlay without loss in the photograph's size; pictures of the other format that an earlier call has left
        are removed.
        Returns the JSON's path, which is written last.
        """
        if picture_format not in get_args(PictureFormat):
            raise SohesError(f"pictures are {' or '.join(get_args(PictureFormat))} (got {picture_format})")
        folder = Path(folder)
        drawn = pictures.strongest(self.found)
        encode = encode_webp if picture_format == "webp" else encode_png
        longest = LONGEST if picture_format == "webp" else max(self.image.shape)

        def keep(kind: str, draw: Callable[[], np.ndarray]) -> None:
            for suffix in get_args(PictureFormat):
                (folder / f"{name}.{kind}.{suffix}").unlink(missing_ok=True)
            write_file(folder / f"{name}.{kind}.{picture_format}", encode(draw()))

        with ThreadPoolExecutor(3) as threads:  # encoders leave Python to the others
            jobs = [
                threads.submit(lambda: write_file(folder / f"{name}.photo.jpg", encode_jpeg(self.image))),
                threads.submit(keep, "levels", lambda: pictures.contact_sheet(self.image, drawn)),
            ]
            keep("overlay", lambda: pictures.overlay(*pictures.reduced(self.image, drawn, longest=longest)))
            content = self.to_json(file_name or f"{name}.photo.jpg")
            text = json.dumps({**content, "image": {**content["image"], "digest": digest}} if digest else content)
            for job in jobs:
                job.result()
        target = folder / f"{name}.json"
        write_file(target, text)
        return target
