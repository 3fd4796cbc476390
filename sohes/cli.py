"""The `sohes` command: one command per stage of the pipeline, and a few around it.

Every unit of work is one shell command, so a person, dvc.yaml, a Prefect task and a cluster job run the same thing.
Heavy libraries are imported inside the commands: `sohes --help` answers at once.
"""

from __future__ import annotations

import errno
import functools
import importlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sohes.errors import SohesError

app = typer.Typer(
    help="Self-supervised open-world hierarchical entity segmentation (SOHES).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
STAGES = "Stages, in the pipeline's order"
TOOLS = "Around the pipeline"

ParamsFile = Annotated[Path, typer.Option("--params", help="The file with every number.")]
Shard = Annotated[int | None, typer.Option("--shard", min=0, help="Only this shard; run again without it to finish.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", envvar="SOHES_DEBUG", help="Show the traceback of errors.")] = False,
) -> None:
    if debug:
        os.environ["SOHES_DEBUG"] = "1"


# ---------------------------------------------------------------- stages


@app.command(rich_help_panel=STAGES)
def pull(params: ParamsFile = Path("params.yaml"), shard: Shard = None) -> None:
    """Fetch the images, or make them: data/images and data/eval."""
    _run_stage("pull", params, shard)


@app.command(rich_help_panel=STAGES)
def backbone(params: ParamsFile = Path("params.yaml")) -> None:
    """Pre-train or fetch the vision transformer: models/backbone.safetensors."""
    _run_stage("backbone", params)


@app.command(rich_help_panel=STAGES)
def explore(params: ParamsFile = Path("params.yaml"), shard: Shard = None) -> None:
    """Phase 1: pseudo-labels by clustering patch features: data/pseudo_labels."""
    _run_stage("explore", params, shard)


@app.command(rich_help_panel=STAGES)
def instruct(params: ParamsFile = Path("params.yaml")) -> None:
    """Phase 2: train the segmenter on the pseudo-labels: models/instruct.safetensors."""
    _run_stage("instruct", params)


@app.command(rich_help_panel=STAGES)
def correct(params: ParamsFile = Path("params.yaml")) -> None:
    """Phase 3: let a teacher's masks correct the labels: models/correct.safetensors."""
    _run_stage("correct", params)


@app.command(rich_help_panel=STAGES)
def evaluate(params: ParamsFile = Path("params.yaml"), shard: Shard = None) -> None:
    """Predict and score the held-out images: predictions/ and metrics/."""
    _run_stage("evaluate", params, shard)


@app.command(rich_help_panel=STAGES)
def report(params: ParamsFile = Path("params.yaml")) -> None:
    """Tables, plots and pictures on one page: reports/index.html."""
    _run_stage("report", params)


def _run_stage(stage: str, params: Path, shard: int | None = None) -> None:
    from sohes.params import load_params

    values = load_params(params)
    run = importlib.import_module(f"sohes.stages.{stage}").run
    if shard is None:
        run(values, Path.cwd())
    else:
        run(values, Path.cwd(), shard=shard)


# ---------------------------------------------------------------- around the pipeline


