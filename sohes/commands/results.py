"""`sohes results`: all phases of one or more projects on benchmarks of photographs, as one page with intervals.

The masks lie in `.sohes/results/` of each project, in shards that are never predicted again while model, params and
photographs are the same.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from sohes.commands.options import HERE
from sohes.data.benchmarks.catalogue import Benchmark, decode_photograph
from sohes.data.benchmarks.catalogue import benchmark as find_benchmark
from sohes.data.benchmarks.places import files_of, name_and_folder
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import iter_records
from sohes.errors import TemporaryError
from sohes.evaluate.comparison import comparison_markdown
from sohes.evaluate.phases import Predicted, depends_on, make_predictor, predict_images, write_predicted
from sohes.evaluate.recall import Scores, evaluate_masks
from sohes.explore import label_free
from sohes.model.released import start_of
from sohes.params import Params, load_params, weights_in
from sohes.pipeline import PHASES, SECTIONS
from sohes.project import Project, read_json
from sohes.structures import ImageRecord
from sohes.work.files import write_file
from sohes.work.identity import code_digest, identity
from sohes.work.origin import Origin, code_of
from sohes.work.pool import default_workers, plan_shards
from sohes.work.sharded import ShardedWork

LISTED = 12  # of the params that two projects differ in; more are only counted
TITLES = {"explore": "phase 1, pseudo-labels", "instruct": "phase 2", "correct": "phase 3"}
INTRODUCTION = """\
# Results on photographs

This page was written by one command:

```bash
{command}
```

Class-agnostic average recall in percent, up to {max_masks} masks per image, IoU 0.50 to 0.95. What counts as an
entity is shown by `sohes benchmark-info NAME`. In brackets: the 95 % interval over images (bootstrap). The last rows
are differences on the same images (paired bootstrap), in points, bold if the interval excludes zero. Annotations are
used for scoring only, never for training. A benchmark is skipped for a project that was trained on any of its
photographs.
"""


@dataclass(frozen=True)
class Sample:
    """One benchmark as it lies on this machine: its annotations, and a digest of each photograph's file."""

    name: str
    root: Path
    truth: tuple[ImageRecord, ...]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Trained:
    """A project, its params, and which of its phases are done: the first needs a backbone, the others their models.

    title: its heading.  name: what others call it.
    """

    title: str
    name: str
    project: Project
    params: Params
    phases: tuple[str, ...]


