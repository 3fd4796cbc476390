"""The `sohes` command: one command per stage of the pipeline, and a few around it.

Every unit of work is one shell command, so a person, dvc.yaml, a Prefect task and a cluster job run the same thing.
Heavy libraries are imported inside the commands: `sohes --help` answers at once.
Over 400 lines, since all commands stand here and the signature of each is its help; what they do is in `stages`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from sohes.errors import chain, sentence_of

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


class Phase(StrEnum):
    explore = "explore"
    instruct = "instruct"
    correct = "correct"


def _print_version(wanted: bool) -> None:
    if wanted:
        import sohes

        print(f"sohes {sohes.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", envvar="SOHES_DEBUG", help="Tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    if debug:
        os.environ["SOHES_DEBUG"] = "1"


# ---------------------------------------------------------------- stages


@app.command(rich_help_panel=STAGES)
def pull(params: ParamsFile = Path("params.yaml"), shard: Shard = None) -> None:
    """Fetch the images, or make them.

    Writes data/images and data/eval.

    Example: sohes pull --params params.yaml
    """
    _run_stage("pull", params, shard)


@app.command(rich_help_panel=STAGES)
def backbone(params: ParamsFile = Path("params.yaml")) -> None:
    """Pre-train or fetch the vision transformer.

    Writes models/backbone.safetensors.

    Example: sohes backbone
    """
    _run_stage("backbone", params)


@app.command(rich_help_panel=STAGES)
def explore(params: ParamsFile = Path("params.yaml"), shard: Shard = None) -> None:
    """Phase 1: pseudo-labels by clustering patch features.

    Writes data/pseudo_labels.

    Example: sohes explore            (one piece of it: sohes explore --shard 3)
    """
    _run_stage("explore", params, shard)


@app.command(rich_help_panel=STAGES)
def instruct(params: ParamsFile = Path("params.yaml")) -> None:
    """Phase 2: train the segmenter on the pseudo-labels.

    Writes models/instruct.safetensors.

    Example: sohes instruct           (after a kill, the same command goes on)
    """
    _run_stage("instruct", params)


@app.command(rich_help_panel=STAGES)
def correct(params: ParamsFile = Path("params.yaml")) -> None:
    """Phase 3: let a teacher's masks correct the labels.

    Writes models/correct.safetensors.

    Example: sohes correct            (after a kill, the same command goes on)
    """
    _run_stage("correct", params)


@app.command(rich_help_panel=STAGES)
def evaluate(
    params: ParamsFile = Path("params.yaml"),
    shard: Shard = None,
    phase: Annotated[Phase | None, typer.Option(help="This phase alone; it needs no model of the others.")] = None,
) -> None:
    """Predict and score the held-out images.

    Writes predictions/ and metrics/.

    Example: sohes evaluate           (phase 1 alone: sohes evaluate --phase explore)
    """
    _run_stage("evaluate", params, shard, **({} if phase is None else {"phase": phase.value}))


@app.command(rich_help_panel=STAGES)
def report(params: ParamsFile = Path("params.yaml")) -> None:
    """Tables, plots and pictures: reports/index.html.

    Example: sohes report
    """
    _run_stage("report", params)


def _run_stage(stage: str, params: Path, shard: int | None = None, **options: str) -> None:
    from sohes.params import load_params
    from sohes.work.cost import measured

    values = load_params(params)
    run = importlib.import_module(f"sohes.stages.{stage}").run
    if shard is None:
        with measured(stage, Path.cwd()):
            run(values, Path.cwd(), **options)
    else:
        run(values, Path.cwd(), shard=shard, **options)


# ---------------------------------------------------------------- around the pipeline


@app.command(rich_help_panel=TOOLS)
def init(
    images: Annotated[Path, typer.Option(help="Your folder of photographs.")],
    annotations: Annotated[Path | None, typer.Option(help="COCO or COCO panoptic JSON, if you have it.")] = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Point params.yaml at your own photographs.

    Everything else in it stays.

    Example: sohes init --images ~/photos
    """
    from sohes.commands import init as stage

    for line in stage.run(images, annotations, params):
        print(line)


@app.command(rich_help_panel=TOOLS)
def table() -> None:
    """Print the phases' table, and where the pictures are.

    Example: sohes table
    """
    from sohes.commands import table as stage

    stage.run(Path.cwd())


