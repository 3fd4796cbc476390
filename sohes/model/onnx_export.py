"""A trained segmenter as one ONNX file with its card inside, which runs without torch (`sohes.model.onnx`)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from sohes.errors import SohesError, require_package
from sohes.model.checkpoint import load_checkpoint
from sohes.model.network import Segmenter
from sohes.model.onnx import CARD, INPUT, OUTPUTS, SUFFIX
from sohes.work.files import atomic_path

OPSET = 20  # the first with bilinear samples as torch takes them


class _Photograph(nn.Module):
    """Pixels in, the logits of one image out: whoever runs the file needs no normalisation and no batch."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_SS3: Tensor) -> tuple[Tensor, ...]:
        output = self.network(self.network.backbone.scale(image_SS3[None]))
        ancestors = output.ancestor_logits_BQQ
        assert ancestors is not None
        return output.class_logits_BQ2[0], output.mask_logits_BQhw[0], ancestors[0]


def export_onnx(model: Path, out: Path) -> None:
    """Write the checkpoint at `model` as an ONNX file. SohesError for another suffix, head, or without the package."""
    if out.suffix != SUFFIX:
        raise SohesError(f"an ONNX file ends in {SUFFIX} (got {out}): rename it")
    network, card = load_checkpoint(model)
    if not isinstance(network, Segmenter):
        raise SohesError(f"{model} has the head {network.params.head}: only mask2former can be exported to ONNX")
    require_package("onnxscript")  # torch's exporter imports it late, with a message of its own
    side = network.params.image_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        program = torch.onnx.export(
            _Photograph(network).eval(),
            (torch.zeros(side, side, 3, dtype=torch.uint8),),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props[CARD] = json.dumps(card)
    with atomic_path(out) as temporary:
        program.save(temporary, include_initializers=True, external_data=False)
