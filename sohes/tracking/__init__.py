"""MLflow, or nothing: one parent run per pipeline run, one child per stage. Only this package imports mlflow.

A local sqlite database in the project's folder unless MLFLOW_TRACKING_URI names a server; SOHES_TRACKING=off records
nothing at all. Where MLflow is not installed, figures go to files.
"""

from sohes.tracking.recorder import Recorder, flatten
from sohes.tracking.runs import EXPERIMENT, experiment_page, pipeline_id, pipeline_url, stage_run, title
from sohes.tracking.store import has_store, store_errors, tracking_client, tracking_uri

__all__ = [
    "EXPERIMENT", "Recorder", "experiment_page", "flatten", "has_store", "pipeline_id", "pipeline_url", "stage_run",
    "store_errors", "title", "tracking_client", "tracking_uri",
]  # fmt: skip