@app.command(rich_help_panel=TOOLS)
def segment(
    photos: Annotated[list[Path], typer.Argument(help="Photographs, folders of them, or patterns.")],
    model: Annotated[str, typer.Option(help="A model's file, or mlflow:/NAME@ALIAS.")] = "models/correct.safetensors",
    out: Annotated[Path, typer.Option(help="A folder for a JSON file and three pictures of each.")] = Path("segmented"),
    explore: Annotated[bool, typer.Option("--explore", help="Phase 1 instead, which needs no trained model.")] = False,
    exif: Annotated[bool, typer.Option("--exif/--no-exif", help="Turn photographs upright; benchmarks do not.")] = True,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Masks, scores and parents for any photograph.

    Example: sohes segment cat.jpg 'trip/*.jpg' --out masks
    """
    from sohes.commands import segment as stage
    from sohes.params import load_params_anywhere

    # Before torch is imported: threads that spin while they wait take up to a quarter more CPU time on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    values = load_params_anywhere(params)
    for file in stage.run(values, photos, model=model, out=out, explore=explore, apply_exif=exif, root=Path.cwd()):
        print(f"wrote {file}")


@app.command(rich_help_panel=TOOLS)
def view(
    what: Annotated[list[Path] | None, typer.Argument(help="A project, results of segment, or photographs.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in the browser.")] = True,
    model: Annotated[str, typer.Option(help="For photographs, as in segment.")] = "models/correct.safetensors",
    explore: Annotated[bool, typer.Option("--explore", help="For photographs, as in segment.")] = False,
    out: Annotated[Path, typer.Option(help="For photographs, as in segment.")] = Path("segmented"),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Look at masks in the browser.

    Hover, walk up to parents, compare the phases. Nothing leaves this machine.

    Example: sohes view                 (this project's predictions; also: sohes view cat.jpg, sohes view segmented)
    """
    from sohes.commands import view as stage

    def segment_first(photos: Sequence[Path]) -> Iterator[Path]:
        from sohes.commands import segment
        from sohes.params import load_params_anywhere

        values = load_params_anywhere(params)
        return segment.run(values, photos, model=model, out=out, explore=explore, root=Path.cwd())

    stage.run(what or [], root=Path.cwd(), port=port, browser=browser, segment=segment_first)


@app.command(rich_help_panel=TOOLS)
def ablate(
    table: Annotated[str, typer.Argument(help="A file of params/ablations: table-2, table-3, table-6a, ...")],
    row: Annotated[str | None, typer.Option(help="This row alone.")] = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Compute the rows of an ablation table into MLflow.

    What DVC has cached is not computed again.

    Example: sohes ablate table-6a && sohes compare table-6a
    """
    from sohes.commands import ablate as stage

    for line in stage.run(table, params, Path.cwd(), row=row):
        print(line, flush=True)


@app.command(rich_help_panel=TOOLS)
def compare(experiment: Annotated[str, typer.Argument(help="A table that `sohes ablate` has recorded.")]) -> None:
    """Print and plot an ablation beside the paper's figures.

    Writes reports/ablations/*.csv, .md and .png.

    Example: sohes compare table-6a
    """
    from sohes.commands import compare as stage

    text, written = stage.run(experiment, Path.cwd())
    print(text)
    for path in written:
        print(f"wrote {path}")


class Sharded(StrEnum):
    pull = "pull"
    explore = "explore"
    evaluate = "evaluate"


@app.command(rich_help_panel=TOOLS)
def shards(
    stage: Annotated[Sharded, typer.Argument(help="A stage that splits.")], params: ParamsFile = Path("params.yaml")
) -> None:
    """Print the shards of a stage that are not done.

    As Slurm's arrays want them: 0-3,7. Nothing if all are.

    For example: sbatch --array="$(sohes shards explore)" infra/slurm/shards.sh explore
    """
    from sohes.params import load_params
    from sohes.work.pool import as_ranges

    missing = importlib.import_module(f"sohes.stages.{stage.value}").missing_shards(load_params(params), Path.cwd())
    print(as_ranges(missing))


class ExportFormat(StrEnum):
    coco = "coco"
    sa1b = "sa1b"


@app.command(rich_help_panel=TOOLS)
def export(
    out: Annotated[Path, typer.Option(help="A JSON file (coco) or a folder with one JSON per image (sa1b).")],
    folder: Annotated[Path, typer.Argument(help="Labels or predictions, a folder or file.")] = Path(
        "data/pseudo_labels"
    ),
    format: Annotated[ExportFormat, typer.Option(help="Whose JSON.")] = ExportFormat.coco,
) -> None:
    """Turn shards into COCO's or SA-1B's JSON.

    Example: sohes export predictions/correct --out correct.json
    """
    from sohes.data.store import labels

    write = {ExportFormat.coco: labels.export_coco, ExportFormat.sa1b: labels.export_sa1b}[format]
    write(folder, out)
    print(f"wrote {out}")


@app.command(rich_help_panel=TOOLS)
def score(
    predictions: Annotated[list[Path], typer.Argument(help="COCO JSON, Parquet, or folders of Parquet or SA-1B JSON.")],
    benchmark: Annotated[str, typer.Option(help="One of `benchmark-info`.")],
    root: Annotated[Path, typer.Option(help="Where it is unpacked.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    compare: Annotated[Path | None, typer.Option(help="Another run's --json.")] = None,
    label: Annotated[str | None, typer.Option(help="Name of the row.")] = None,
    max_masks: Annotated[int, typer.Option(min=1, help="Of an image.")] = 1000,
    missing_as_empty: Annotated[bool, typer.Option("--missing-as-empty", help="Images it lacks are empty.")] = False,
) -> None:
    """Score anybody's predictions.

    AR, AP, sizes, levels, beside the published figures.

    Example: sohes score coco_instances_results.json --benchmark coco --root ~/coco --json cutler.json
    """
    from sohes.commands import score as stage

    stage.run(
        predictions,
        benchmark=benchmark,
        root=root,
        json_out=json_out,
        compare=compare,
        label=label,
        max_masks=max_masks,
        missing_as_empty=missing_as_empty,
    )


@app.command(rich_help_panel=TOOLS)
def results(
    benchmarks: Annotated[list[str], typer.Argument(help="NAME=DIR: a benchmark and where it is unpacked.")],
    project: Annotated[list[Path] | None, typer.Option(help="A folder with params.yaml and models; several.")] = None,
    out: Annotated[Path, typer.Option(help="The Markdown page to write.")] = Path("reports/results.md"),
) -> None:
    """All phases on benchmarks of photographs, as one page.

    With 95 % intervals, and what each phase gains.

    Example: sohes results coco_panoptic=~/coco pascal_part=~/pascal-part bsds500=~/BSR
    """
    from sohes.commands import results as stage

    stage.run(benchmarks, projects=project or [Path()], out=out)
    print(f"wrote {out}")


@app.command(rich_help_panel=TOOLS)
def downstream(
    semantic: Annotated[str | None, typer.Option(help="NAME=DIR: ade20k or coco_panoptic.")] = None,
    detection: Annotated[str | None, typer.Option(help="NAME=DIR: coco or coco_panoptic.")] = None,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """What the backbone is worth in supervised tasks.

    Before and after training: mean IoU and AP on the frozen ViT.

    Example: sohes downstream --semantic ade20k=~/ADEChallengeData2016 --detection coco=~/coco

    Without data: both tasks on the embedded scenes. After a kill, the same command goes on. metrics/downstream.json
    """
    from sohes.commands import downstream as stage
    from sohes.params import load_params

    print(stage.run(load_params(params), Path.cwd(), semantic=semantic, detection=detection))


@app.command(rich_help_panel=TOOLS)
def benchmark_info(name: Annotated[str | None, typer.Argument(help="Without it: the names.")] = None) -> None:
    """What a benchmark counts, and where to get it.

    Example: sohes benchmark-info coco
    """
    from sohes.data.benchmarks.catalogue import BENCHMARKS, describe

    print(describe(name) if name else "\n".join(BENCHMARKS))


@app.command(rich_help_panel=TOOLS)
def sam(
    model: Annotated[Path, typer.Argument(help="A folder with SAM's weights, as transformers saves them.")],
    benchmark: Annotated[str, typer.Option(help="A name that `sohes benchmark-info` knows.")],
    root: Annotated[Path, typer.Option(help="Where its official download is unpacked.")],
    out: Annotated[Path, typer.Option(help="A folder for the masks; goes on where it was stopped.")],
    points_per_side: Annotated[int, typer.Option(min=1, help="Prompts: a grid of so many squared.")] = 32,
    points_per_batch: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 64,
    pred_iou: Annotated[float, typer.Option(help="Masks of a lower predicted IoU are dropped.")] = 0.88,
    stability: Annotated[float, typer.Option(help="Masks of a lower stability score are dropped.")] = 0.95,
) -> None:
    """SAM's masks on a benchmark, to be scored as a baseline.

    Example: sohes sam ~/sam-vit-huge --benchmark coco --root ~/coco --out sam-coco
    """
    from sohes.commands import sam as stage

    images = stage.run(
        model,
        benchmark=benchmark,
        root=root,
        out=out,
        points_per_side=points_per_side,
        points_per_batch=points_per_batch,
        pred_iou=pred_iou,
        stability=stability,
    )
    print(f"wrote the masks of {images} images: sohes score {out} --benchmark {benchmark} --root {root}")


class TrainingPhase(StrEnum):
    instruct = "instruct"
    correct = "correct"


class Bench(StrEnum):
    cluster = "cluster"
    nms = "nms"
    explore = "explore"
    hierarchy = "hierarchy"
    loss = "loss"
    score = "score"
    decode = "decode"
    launch = "launch"
    methods = "methods"
    segment = "segment"
    viewer = "viewer"


@app.command(
    rich_help_panel=TOOLS,
    # The options are those of the measuring function: they are read when it is known.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)
def bench(context: typer.Context, name: Annotated[Bench, typer.Argument(help="What to measure.")]) -> None:
    """Measure one part of the method.

    The last line is a JSON object. `sohes bench NAME --help` lists its options.

    Example: sohes bench cluster --grid 128
    """
    measure = getattr(importlib.import_module(f"sohes.bench.{name.value}"), f"bench_{name.value}")

    @functools.wraps(measure)
    def measure_and_print(*arguments: Any, **options: Any) -> None:
        print(json.dumps(measure(*arguments, **options)))

    tool = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    reference = " --reference" if "reference" in inspect.signature(measure).parameters else ""
    example = f"Example: sohes bench {name.value}{reference}"
    tool.command(epilog=example)(measure_and_print)
    tool(context.args, prog_name=f"sohes bench {name.value}")


@app.command(name="view-batch", rich_help_panel=TOOLS)
def view_batch(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("reports/batch.png"),
    phase: Annotated[TrainingPhase, typer.Option(help="Whose augmentation.")] = TrainingPhase.instruct,
    step: Annotated[int, typer.Option(min=0, help="Of which step of the training.")] = 0,
    samples: Annotated[int, typer.Option(min=1, help="At most so many of its batch.")] = 6,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """A picture of what training sees.

    Augmented images with their masks and parents.

    Example: sohes view-batch --step 100 --out batch.png
    """
    from sohes.commands import view_batch as stage
    from sohes.params import load_params

    stage.run(load_params(params), Path.cwd(), out=out, phase=phase.value, step=step, samples=samples)
    print(f"wrote {out}")


@app.command(rich_help_panel=TOOLS)
def doctor(
    params: ParamsFile = Path("params.yaml"),
    processes: Annotated[
        int | None, typer.Option(min=1, help="That train together; by default, the GPUs here.")
    ] = None,
) -> None:
    """What this machine has of all that a run needs.

    With the remedy, and whether the training fits into its memory.

    Example: sohes doctor --params params/one-gpu.yaml. Exit code 1 if something that these params need is broken.
    """
    from sohes.commands import doctor as stage
    from sohes.params import load_params_anywhere

    findings = stage.run(load_params_anywhere(params), Path.cwd(), processes=processes)
    for found in findings:
        print(f"{found.state:8}{found.what:9}{found.words}")
    if any(found.state is stage.State.broken for found in findings):
        raise typer.Exit(1)


@app.command(rich_help_panel=TOOLS)
def label(
    folder: Annotated[Path, typer.Argument(help="Photographs, searched to its depth.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write; <name>.rejected.jsonl goes beside it.")] = Path(
        "labels.parquet"
    ),
    backbone: Annotated[Path, typer.Option(help="Where explore.features has tokens from.")] = Path(
        "models/backbone.safetensors"
    ),
    exif: Annotated[bool, typer.Option("--exif/--no-exif", help="Turn photographs upright; benchmarks do not.")] = True,
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Phase 1 alone: pseudo-labels for a folder.

    After a kill, the same command goes on.

    Example: sohes label ~/photos --out labels.parquet && sohes export labels.parquet --out labels.json
    """
    from sohes.commands import label as stage
    from sohes.params import load_params_anywhere

    for line in stage.run(load_params_anywhere(params), folder, out, backbone=backbone, apply_exif=exif):
        print(line, flush=True)


@app.command(name="ablate-photographs", rich_help_panel=TOOLS)
def ablate_photographs(
    benchmarks: Annotated[list[str], typer.Argument(help="NAME=DIR: sets that `sohes benchmark-info` knows.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("docs/ablations.md"),
    images: Annotated[int, typer.Option(min=1, help="Of each set.")] = 100,
    backbone: Annotated[Path, typer.Option(help="Of the rows that are not handmade.")] = Path(
        "models/backbone.safetensors"
    ),
    params: ParamsFile = Path("params.yaml"),
) -> None:
    """Every step and switch of phase 1 on photographs.

    Annotated ones: tables 2 and 6b, as one page.

    Example: sohes ablate-photographs coco_panoptic=~/coco bsds500=~/bsds500
    """
    from sohes.commands import ablate_photographs as stage

    for part in stage.run(benchmarks, params, Path.cwd(), backbone=backbone, images=images, out=out):
        print(part, flush=True)


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
        sentence = sentence_of(error)
        if sentence is None or os.environ.get("SOHES_DEBUG"):
            raise
        print(f"sohes: {sentence}", file=sys.stderr)
        interrupted = any(isinstance(link, KeyboardInterrupt) for link in chain(error))
        raise SystemExit(130 if interrupted else 1) from None
    raise SystemExit(0)


def _terminate(signum: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signum)  # not the default's sudden death: blocks that clean up get their turn