def results(
    benchmarks: Annotated[list[str], typer.Argument(help="NAME=DIR: a benchmark and where it is unpacked.")],
    project: Annotated[
        list[str] | None,
        typer.Option(help="Folder with params.yaml and models, or its NAME=DIR on the page; repeatable."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The Markdown page to write.")] = HERE.reports / "results.md",
) -> None:
    """All phases on benchmarks of photographs, as one page.

    Those that have been run, with 95 % intervals, and what each phase gains.

    Example: sohes results coco_panoptic=~/coco pascal_part=~/pascal-part bsds500=~/BSR
    """
    projects = project or ["."]
    opened = [_opened(text) for text in projects]
    for trained in opened:
        for phase in trained.phases:
            depends_on(phase, trained.params, trained.project.root)  # what is missing is known before hours of work
    origins = [_origin(trained, benchmarks) for trained in opened]
    samples = [_sample(text) for text in benchmarks]
    command = [
        "sohes results",
        *map(shlex.quote, benchmarks),
        *(f"--project {shlex.quote(text)}" for text in projects),
        f"--out {shlex.quote(str(out))}",
    ]
    caps = " or ".join(str(cap) for cap in sorted({t.params.evaluate.max_masks for t in opened}))
    parts = [INTRODUCTION.format(command=" \\\n  ".join(command), max_masks=caps)]
    for trained in opened:
        parts += [f"## {trained.title}\n", _facts(trained, opened[0])]
        for sample in samples:
            seen = _trained_on(trained.project, sample)
            parts += [_heading(sample), _seen_words(seen, sample)]
            if not seen:
                scores = {TITLES[phase]: _score(phase, trained, sample) for phase in trained.phases}
                parts.append(comparison_markdown(scores))
    for origin in origins:
        origin.check()
    write_file(out, "\n".join(parts))
    print(f"wrote {out}")


# ---------------------------------------------------------------- predict and score


def _opened(text: str) -> Trained:
    named = "=" in text and not Path(text).is_dir()
    name, folder = name_and_folder(text) if named else ("", Path(text))
    project = Project(folder)
    done = tuple(phase for phase in PHASES if phase == "explore" or project.model(phase).exists())
    title = f"{name}: `{folder}`" if named else f"Project `{folder}`"
    return Trained(title, name or f"`{folder}`", project, load_params(project.params), done)


def _origin(trained: Trained, benchmarks: Sequence[str]) -> Origin:
    project = trained.project
    models = [project.model(name) for name in ("backbone", *(phase for phase in trained.phases if phase != "explore"))]
    return Origin(
        "results",
        trained.params,
        project.params,
        sections=SECTIONS,
        load=load_params,
        code=code_of("sohes.commands.results"),
        inputs=[*models, *chain.from_iterable(files_of(name_and_folder(text)[1]) for text in benchmarks)],
    )


def _sample(text: str) -> Sample:
    name, root = name_and_folder(text)
    reader = find_benchmark(name)
    truth = tuple(reader.read_benchmark(root))
    return Sample(name, root, truth, tuple(_digest(reader.read_image(root, record.file_name)) for record in truth))


def _digest(photograph: bytes) -> str:
    return f"sha256:{hashlib.sha256(photograph).hexdigest()}"


def _score(phase: str, trained: Trained, sample: Sample) -> Scores:
    params = trained.params.evaluate
    code = code_digest("sohes.data.benchmarks.catalogue")

    def key() -> str:
        return identity([sample.digests, code, depends_on(phase, trained.params, trained.project.root)])

    photographs = [
        (r.image_id, r.file_name, d, (r.masks.height, r.masks.width))
        for r, d in zip(sample.truth, sample.digests, strict=True)
    ]
    results, name = trained.project.state("results"), f"{sample.name}-{phase}-"
    work = ShardedWork(results / f"{name}{key()}", plan_shards(photographs, params.images_per_shard))
    # Phase 1 runs on the CPU, one image a worker; the network takes its images in batches, in this process.
    workers = default_workers() if phase == "explore" else 1
    compute = partial(_compute, phase, trained, sample.name, sample.root)
    left, description = work.left(), f"{sample.name}, {TITLES[phase]}"
    work.spread(compute, write_predicted, left, workers=workers, description=description)
    if work.folder.name != f"{name}{key()}":  # which of the two models a shard has seen, nobody knows
        shutil.rmtree(work.folder)
        raise TemporaryError(f"a model of {trained.name} changed while results ran: run the same command again")
    for folder in work.others():
        shutil.rmtree(folder)
    return evaluate_masks(sample.truth, iter_records(work.folder), max_masks=params.max_masks)


def _compute(
    phase: str, trained: Trained, benchmark: str, root: Path, photographs: Sequence[tuple[int, str, str, tuple]]
) -> Predicted:
    """photographs: id, file name, digest and size of each."""
    reader: Benchmark = find_benchmark(benchmark)

    def read(name: str, digest: str) -> bytes:
        data = reader.read_image(root, name)
        if _digest(data) != digest:  # it is what the shard is named after
            raise TemporaryError(f"{name} in {root} changed while results ran: run the same command again")
        return data

    images = (decode_photograph(read(name, digest), size) for _, name, digest, size in photographs)
    named = [photograph[:3] for photograph in photographs]
    return predict_images(named, images, make_predictor(phase, trained.params, trained.project.root))


# ---------------------------------------------------------------- words


def _facts(trained: Trained, first: Trained) -> str:
    project, params = trained.project, trained.params
    store = _training_images(project)
    count = params.pull.scenes.train if store is None else len(store)
    drawn = f"{count} drawn scenes of {params.pull.scenes.size} pixels and **not one photograph**"
    trained_on = drawn if params.pull.source == "scenes" else f"{'' if store is None else f'{count} '}photographs"
    backbone = weights_in(project.root, params.backbone.source)
    start = start_of(params.instruct, project.root)
    claim = label_free.of_model(label_free.of_labels(params.explore, backbone), backbone, start)
    lines = [
        f"- Trained on {trained_on}.",
        f"- Phase 1: {_features(params)}, refiner `{params.explore.refiner}`; label-free: "
        f"{label_free.in_words(claim)}.",
        _network(trained),
    ]
    if trained is not first:
        changed = sorted(_changes(first.params.model_dump(mode="json"), params.model_dump(mode="json")))
        words = ", ".join(changed) if len(changed) <= LISTED else f"{len(changed)} keys"
        lines.append(f"- Its params differ from those of {first.name} in {words or 'nothing'}.")
    return "\n".join(lines) + "\n"


def _network(trained: Trained) -> str:
    """What learned, and which phases have not been run."""
    left = " and ".join(title.split(",")[0] for phase, title in TITLES.items() if phase not in trained.phases)
    if trained.phases == ("explore",):
        return f"- No network: {left} have not been run."
    last = trained.phases[-1]
    card = read_json(trained.project.card(last), f"run `sohes {last}` again", needs=["parameters", "model"])
    learned = ", ".join(
        f"{section.steps} steps of {section.batch_size} images in {TITLES[phase]}"
        + (f", begun with `{section.start}`" if getattr(section, "start", None) else "")
        for phase in trained.phases[1:]
        for section in [getattr(trained.params, phase)]
    )
    size = f"{card['parameters'] / 1e6:.1f} million parameters, sees {card['model']['image_size']} pixels"
    return f"- Network: {size}; {learned}." + (f" {left.capitalize()} has not been run." if left else "")


def _features(params: Params) -> str:
    weights = Path(params.backbone.pretrained).name  # of a file, wherever it lies
    kind = f"features of {weights}" if params.explore.uses_backbone else "handmade features"
    return f"{kind} at {params.explore.image_size} pixels"


def _changes(first: dict, other: dict, prefix: str = "") -> Iterator[str]:
    """`key: value` of every leaf that differs from `first`."""
    for key, value in other.items():
        if isinstance(value, dict):
            yield from _changes(first[key], value, f"{prefix}{key}.")
        elif first[key] != value:
            yield f"`{prefix}{key}: {value}`"


def _training_images(project: Project) -> ImageStore | None:
    return ImageStore(project.images) if project.images.exists() else None


def _heading(sample: Sample) -> str:
    entities = sum(record.masks.entities for record in sample.truth)
    return f"### {sample.name}: {len(sample.truth)} photographs, {entities:,} annotated entities\n"


def _trained_on(project: Project, sample: Sample) -> int | None:
    """How many of the photographs the project was trained on; None if it no longer says."""
    store = _training_images(project)
    if store is None:
        return None
    known = store.with_digests(sample.digests)
    return sum(digest in known for digest in sample.digests)


def _seen_words(seen: int | None, sample: Sample) -> str:
    if seen is None:
        return "Unknown whether these photographs were used in training: the project holds no `data/images`.\n"
    if seen:
        counted = f"{seen} of {len(sample.digests)} photographs"
        return f"**Not scored**: {counted} were used in training, though without their annotations.\n"
    return "None of these photographs was used in training.\n"
