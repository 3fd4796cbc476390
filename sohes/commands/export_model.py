"""`sohes export-model`: a trained model for programs that have no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sohes.commands.options import HERE
from sohes.tracking.named import named_model

MODEL = str(HERE.model("correct"))


def export_model(
    model: Annotated[str, typer.Argument(help="A .safetensors file with its card, or a name as in segment.")] = MODEL,
    onnx: Annotated[Path | None, typer.Option(help="The file to write.", show_default="the model's, .onnx")] = None,
) -> None:
    """A trained model as one ONNX file.

    `sohes segment`, `sohes.load` and whatever else has onnxruntime run it without torch.

    Example: sohes export-model models/correct.safetensors --onnx model.onnx
    """
    from sohes.model.onnx_export import export_onnx  # it imports torch

    file = named_model(model, Path.cwd())
    out = onnx or (file if Path(model).exists() else Path(file.name)).with_suffix(".onnx")  # beside a file of yours
    export_onnx(file, out)
    print(f"wrote {out}: {out.stat().st_size / 1e6:.1f} MB")
