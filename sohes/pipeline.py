"""The seven stages as one table. `dvc.yaml` owns the graph; a test compares the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sohes.params import Params
from sohes.project import Project

Phase = Literal["explore", "instruct", "correct"]
CODE = "code"  # beside the seven, where a project does not hold the code: it notes which code each of them runs
PHASES: tuple[Phase, ...] = get_args(Phase)  # each finds masks; the later ones learn from the earlier


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, which is also one `sohes` command.

    sections: of params.yaml that it reads besides the seed.  reads: files and folders below the project's own.
    resources: files of this package, other than code, that it reads.
    splits: it is cut into shards, which may run anywhere.  trains: it may run on several GPUs together.
    gpu: it runs a network, for which it uses a GPU where there is one.
    unwatched: packages that it imports, on which what it makes does not depend.
    """

    name: str
    sections: tuple[str, ...]
    reads: tuple[Path, ...] = ()
    resources: tuple[str, ...] = ()
    splits: bool = False
    trains: bool = False
    gpu: bool = True
    unwatched: tuple[str, ...] = ()


SECTIONS = tuple(name for name in Params.model_fields if name != "seed")  # of params.yaml

_HERE = Project(Path())
_LABELLED = (_HERE.images, _HERE.pseudo_labels)
_WEIGHTS = tuple(map(_HERE.model, ("backbone", "instruct", "correct")))
_BEFORE_REPORT = ("pull", "backbone", "explore", "instruct", "correct", "evaluate")
_FIGURES = ("evaluate", "evaluate_details", "regions", "instruct", "correct")


def _learning(phase: Phase, *, begins_with: str) -> Stage:
    """A phase that trains the segmenter, from the weights of another stage."""
    inputs = (*_LABELLED, _HERE.model(begins_with))
    unwatched = ("sohes.evaluate",)  # a new way of scoring while training must not retrain everything
    return Stage(phase, ("model", "loss", phase), inputs, trains=True, unwatched=unwatched)


STAGES = {
    stage.name: stage
    for stage in (
        Stage("pull", ("pull",), splits=True, gpu=False),
        Stage("backbone", ("backbone",), (_HERE.images,), trains=True),
        Stage("explore", ("explore",), (_HERE.images, _HERE.card("backbone"), _HERE.model("backbone")), splits=True),
        _learning("instruct", begins_with="backbone"),
        _learning("correct", begins_with="instruct"),
        Stage("evaluate", ("explore", "model", "evaluate"), (_HERE.held_out, *_WEIGHTS), splits=True),
        Stage(
            "report",
            SECTIONS,  # it shows the whole profile
            (
                *_LABELLED,
                _HERE.held_out,
                _HERE.all_predictions,
                *_WEIGHTS,
                _HERE.card("backbone"),
                *map(_HERE.metrics, _FIGURES),
                *map(_HERE.cost, _BEFORE_REPORT),
            ),
            resources=("evaluate/published.yaml", "evaluate/report.html"),
            gpu=False,
        ),
    )
}
