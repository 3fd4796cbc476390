"""The seven stages of the pipeline, each as one command; `sohes shards`: what is left of one; `sohes code`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import sohes
from sohes.commands.options import HERE, ParamsFile, Settings
from sohes.errors import SohesError, remark
from sohes.model.released import start_of
from sohes.params import WEIGHT_FILES, Params, load_params, weights_in
from sohes.params.keys import parse_changes
from sohes.pipeline import PHASES, STAGES, Phase
from sohes.project import Project
from sohes.work.alone import alone, is_first_process
from sohes.work.cost import measured
from sohes.work.files import digest_file, write_json
from sohes.work.identity import identity
from sohes.work.origin import Origin, code_of
from sohes.work.pool import as_ranges, jobs_of

PACKAGE = Path(sohes.__file__).parent
PATIENCE = 10.0  # seconds: the workers of a killed process end that long after it


def _shards(text: str) -> range:
    """`3` or `0-11`, as `sohes shards` prints them."""
    first, dash, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() if dash else True)) or int(last or first) < int(first):
        raise typer.BadParameter(f"{text!r} is neither a number, such as 3, nor a range, such as 0-11")
    return range(int(first), int(last or first) + 1)


Shards = Annotated[
    range | None,
    typer.Option(
        "--shard", parser=_shards, metavar="K[-L]", help="Only this shard or these; run again without it to finish."
    ),
]
SPLITTING = [stage.name for stage in STAGES.values() if stage.splits]


def _command(name: str, does: str, writes: str, example: str) -> Callable[..., None]:
    """The command of a stage. does, writes, example: its help."""

    def whole(params: ParamsFile = HERE.params, settings: Settings = None) -> None:
        _run(name, params, settings)

    def shardable(params: ParamsFile = HERE.params, settings: Settings = None, shards: Shards = None) -> None:
        _run(name, params, settings, shards)

    command = shardable if STAGES[name].splits else whole
    command.__doc__ = "\n\n".join(filter(None, (does, writes, f"Example: sohes {example}")))
    return command


def _run(stage: str, params: Path, settings: list[str] | None, shards: range | None = None, **options: str) -> None:
    if settings and "DVC_ROOT" in os.environ:
        raise SohesError("DVC records what params.yaml says, not --set: change the file, or `dvc exp run --set-param`")
    load = partial(load_params, changes=parse_changes(settings))
    values, root, known = load(params), Path.cwd(), STAGES[stage]
    origin = Origin(
        stage,
        values,
        params,
        sections=known.sections,
        load=load,
        unfinished=Project(root).state(stage),
        code=_code(stage),
        inputs=[*(root / path for path in known.reads), *named_inputs(stage, values, root)],
    )
    run = importlib.import_module(f"sohes.stages.{stage}").run
    with (
        _only_one(stage, root, **options) if shards is None else nullcontext(),
        measured(stage, values, root, whole=shards is None, options=options),
    ):
        run(values, root, unchanged=origin.check, **({} if shards is None else {"shards": shards}), **options)
        origin.check()


@contextmanager
def _only_one(stage: str, root: Path, phase: str | None = None) -> Iterator[None]:
    """TemporaryError if another process is at the same stage, or phase of it, of this project."""
    phases = (phase,) if phase else PHASES
    names = [f"{stage}-{of}" for of in phases] if stage == "evaluate" else [stage]
    with ExitStack() as held:
        for name in names if is_first_process() else ():  # the others of a training belong to the first
            held.enter_context(alone(Project(root).state(f"{name}.lock"), f"{name} in {root}", patience=PATIENCE))
        yield


def _code(stage: str) -> list[Path]:
    """Every file of this package that the stage depends on."""
    known = STAGES[stage]
    own = code_of(f"sohes.stages.{stage}", unwatched=known.unwatched)
    return [*own, *(PACKAGE / name for name in known.resources)]


def named_inputs(stage: str, values: Params, root: Path) -> Iterator[Path]:
    """Files that a stage of the project at `root` reads because the params name them: weights."""
    if stage == "backbone" and (source := weights_in(root, values.backbone.source)).endswith(WEIGHT_FILES):
        yield Path(source)
    if stage == "instruct" and (start := start_of(values.instruct, root)) is not None:
        yield start
    if stage in ("explore", "evaluate"):
        from sohes.explore.refine import weights_file

        refiners = {values.explore.refiner} | ({values.evaluate.refiner} if stage == "evaluate" else set())
        files = map(weights_file, refiners)
        yield from (file for file in files if file is not None)


pull = _command(
    "pull", "Fetch the images, or make them.", "Writes data/images and data/eval.", "pull --params params.yaml"
)
backbone = _command(
    "backbone", "Pre-train or fetch the vision transformer.", "Writes models/backbone.safetensors.", "backbone"
)
explore = _command(
    "explore",
    "Phase 1: pseudo-labels by clustering patch features.",
    "Writes data/pseudo_labels.",
    "explore    # some shards of it: sohes explore --shard 0-11",
)
instruct = _command(
    "instruct",
    "Phase 2: train the segmenter on the pseudo-labels.",
    "Writes models/instruct.safetensors.",
    "instruct    # after a kill, the same command resumes",
)
correct = _command(
    "correct",
    "Phase 3: let a teacher's masks correct the labels.",
    "Writes models/correct.safetensors.",
    "correct    # after a kill, the same command resumes",
)
report = _command("report", "Tables, plots and pictures: reports/index.html.", "", "report")


def evaluate(
    params: ParamsFile = HERE.params,
    settings: Settings = None,
    shards: Shards = None,
    phase: Annotated[Phase | None, typer.Option(help="Only this phase; needs no model of the others.")] = None,
) -> None:
    """Predict and score the held-out images.

    Writes predictions/ and metrics/.

    Example: sohes evaluate    # phase 1 alone: sohes evaluate --phase explore
    """
    _run("evaluate", params, settings, shards, **({} if phase is None else {"phase": phase}))


def _splitting(stage: str) -> str:
    if stage not in SPLITTING:
        raise typer.BadParameter(f"{stage} is none of {', '.join(SPLITTING)}")
    return stage


def shards(
    stage: Annotated[
        str, typer.Argument(metavar="|".join(SPLITTING), callback=_splitting, help="A stage that splits.")
    ],
    per_job: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number jobs of N neighbouring shards: job K has K*N to K*N+N-1.")
    ] = 1,
    params: ParamsFile = HERE.params,
    settings: Settings = None,
) -> None:
    """Print the unfinished shards of a stage.

    As a Slurm array, such as 0-3,7; nothing if all are finished, and a line on stderr that says so.

    For example: sbatch --array="$(sohes shards explore --per-job 12)" infra/slurm/shards.sh explore 12
    """
    values = load_params(params, parse_changes(settings))
    missing = importlib.import_module(f"sohes.stages.{stage}").missing_shards(values, Path.cwd())
    if not missing:
        remark(f"no shard of {stage} is left: `sohes {stage}` finishes the stage")
    print(as_ranges([job.start // per_job for job in jobs_of(missing, per_job)]))


def code() -> None:
    """Note which code each stage runs.

    The first stage of a project that `sohes init` has made: what it writes changes with the code that is installed.

    Example: sohes code && dvc status
    """
    for stage in STAGES:
        files = {path.relative_to(PACKAGE).as_posix(): digest_file(path) for path in _code(stage)}
        write_json(HERE.code(stage), {"code": identity(files)})
