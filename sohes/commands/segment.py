"""`sohes segment`: masks, scores and parents for anybody's photographs, as JSON and pictures."""

from __future__ import annotations

import glob
import hashlib
import os
import shlex
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.tree import Tree

from sohes.commands.options import HERE, Upright
from sohes.data.sources.folder import left_out, list_photographs, read_photograph
from sohes.data.store.decode import MAX_MEGAPIXELS, UnreadableImage, decode_image
from sohes.errors import SohesError, remark
from sohes.evaluate import pictures
from sohes.evaluate.result import PictureFormat, Result
from sohes.masks import forest
from sohes.model.released import NAME, evaluate_of, is_for_photographs, read_card
from sohes.params import EvaluateParams, ExploreParams, load_params_anywhere, validated
from sohes.project import Project, read_json
from sohes.tracking.named import named_model
from sohes.work.files import fitted, require_writable

SegmentMany = Callable[[Iterable[np.ndarray]], Iterator[Result]]

# Shared with `sohes view`.
OUT = Path("segmented")
NAMED = 10  # files in a message; each has had its own before
LONGEST_NAME = 230  # bytes: a file system allows 255, and `.overlay.webp` and a number are added
_BEST = "the folder's own, or small"
ModelName = Annotated[
    str | None,
    typer.Option(help="A file, small, mlflow:, hf:// or https://.", show_default=_BEST),
]
_CARDS = "the card's, or params.yaml"
Numbers = Annotated[Path | None, typer.Option("--params", help="A params file.", show_default=_CARDS)]


def segment(
    photos: Annotated[list[Path], typer.Argument(help="Photographs, folders of them, or patterns.")],
    model: ModelName = None,
    out: Annotated[Path, typer.Option(help="Folder for JSON and pictures.")] = OUT,
    explore: Annotated[bool, typer.Option("--explore", help="Phase 1, without a model.")] = False,
    tile: Annotated[
        list[float] | None,
        typer.Option(
            show_default="evaluate.tiles",
            help="Also look at windows of this fraction of the sides, from 0.1; repeat for more; 1: none.",
        ),
    ] = None,
    max_masks: Annotated[int | None, typer.Option(help="The best N of each.")] = None,
    exif: Upright = True,
    picture_format: Annotated[PictureFormat, typer.Option("--format", help="png: large, without loss.")] = "webp",
    print_tree: Annotated[bool, typer.Option("--print", help="Print the strongest masks as a tree.")] = False,
    params: Numbers = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip what --out has JSON of.")] = False,
) -> None:
    """Masks, scores and parents for any photograph.

    Example: sohes segment cat.jpg 'trip/*.jpg' --out masks
    """
    chosen = choose(model, params, explore=explore)
    options: dict[str, Any] = {
        "levels": tile or (),
        "max_masks": max_masks,
        "apply_exif": exif,
        "picture_format": picture_format,
        "resume": resume,
    }
    photographs = whole = parts = 0
    try:
        for file, result in run(photos, **chosen, **options, out=out, root=Path.cwd()):
            print(f"wrote {file}")
            if print_tree:
                Console().print(tree(result))
            photographs, whole = photographs + 1, whole + int((result.parents < 0).sum())
            parts += int((result.parents >= 0).sum())
    finally:  # also of the photographs that are done when one of them cannot be read
        if photographs:
            of = "1 photograph" if photographs == 1 else f"{photographs} photographs"
            print(f"{whole + parts} masks in {of}, {whole} whole and {parts} parts: sohes view {shlex.quote(str(out))}")


