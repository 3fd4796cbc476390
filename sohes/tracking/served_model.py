"""The model in MLflow's registry as MLflow loads it: image files in, masks with scores and parents out.

MLflow runs this file by itself (a model from code); the package never imports it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from PIL import Image


class ServedModel(PythonModel):
    """Rows with the bytes of an image file in `image`; over HTTP they are base64."""

    def load_context(self, context: Any) -> None:
        from sohes.params import load_params
        from sohes.predictor import load_predictor

        evaluate = load_params(Path(context.artifacts["params"])).evaluate
        self.predictor = load_predictor(Path(context.artifacts["model"]), evaluate)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict | None = None) -> pd.DataFrame:
        """One row an image. masks: COCO's compressed run lengths; parents: -1 for a whole entity."""
        photos = [Image.open(io.BytesIO(data)) for data in model_input["image"]]
        rows = [
            {
                "height": result.found.height,
                "width": result.found.width,
                "masks": [counts.decode("ascii") for counts in result.found.rles],
                "scores": [float(score) for score in result.scores],
                "parents": [int(parent) for parent in result.parents],
            }
            for result in self.predictor.segment_many(photos)
        ]
        return pd.DataFrame(rows)


set_model(ServedModel())
