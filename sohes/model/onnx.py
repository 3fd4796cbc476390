"""A segmenter in one ONNX file, run by onnxruntime: what `sohes.model.onnx_export` writes. Nothing here needs torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from sohes.errors import SohesError, first_sentence, is_the_machines
from sohes.params import ModelParams
from sohes.structures import Logits
from sohes.work.compiled import begin_loading

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SUFFIX = ".onnx"
CARD = "card"  # the key of the card in the file's metadata
INPUT = "image"  # uint8 (image_size, image_size, 3) RGB
OUTPUTS = ("class_logits", "mask_logits", "ancestor_logits")  # (Q, 2), (Q, h, w), (Q, Q), float32


@dataclass(frozen=True)
class OnnxSegmenter:
    """The network of an ONNX file, on the CPU. It is pickled as its path."""

    path: Path
    session: InferenceSession
    params: ModelParams
    on_gpu = False

    def __reduce__(self) -> tuple[Any, ...]:
        return load_onnx, (self.path,)

    def predict(self, squares: Sequence[np.ndarray]) -> list[Logits]:
        """The logits of each uint8 (image_size, image_size, 3) RGB image, one after the other."""
        return [Logits(*self.session.run(list(OUTPUTS), {INPUT: square})) for square in squares]


def load_onnx(path: Path) -> OnnxSegmenter:
    """SohesError if the file is missing, damaged, or not a segmenter of this program."""
    card = card_of(path)
    try:
        params = ModelParams.model_validate(card["model"])
    except (KeyError, ValidationError):
        raise SohesError(f"the card in {path} does not fit this program: {_AGAIN}") from None
    return OnnxSegmenter(path.resolve(), _open(path), params)


def card_of(path: Path) -> dict[str, Any]:
    """The model's card. SohesError as for `load_onnx`."""
    if not path.is_file():
        raise SohesError(f"no model at {path}: name an {SUFFIX} file that is there")
    text = _open(path).get_modelmeta().custom_metadata_map.get(CARD)
    try:
        card = json.loads(text or "")
    except ValueError:
        card = None
    if not isinstance(card, dict):
        raise SohesError(f"{path} holds another program's network: {_AGAIN}")
    return card


_AGAIN = "export one with `sohes export-model`"


def _open(path: Path) -> InferenceSession:
    """Opened once, for its card and its network, until the file is replaced."""
    status = path.stat()
    return _opened(path.resolve(), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _opened(path: Path, changed: int, size: int) -> InferenceSession:
    """The network of the file as it is now.

    The graph runs as it was exported: to optimise the released model's takes 0.3 s, and saves 2 % of the 0.27 s a view.
    """
    try:
        import onnxruntime
    except ImportError:
        raise SohesError(f"{path} needs the package onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False  # the second run would have 160 MB of its own, whose pages take 0.2 s to come
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave cores to others
    begin_loading()  # masks are decoded by compiled functions; onnxruntime builds the graph meanwhile
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen types for a damaged file
        if is_the_machines(error):
            raise
        reason = first_sentence(error)
        raise SohesError(f"{path} is not a network that onnxruntime reads ({reason}): {_AGAIN}") from None