def choose(model: str | None, params: Path | None, *, explore: bool) -> dict[str, Any]:
    """The `model`, `evaluate` and `explore` of `run`. Says on stderr what it chose and why, and a model's limits.

    Without `model` it is the working folder's, unless there is none or its card says that it is no good on photographs:
    then the one that comes with the code. Without `params` the numbers are those that the model is meant for
    (`evaluate_of`), or those of `params.yaml`.
    """
    if explore and model is not None:
        raise SohesError(f"phase 1 takes no model (got {model}): leave out --model, or --explore")
    if explore:
        values = load_params_anywhere(params or HERE.params)
        return {"model": "", "evaluate": values.evaluate, "explore": values.explore}
    if model is None:
        model, why = _best()
        remark(f"with the model {model}, {why}")
    file = named_model(model, Path.cwd())
    if limits := read_card(file).get("limits"):
        remark(f"limits of {model}: {limits}")
    evaluate = None if params else evaluate_of(file)
    return {
        "model": str(file),
        "evaluate": evaluate or load_params_anywhere(params or HERE.params).evaluate,
        "explore": None,
    }


def _best() -> tuple[str, str]:
    """The model to take for photographs, and why."""
    own = HERE.model("correct")
    if not own.exists():
        return NAME, f"for there is no {own} here"
    if is_for_photographs(own):
        return str(own), "this folder's own"
    return NAME, f"for {own} is no good on real photographs, says its card (--model takes it all the same)"


def run(
    photos: Sequence[Path | str],
    *,
    evaluate: EvaluateParams,
    model: str | Path,
    out: Path,
    explore: ExploreParams | None,
    root: Path,
    levels: Sequence[float] = (),
    max_masks: int | None = None,
    apply_exif: bool = True,
    picture_format: PictureFormat = "webp",
    resume: bool = False,
) -> Iterator[tuple[Path, Result]]:
    """Segment every photograph and write `<name>.json` and three pictures of each into `out` (`Result.save`).

    Yields each JSON file and what it holds, as soon as it is written. Photographs are read as the network takes them: a
    batch and the next one are in memory, on a CPU two.
    photos: files, folders, or patterns such as `trip/*.jpg`. model: its file.
    explore: phase 1 with these numbers instead of the network. levels: in place of those of `evaluate.tiles`.
    max_masks: in place of `evaluate.max_masks`.
    apply_exif: turn photographs upright; benchmarks draw their masks in stored pixels, without it.
    resume: skip photographs whose JSON, written last of their results, is in `out`, whatever model made it.
    A photograph that cannot be read, or whose results cannot be written, is reported and skipped; SohesError names
    them at the end. SohesError if there is nothing to read or no model, OSError if `out` cannot be written to.
    """
    files = find_photos(photos, leave_out=out)
    if not files:
        raise SohesError(f"no photographs in {', '.join(map(str, photos))}: name image files or a folder of them")
    if explore and levels:
        raise SohesError("phase 1 has no windows to look closer at: leave out --tile, or --explore")
    if explore and max_masks is not None:
        raise SohesError("phase 1 has no scores by which to choose masks: leave out --max-masks, or --explore")
    values, given = evaluate.model_dump(), [f"--tile {level:g}" for level in levels]
    if levels:
        values["tiles"]["levels"] = tuple(levels)
    if max_masks is not None:
        values["max_masks"], given = max_masks, [*given, f"--max-masks {max_masks}"]
    evaluate = validated(EvaluateParams, values, " ".join(given))
    require_writable(out)
    names = dict(zip(files, output_names(files), strict=True))
    shown = dict(zip(files, names_in(files, [Path(photo) for photo in photos]), strict=True))
    _refuse_others(files, names, out)
    if resume:
        files = _left(files, names, out)
    failed: dict[str, list[Path]] = {"read": [], "written": []}

    def report(what: str, file: Path, reason: object) -> None:
        remark(f"{file} cannot be {what}: {reason}; continuing with the others")
        failed[what].append(file)

    console = Console(stderr=True)  # standard output is for the files' names, which may go elsewhere
    own_lines = sys.stdout is not None and sys.stdout.isatty()
    with Progress(console=console, disable=not console.is_terminal, redirect_stdout=own_lines) as progress:
        task = progress.add_task("segment", total=len(files))
        segment_many = _phase_one(explore, root) if explore else _trained(evaluate, model)
        waiting: deque[tuple[Path, str]] = deque()  # read, but without results so far; with the file's digest

        def read() -> Iterator[np.ndarray]:
            for file in files:
                try:
                    data = read_photograph(file)
                    image = decode_image(data, max_megapixels=MAX_MEGAPIXELS, apply_exif=apply_exif)
                except UnreadableImage as error:
                    report("read", file, error)
                    progress.advance(task)
                else:
                    waiting.append((file, _digest(data)))
                    yield image

        for result in segment_many(read()):
            file, digest = waiting.popleft()
            about = {"file_name": shown[file], "digest": digest}
            try:
                written = result.save(out, names[file], **about, picture_format=picture_format)
            except OSError as error:
                report("written", file, error.strerror or error)
            else:
                yield written, result
            progress.advance(task)
    if lost := sum(map(len, failed.values())):
        counts = " and ".join(
            f"{len(which)} of {len(files)} photographs could not be {what} ({_first(which)})"
            for what, which in failed.items()
            if which
        )
        raise SohesError(f"{counts}: {'the others are done; ' if lost < len(files) else ''}fix or remove these")


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _refuse_others(files: Sequence[Path], names: Mapping[Path, str], out: Path) -> None:
    """SohesError if a JSON in `out` that would be replaced, or taken as done, is another photograph's.

    Photographs of two folders may share a name. A JSON without a digest may be anybody's, and says nothing.
    """
    for file in files:
        there = out / f"{names[file]}.json"
        try:
            known = read_json(there, "")["image"]["digest"]
            other = known != _digest(read_photograph(file))
        except (
            OSError,
            SohesError,
            KeyError,
            TypeError,
            UnreadableImage,
        ):  # none of ours; one that cannot be read is told
            continue
        if other:
            raise SohesError(
                f"{there} is of another photograph than {file}, or of what it was: name another folder with --out, or "
                "remove it"
            )