@app.command(rich_help_panel=TOOLS)
def init(
    images: Annotated[Path, typer.Option(help="Your folder of photographs.")],
    annotations: Annotated[Path | None, typer.Option(help="COCO or COCO panoptic JSON, if you have it.")] = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Point params.yaml at your own photographs; everything else in it stays."""
    from sohes.stages import init as stage

    for line in stage.run(images, annotations, params):
        print(line)


@app.command(rich_help_panel=TOOLS)
def table() -> None:
    """Print the table of the phases, and where the figures and pictures are."""
    from sohes.stages import table as stage

    stage.run(Path.cwd())


@app.command(rich_help_panel=TOOLS)
def segment(
    photos: Annotated[list[Path], typer.Argument(help="Photographs, or folders of them.")],
    model: Annotated[Path, typer.Option(help="The trained model.")] = Path("models/correct.safetensors"),
    out: Annotated[Path, typer.Option(help="A folder for a JSON file and two pictures of each.")] = Path("segmented"),
    explore: Annotated[bool, typer.Option("--explore", help="Phase 1 instead, which needs no trained model.")] = False,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Masks, scores and parents for any photograph."""
    from sohes.params import load_params
    from sohes.stages import segment as stage

    for file in stage.run(load_params(params), photos, model=model, out=out, explore=explore, root=Path.cwd()):
        print(f"wrote {file}")


class Sharded(StrEnum):
    pull = "pull"
    explore = "explore"
    evaluate = "evaluate"


@app.command(rich_help_panel=TOOLS)
def shards(
    stage: Annotated[Sharded, typer.Argument(help="A stage that splits.")], params: ParamsFile = Path("params.yaml")
) -> None:
    """Print the shards of a stage that are not done, as Slurm's arrays want them: 0-3,7. Nothing if all are.

    For example: sbatch --array="$(sohes shards explore)" infra/slurm/shards.sh explore
    """
    from sohes.data.shards import as_ranges
    from sohes.params import load_params

    missing = importlib.import_module(f"sohes.stages.{stage.value}").missing_shards(load_params(params), Path.cwd())
    print(as_ranges(missing))


class ExportFormat(StrEnum):
    coco = "coco"
    sa1b = "sa1b"


@app.command(rich_help_panel=TOOLS)
def export(
    out: Annotated[Path, typer.Option(help="A JSON file (coco) or a folder with one JSON per image (sa1b).")],
    folder: Annotated[Path, typer.Argument(help="Pseudo-labels or predictions.")] = Path("data/pseudo_labels"),
    format: Annotated[ExportFormat, typer.Option(help="Whose JSON.")] = ExportFormat.coco,
) -> None:
    """Turn label or prediction shards into COCO's or SA-1B's JSON."""
    from sohes.data import labels

    write = {ExportFormat.coco: labels.export_coco, ExportFormat.sa1b: labels.export_sa1b}[format]
    write(folder, out)
    print(f"wrote {out}")


class Bench(StrEnum):
    cluster = "cluster"
    nms = "nms"
    explore = "explore"
    hierarchy = "hierarchy"
    loss = "loss"
    score = "score"
    decode = "decode"
    launch = "launch"


@app.command(
    rich_help_panel=TOOLS,
    # The options are those of the measuring function: they are read when it is known.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def bench(context: typer.Context, name: Annotated[Bench, typer.Argument(help="What to measure.")]) -> None:
    """Measure one part of the method; the last line is a JSON object. `sohes bench NAME --help` lists its options."""
    measure = getattr(importlib.import_module(f"sohes.bench.{name.value}"), f"bench_{name.value}")

    @functools.wraps(measure)
    def measure_and_print(*arguments: Any, **options: Any) -> None:
        print(json.dumps(measure(*arguments, **options)))

    tool = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    tool.command()(measure_and_print)
    tool(context.args, prog_name=f"sohes bench {name.value}")


# ---------------------------------------------------------------- errors


def main() -> NoReturn:
    """Run the command; what a user can mend ends as one sentence on stderr and a non-zero exit code.

    1: an error; 2: wrong usage; 130: Ctrl-C; 143: asked to end by SIGTERM.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except SystemExit as end:
        if end.code == 130:
            print("sohes: interrupted", file=sys.stderr)
        raise
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None or os.environ.get("SOHES_DEBUG"):
            raise
        print(f"sohes: {sentence}", file=sys.stderr)
        interrupted = any(isinstance(link, KeyboardInterrupt) for link in _chain(error))
        raise SystemExit(130 if interrupted else 1) from None
    raise SystemExit(0)


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)  # not the default's sudden death: blocks that clean up get their turn


def _sentence(error: BaseException) -> str | None:
    """What to tell the user; None for what can only be a fault of ours, which deserves its traceback."""
    if isinstance(error, SohesError):
        return str(error)
    for link in _chain(error):
        full = isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT)
        # Arrow, SQLite and safetensors have their own exceptions for it, and keep the system's words.
        if full or any(words in str(link) for words in ("No space left on device", "disk is full")):
            return f"the disk is full ({Path.cwd()}): free some space and run the same command again"
    if isinstance(error, PermissionError | FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}" if error.filename else None
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
