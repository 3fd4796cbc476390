"""Which runs made what a pipeline found ready and did not make again.

A stage signs its cost file with its run (`sohes.work.cost`). That file is an output, so DVC brings it back with the
others. A pipeline's run names the runs of the stages that it left as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from sohes.pipeline import STAGES
from sohes.work.cost import makers

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

NOTE = "mlflow.note.content"  # the tag that the UI shows as a run's description
MADE_BY = "sohes.made_by."  # the tag, before the stage's name
_LINKS = "Found ready, made by other runs: "


def name_makers(client: MlflowClient, parent_id: str, stage: str, root: Path) -> None:
    """Tag a pipeline's run with the runs of other pipelines that made what `stage`, which now begins, finds ready.

    Links to them end the description. Their data sets become the pipeline's too. A run that the store does not have,
    such as one of another machine, is not named.
    """
    ready = list(takewhile(lambda other: other != stage, STAGES))
    found = {made: _run(client, run_id) for made, run_id in makers(root).items() if made in ready}
    others = {made: run for made, run in found.items() if run is not None and _parent(run) != parent_id}
    known = client.get_run(parent_id).data.tags
    for made in (*ready, stage):  # which this pipeline may have found ready before
        if made not in others and f"{MADE_BY}{made}" in known:
            client.delete_tag(parent_id, f"{MADE_BY}{made}")
    for made, run in others.items():
        client.set_tag(parent_id, f"{MADE_BY}{made}", run.info.run_id)
        if run.inputs is not None:
            client.log_inputs(parent_id, run.inputs.dataset_inputs)
    describe(client, parent_id, known.get(NOTE, "").partition(_LINKS)[0])


def describe(client: MlflowClient, parent_id: str, note: str) -> None:
    """Set the description of a pipeline's run, in Markdown: the note and links to the runs that it is tagged with."""
    run = client.get_run(parent_id)
    made_by = {tag.removeprefix(MADE_BY): run_id for tag, run_id in run.data.tags.items() if tag.startswith(MADE_BY)}
    text = "\n\n".join(filter(None, [note.strip(), _links(made_by, run.info.experiment_id)]))
    client.set_tag(parent_id, NOTE, text)


def _links(made_by: Mapping[str, str], experiment: str) -> str:
    links = [f"[{stage}]({page(experiment, run_id)})" for stage, run_id in made_by.items()]
    return _LINKS + ", ".join(links) if links else ""


def page(experiment: str, run_id: str | None = None) -> str:
    """The page of an experiment or a run, relative to the UI's address; without its query, pages for chatbots open."""
    place = f"#/experiments/{experiment}" if run_id is None else f"#/experiments/{experiment}/runs/{run_id}"
    return f"{place}?workflowType=machine_learning"


def _parent(run: Run) -> str | None:
    return run.data.tags.get("mlflow.parentRunId")


def _run(client: MlflowClient, run_id: str) -> Run | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
