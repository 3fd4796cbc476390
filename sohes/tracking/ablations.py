"""Ablations in MLflow: an experiment a table, a run a row, with nothing in it that does not make the rows differ."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sohes.errors import SohesError
from sohes.evaluate.ablation import Table, table_file
from sohes.explore import label_free
from sohes.model.released import start_of
from sohes.params import Params, weights_in
from sohes.pipeline import PHASES, STAGES
from sohes.project import read_json
from sohes.tracking.recorder import flatten
from sohes.tracking.store import experiment_id, has_store, store_errors, tracking_client, tracking_uri
from sohes.work.identity import identity

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PREFIX = "ablation "
_TAGS = {True: "true", False: "false", None: "unknown"}  # label-free, as a run's tag


@dataclass(frozen=True)
class RecordedRow:
    """A row as it was recorded. details: what `Scores.details` wrote. paper: the published figures by metric.

    label_free: false if human labels trained its refiner or backbone, None if that is unknown.
    base: differs if the params that no row of its table sets do; None if it is unknown, as of older records.
    """

    name: str
    baseline: bool
    label_free: bool | None
    base: str | None
    params: dict[str, str]
    metrics: dict[str, float]
    paper: dict[str, float]
    details: Mapping[str, Any]


def record_row(
    name: str, table: Table, row: str, params: Params, metrics: Mapping[str, float], details: Path, root: Path
) -> bool:
    """Record a row, unless the same row with the same params and figures is there; whether it was new.

    The run's params are the keys that the table's rows set, and no others: MLflow's parallel coordinates stay readable.
    """
    values = flatten(params.model_dump(mode="json"))
    figures = {key: value for key, value in metrics.items() if key not in ("images", "max_masks")}
    # How long it took differs from run to run and makes no new row.
    key = identity([values, {k: v for k, v in figures.items() if k != "seconds_per_image"}])
    with store_errors(tracking_uri(root)):
        client = tracking_client(root)
        experiment = _experiment(client, name, table, root)
        # Told apart here: in MLflow's filters no name can hold an apostrophe.
        others = [run for run in client.search_runs([experiment]) if run.data.tags.get("sohes.row") == row]
        if any(run.data.tags.get("sohes.key") == key and _is_whole(run) for run in others):
            return False
        paper = {f"paper.{metric}": str(value) for metric, value in table.rows[row].paper.items()}
        facts = {
            "sohes.label_free": _TAGS[_label_free(params, table.phase_of(row), root)],
            "sohes.row": row,
            "sohes.key": key,
            "sohes.base": _base(values, table),
            "sohes.baseline": str(row == table.baseline).lower(),
        }
        tags = {**facts, "sohes.phase": table.phase_of(row), "sohes.source": table.source, **paper}
        run_id = client.create_run(experiment, run_name=row, tags=tags).info.run_id
        for param in table.keys():  # noqa: SIM118 (a table, not a dictionary)
            client.log_param(run_id, param, values[param])
        for metric, value in figures.items():
            client.log_metric(run_id, metric, round(value, 4))  # the UI shows every digit
        client.log_artifact(run_id, str(details))
        client.set_terminated(run_id)
        for run in others:  # one run a row: an older one, of other params or half recorded, stays in MLflow's trash
            client.delete_run(run.info.run_id)
    return True


def _is_whole(run: Run) -> bool:
    """Whether its recording has ended well: it is tagged before its figures and files are there."""
    return run.info.status == "FINISHED"


def _base(values: Mapping[str, str], table: Table) -> str:
    """An identity of the params that a table's rows share: they are compared with a baseline of the same."""
    last = max(PHASES.index(table.phase_of(row)) for row in table.rows)
    needed = {"seed", "evaluate"}.union(*(STAGES[name].sections for name in ("pull", "backbone", *PHASES[: last + 1])))
    own = table.keys()
    return identity({k: v for k, v in values.items() if k not in own and k.partition(".")[0] in needed})


def recorded_rows(name: str, root: Path) -> tuple[str, list[RecordedRow]]:
    """The title of a table's experiment and its rows, oldest first.

    SohesError if nothing was recorded, or if there is no such table; then it names those there are.
    """
    with store_errors(tracking_uri(root), reading=True):
        name = name.removeprefix(PREFIX)
        client = tracking_client(root) if has_store(root) else None
        found = client.get_experiment_by_name(f"{PREFIX}{name}") if client else None
        if client is None or found is None or found.lifecycle_stage == "deleted":
            table_file(name, root)  # only a table that exists can be computed
            raise SohesError(
                f"no experiment {PREFIX + name!r} at {tracking_uri(root)}: run `sohes ablate {name}` first"
            )
        runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])
        return found.tags.get("sohes.title", name), [_row(client, run) for run in runs if _is_whole(run)]


def _row(client: MlflowClient, run: Run) -> RecordedRow:
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run.info.run_id, "evaluate_details.json", folder)
        details = read_json(Path(path), "remove that run from MLflow and compute the row again")
    tags = run.data.tags
    paper = {key.removeprefix("paper."): float(value) for key, value in tags.items() if key.startswith("paper.")}
    baseline = tags["sohes.baseline"] == "true"
    own = details[tags["sohes.phase"]]
    tag = tags.get("sohes.label_free", "true")  # rows without one are older than refiners that know human masks
    claim = {word: value for value, word in _TAGS.items()}.get(tag)
    figures = dict(run.data.metrics)
    base = tags.get("sohes.base")
    return RecordedRow(tags["sohes.row"], baseline, claim, base, dict(run.data.params), figures, paper, own)


def _label_free(params: Params, phase: str, root: Path) -> bool | None:
    backbone = weights_in(root, params.backbone.source)
    labels = label_free.of_labels(params.explore, backbone)
    return labels if phase == "explore" else label_free.of_model(labels, backbone, start_of(params.instruct, root))


def _experiment(client: MlflowClient, name: str, table: Table, root: Path) -> str:
    tags = {"sohes.title": table.title, "mlflow.note.content": f"{table.title} ({table.source})"}
    return experiment_id(client, f"{PREFIX}{name}", root, tags)
