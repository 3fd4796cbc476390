"""A trained model in Python: photographs in, results out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sohes.data.store.decode import MAX_MEGAPIXELS, check_size, decode_image, rgb_pixels
from sohes.errors import SohesError, first_sentence, require_package
from sohes.evaluate.predict import Network, segment_images
from sohes.evaluate.result import Result
from sohes.model import onnx
from sohes.model.released import graph_for_cpu
from sohes.params import EvaluateParams

if TYPE_CHECKING:
    import torch

Photo = np.ndarray | Image.Image | Path | str


@dataclass(frozen=True)
class Predictor:
    """A network and the numbers that say which of its masks are kept. It can be pickled.

    source: the word that stands in every mask's `sources`, such as the phase that trained it.
    """

    network: Network
    params: EvaluateParams
    source: str

    def segment(self, photo: Photo) -> Result:
        """The masks, scores and forest of one photograph (paper 3.2, inference).

        photo: (H, W, 3) uint8 RGB pixels, a Pillow image, or an image file, which is turned upright by its EXIF.
        ValueError for an array of another kind, UnreadableImage for one that is too large and for a file or Pillow
        image that cannot be used, SohesError for a file that is not there and for anything else.
        """
        return next(self.segment_many([photo]))

    def segment_many(self, photos: Iterable[Photo]) -> Iterator[Result]:
        """`segment` for each photograph, in order; on a GPU `evaluate.batch_size` of them at once.

        An array of several has the shape (N, H, W, 3). SohesError for one photograph instead of several; errors of
        `segment` when a photograph's turn comes.
        """
        one_array = isinstance(photos, np.ndarray) and photos.ndim < 4
        if one_array or isinstance(photos, str | bytes) or not isinstance(photos, Iterable):
            raise SohesError(f"segment_many takes several photographs (got {_shown(photos)}): give it a list of them")
        size = self.params.batch_size if self.network.on_gpu else 1
        params = self.params.model_copy(update={"batch_size": size})
        waiting: list[np.ndarray] = []

        def read() -> Iterator[np.ndarray]:
            for photo in photos:
                pixels = as_pixels(photo)
                waiting.append(pixels.copy() if pixels is photo else pixels)  # the caller may use its array again
                yield waiting[-1]

        for found in segment_images(self.network, read(), params, source=self.source):
            yield Result(waiting.pop(0), found)

    def to(self, device: str | torch.device) -> Predictor:
        """The same on another device, such as `cpu` or `cuda:1`; the network is moved, not copied.

        SohesError for a device that is not here, the network then stays where it is; and for an ONNX file's network.
        """
        if isinstance(self.network, onnx.OnnxSegmenter):
            if str(device) in ("cpu", "cpu:0"):
                return self
            raise SohesError(f"an ONNX model runs on the CPU (got {device}): load its .safetensors file instead")
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # the latter from a torch that was built without CUDA
            detail = first_sentence(error)
            raise SohesError(f"no device {device} ({detail}): name cpu, or a GPU that this machine has") from None
        return replace(self, network=self.network.to(device))  # type: ignore[attr-defined]


def load_predictor(model: Path, params: EvaluateParams) -> Predictor:
    """The model that `save_checkpoint` wrote, on the best device, or an ONNX file's, for which torch is not imported.

    Without a GPU the released model is run by onnxruntime, too.

    SohesError if it is missing or damaged.
    """
    if not model.exists():
        raise SohesError(
            f"no trained model at {model}: name a .safetensors file that is there, train one (`make demo`), or take "
            "phase 1, which needs none (`sohes segment --explore`)"
        )
    for_cpu = graph_for_cpu(model)
    if model.suffix == onnx.SUFFIX or for_cpu is not None:
        return Predictor(onnx.load_onnx(for_cpu or model), params, source=model.stem)
    require_package("torch", "name the released model (--model small) or an ONNX file (--model x.onnx)")
    from sohes.backbone.precision import best_device
    from sohes.model.checkpoint import load_checkpoint

    network, _ = load_checkpoint(model)
    return Predictor(network.eval().to(best_device()), params, source=model.stem)


def as_pixels(photo: Photo) -> np.ndarray:
    """(H, W, 3) uint8 RGB; a Pillow image is converted as its file would be, but keeps its orientation.

    ValueError for an array that is not such an image, UnreadableImage for one that is too large and for a file or
    Pillow image that cannot be used, SohesError for a file that is not there and for anything else.
    """
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
            raise ValueError(f"a photograph must be (H, W, 3) uint8 RGB (got {photo.shape} {photo.dtype})")
        check_size(photo.shape[1], photo.shape[0], MAX_MEGAPIXELS)
        return photo
    if isinstance(photo, Image.Image):
        # Not turned upright: its masks have to lie on what the caller sees as np.asarray(photo).
        return rgb_pixels(photo, max_megapixels=MAX_MEGAPIXELS, apply_exif=False)
    if not isinstance(photo, str | Path):
        raise SohesError(
            f"a photograph is a file's name, a Pillow image or an array (got {_shown(photo)}): for the bytes of a "
            "file, give PIL.Image.open(io.BytesIO(data))"
        )
    path = Path(photo)
    if not path.is_file():
        raise SohesError(f"no such photograph: {path}: check its spelling")
    return decode_image(path.read_bytes(), max_megapixels=MAX_MEGAPIXELS, apply_exif=True)


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__
