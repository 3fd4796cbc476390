"""The seven stages as one table. `dvc.yaml` owns the graph; a test compares the two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sohes.params import Params

Phase = Literal["explore", "instruct", "correct"]
PHASES: tuple[Phase, ...] = get_args(Phase)  # each finds masks; the later ones learn from the earlier


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline, which is also one `sohes` command.

    sections: of params.yaml that it reads besides the seed.
    splits: it is cut into shards, which may run anywhere.  trains: it may run on several GPUs together.
    """

    name: str
    sections: tuple[str, ...]
    splits: bool = False
    trains: bool = False


STAGES = {
    stage.name: stage
    for stage in (
        Stage("pull", ("pull",), splits=True),
        Stage("backbone", ("backbone",), trains=True),
        Stage("explore", ("explore",), splits=True),
        Stage("instruct", ("model", "loss", "instruct"), trains=True),
        Stage("correct", ("model", "loss", "correct"), trains=True),
        Stage("evaluate", ("explore", "model", "evaluate"), splits=True),
        Stage("report", tuple(name for name in Params.model_fields if name != "seed")),  # it shows the whole profile
    )
}