def _left(files: Sequence[Path], names: Mapping[Path, str], out: Path) -> list[Path]:
    """The files without a JSON in `out`; how many have one goes to stderr."""
    left = [file for file in files if not (out / f"{names[file]}.json").exists()]
    if done := len(files) - len(left):
        remark(f"{done} of {len(files)} photographs have results in {out}, which stay as they are")
    return left


def _first(files: Sequence[Path]) -> str:
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(map(str, files[:NAMED])) + more


def find_photos(photos: Sequence[Path | str], *, leave_out: Path | None = None) -> list[Path]:
    """The image files that these files, folders and patterns name, each once, folders searched to their depth.

    Hidden files and folders are skipped; how many others were skipped for their names goes to stderr.
    leave_out: the folder of the results, which is not searched. SohesError for what does not exist, and if a folder or
    pattern names what lies there: results and photographs would not be told apart.
    """
    found: dict[Path, Path] = {}
    for photo in map(Path, photos):
        files = _expand(photo, leave_out)
        folder = photo if photo.is_dir() else _front(photo)
        if leave_out and not photo.is_file() and folder.resolve().is_relative_to(leave_out.resolve()):
            raise SohesError(f"{leave_out} is for the results, but {photo} lies there: name another folder with --out")
        for file in files:
            if leave_out is None or photo.is_file() or not file.resolve().is_relative_to(leave_out.resolve()):
                found.setdefault(file.resolve(), file)
    return list(found.values())


def _expand(photo: Path, leave_out: Path | None) -> list[Path]:
    if photo.is_dir():
        listing = list_photographs(photo, leave_out=leave_out)
        if listing.others:
            remark(left_out(photo, listing.others))
        return [photo / name for name in listing.names]
    if photo.exists():
        return [photo]
    matches = [Path(path) for path in sorted(glob.glob(_pattern(photo), recursive=True))]  # noqa: PTH207 (no absolute ones)
    if "**" in photo.parts:  # goes past what it cannot look into without a word
        matches += [_front(photo) / name for name in list_photographs(_front(photo)).unread]
    if not matches:
        raise SohesError(f"no such photograph: {photo}")
    return [file for path in matches for file in (_expand(path, leave_out) if path.is_dir() else [path])]


