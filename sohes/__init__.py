"""SOHES: self-supervised open-world hierarchical entity segmentation.

    import sohes

    model = sohes.load("small")
    result = model.segment("cat.jpg")
    result.masks, result.scores, result.parents

Importing the package imports nothing heavy; `load` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sohes.predictor import Predictor

    __version__: str
else:  # hidden from type checkers, which would take any name for one of the package's

    def __getattr__(name: str) -> str:
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("sohes")


__all__ = ["__version__", "load"]


def load(model: Path | str = "small", *, params: Path | str | None = None) -> Predictor:
    """A trained model, on the first GPU if there is one, ready to segment photographs.

    model: `small`, which comes with the code (docs/released-model.md); a `.safetensors` file with its card beside it,
    as `sohes instruct` and `sohes correct` write them; an `.onnx` file; `mlflow:/NAME@ALIAS` or `mlflow:/NAME/VERSION`
    from MLflow's registry (MLFLOW_TRACKING_URI, or the database in the working folder); `hf://ORG/MODEL` from the
    Hugging Face hub; or `https://HOST/FILE#sha256=HEX` (docs/python.md). params: the file whose `evaluate` section
    says which masks are kept; by default the params.yaml of the project whose pipeline made the model, else what its
    card says, else the params.yaml that comes with the code.
    SohesError for a model that is missing, damaged, or cannot be fetched.
    """
    from sohes.model.released import evaluate_of
    from sohes.params import load_params
    from sohes.predictor import load_predictor
    from sohes.project import TEMPLATE
    from sohes.tracking.named import named_model

    file = named_model(model, Path.cwd())
    own = None if params else evaluate_of(file)
    return load_predictor(file, own or load_params(Path(params) if params else TEMPLATE.params).evaluate)