def names_in(files: Sequence[Path], photos: Sequence[Path]) -> list[str]:
    """What each file is called in its JSON: its path in the folder of `photos` that it lies in, else its name.

    Files that would share one have their paths below the folder that holds all.
    """
    folders = [photo for photo in photos if photo.is_dir()]
    inside = (next((f.relative_to(d) for d in folders if f.is_relative_to(d)), Path(f.name)) for f in files)
    names = [path.as_posix() for path in inside]
    uses = Counter(names)
    whole = [Path(os.path.abspath(file)) for file in files]  # noqa: PTH100 (links stay)
    home = os.path.commonpath([path.parent for path in whole])
    return [n if uses[n] == 1 else path.relative_to(home).as_posix() for n, path in zip(names, whole, strict=True)]


def _pattern(photo: Path) -> str:
    """For `glob`: folders at its front that exist are meant as they are written, such as `trip [2024]/*.jpg`."""
    return str(Path(glob.escape(str(_front(photo)))) / photo.relative_to(_front(photo)))


def _front(photo: Path) -> Path:
    return next(folder for folder in photo.parents if folder.exists())


def output_names(files: Sequence[Path]) -> list[str]:
    """A name for each file's results: its stem, or where two would share it, the shortest name that is unique.

    Ignores case, as some file systems do. A file's name does not depend on the order of the files.
    """
    home = os.path.commonpath([file.resolve().parent for file in files])
    choices = [(f.stem, f.name, "_".join(f.resolve().relative_to(home).parts)) for f in files]
    uses = Counter(name for choice in choices for name in {c.casefold() for c in choice})
    names = [next((c for c in choice if uses[c.casefold()] == 1), choice[-1]) for choice in choices]
    taken: Counter[str] = Counter()
    names = [fitted(name, LONGEST_NAME) for name in names]
    for i in sorted(range(len(files)), key=lambda i: str(files[i].resolve())):
        key = names[i].casefold()  # only that of `a/b.jpg` beside `a_b.jpg` gets as far as a number
        taken[key] += 1
        if taken[key] > 1:
            names[i] += f"-{taken[key]}"
    return names


def tree(result: Result) -> Tree:
    """The masks that the pictures show, each below the nearest of them that it is a part of.

    A mask has its id in the JSON, its score, its share of the picture, and its box: left, top, width, height.
    """
    kept = pictures.places_of_strongest(result.found)
    parents = forest.relink(result.parents, kept)
    branches = {-1: Tree(f"the {len(kept)} strongest of {len(result)} masks: score, area, box")}
    for i in np.argsort(forest.levels(parents), kind="stable").tolist():  # parents come before their parts
        place = int(kept[i])
        share = result.areas[place] / (result.found.height * result.found.width)
        left, top, width, height = result.boxes_xywh[place].astype(int).tolist()
        words = f"{place + 1}: {result.scores[place]:.2f}  {share:.1%}  {left} {top} {width} {height}"
        branches[i] = branches[int(parents[i])].add(words)
    return branches[-1]


def _phase_one(explore: ExploreParams, root: Path) -> SegmentMany:
    from sohes.explore.label_image import label_image
    from sohes.explore.maps import make_extractor

    extract = make_extractor(explore, Project(root).model("backbone"))
    return lambda images: (Result(image, label_image(image, extract, explore)) for image in images)


def _trained(evaluate: EvaluateParams, model: str | Path) -> SegmentMany:
    from sohes.predictor import load_predictor

    return load_predictor(Path(model), evaluate).segment_many
