"""`sohes init`: a project for somebody's own photographs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from sohes.backbone.hub import out_of_reach
from sohes.commands.edited import edited
from sohes.commands.new_project import make_project
from sohes.commands.options import HERE, ParamsFile
from sohes.data.benchmarks import coco
from sohes.data.benchmarks.own import check
from sohes.data.sources.folder import left_out, list_photographs
from sohes.data.sources.source import SUFFIXES
from sohes.errors import EXTRAS, SohesError, is_installed
from sohes.model.released import has_gpu
from sohes.params import load_params, profiles
from sohes.params.schema import schema_text
from sohes.project import TEMPLATE
from sohes.work.files import write_file

PHOTOGRAPHS = "photographs"  # the profile
NO_PIPELINE = "released"  # the profile of a network whose labels another one makes
# Of networks trained on so many photographs: average recall on 100 of COCO, and that of the pseudo-labels that each
# learned from (docs/faq.md).
MEASURED = {106: (13.7, 15.6), 949: (27.4, 25.5)}


def init(
    images: Annotated[Path, typer.Option(help="Your folder of photographs.")],
    annotations: Annotated[Path | None, typer.Option(help="COCO or COCO panoptic JSON, if you have it.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="Numbers of params/NAME.yaml, or `demo`; else the best for here.")
    ] = None,
    params: ParamsFile = HERE.params,
) -> None:
    """Point params.yaml at your own photographs.

    Numbers of your own stay, unless a profile is named. In a folder that is no project yet it makes one, with
    dvc.yaml and what DVC, git and the launchers need.

    Example: sohes init --images ~/photos --profile photographs
    """
    if not images.is_dir():
        raise SohesError(f"no such folder of photographs: {images}")
    if annotations is None and Path.cwd().is_relative_to(images.resolve()):  # with them, only what they list is taken
        raise SohesError(f"{images} holds this folder, whose results would pass for photographs: init in one beside it")
    listing = list_photographs(images)
    if not listing.names:
        raise SohesError(f"there are no photographs in {images} ({', '.join(SUFFIXES)}): name a folder that has some")
    if annotations is not None:
        if not annotations.is_file():
            raise SohesError(f"no such annotation file: {annotations}")
        coco.load(annotations)  # a broken file is reported now, not after the training
    source = params if params.exists() else TEMPLATE.params
    if profile is None and _are_the_demos(params):
        profile, why = choose()
        print(why)
    if profile is not None:
        source = _profile(profile, params)
    with edited(source, params, schema=HERE.schema) as values:
        folder = values["pull"]["folder"]
        values["pull"]["source"] = "folder"
        folder["images"] = _as_written(images)
        folder["annotations"] = None if annotations is None else _as_written(annotations)
    scored = "scored against your annotations" if annotations else "predicted but not scored: there are no annotations"
    write_file(HERE.schema, schema_text())
    if params.resolve() == HERE.params.resolve() and (new := make_project(Path())):
        print(f"made a project here: {', '.join(map(str, new))}")
    print(f"{params}: pull.source is folder, pull.folder.images is {folder['images']}", flush=True)
    # Last, because it takes a while and so that nobody has to name the files again once the annotations are right.
    for sentence in () if annotations is None else check(annotations):
        print(sentence, file=sys.stderr)
    print(f"The held-out images are {scored}.")
    if listing.others:
        print(left_out(images, listing.others), file=sys.stderr)
    for sentence in how_many(len(listing.names), images):
        print(sentence)
    if missing := [name for name in ("torch", "dvc") if not is_installed(name)]:
        extras = ",".join(EXTRAS[name] for name in missing)
        print(f"To train: `pip install 'sohes[{extras}]'`.")
    print("Next: `dvc repro`. After changing the photographs themselves: `dvc repro --force pull`, then `dvc repro`.")


def choose() -> tuple[str, str]:
    """The profile for photographs that this machine can have, and a sentence that says which and why."""
    weights = load_params(TEMPLATE.profiles / f"{PHOTOGRAPHS}.yaml").backbone.source
    if fault := out_of_reach(weights):
        remedy = f"`--profile {PHOTOGRAPHS}` and backbone.pretrained: FILE take them from a file"
        return "demo", f"Profile demo, colour features: {weights} cannot be had ({fault}); {remedy}."
    cost = "on a CPU 4 seconds a photograph for phase 1 (`dvc repro explore`) and a day or more to train"
    if has_gpu():
        cost = "minutes for a thousand photographs"
    return PHOTOGRAPHS, f"Profile {PHOTOGRAPHS}, features of {weights}: {cost}; `--profile demo` is quicker and worse."


def _are_the_demos(params: Path) -> bool:
    """Whether there are no numbers yet, or only those of the demo, which was made for drawn scenes."""
    if not (TEMPLATE.profiles / f"{PHOTOGRAPHS}.yaml").exists():  # a copy of the code without them
        return False
    if not params.exists():
        return True
    own, demo = load_params(params), load_params(TEMPLATE.params)
    return own.model_copy(update={"pull": demo.pull}) == demo and own.pull.source == demo.pull.source


def how_many(photographs: int, folder: Path) -> list[str]:
    """What is known about training on so many photographs, and for few of them, what to do instead."""
    most = max(MEASURED)
    if photographs >= most:
        return []
    figures = "; ".join(
        f"from {count}, a network had an average recall of {recall:g}, its pseudo-labels {labels:g}"
        for count, (recall, labels) in MEASURED.items()
    )
    name = shlex.quote(str(folder))
    return [
        f"Photographs here: {photographs}. Training wants at least {most}: {figures} (docs/faq.md).",
        f"With fewer, take masks without training: `sohes segment {name}`, or `sohes label {name}` for phase 1 alone.",
    ]


def _profile(name: str, params: Path) -> Path:
    """The file of a profile. SohesError for an unknown one, or if `params` holds numbers that no profile has."""
    files = profiles()
    if name not in files:
        raise SohesError(f"no profile {name}: name one of {', '.join(sorted(files.keys() - {NO_PIPELINE}))}")
    if name == NO_PIPELINE:
        raise SohesError(
            f"the profile {name} trains a network on labels that the profile {PHOTOGRAPHS} makes: take that one, then "
            "the commands of docs/released-model.md"
        )
    known = {load_params(file).model_dump_json(exclude={"pull"}) for file in files.values()}
    if params.exists() and load_params(params).model_dump_json(exclude={"pull"}) not in known:
        raise SohesError(f"{params} has numbers of your own: move it away, or leave out --profile")
    return files[name]


def _as_written(path: Path) -> str:
    """Relative inside the project's folder, which is the working one, so that it moves with it; absolute outside."""
    path, home = path.resolve(), HERE.root.resolve()
    return os.path.relpath(path, home) if path.is_relative_to(home) else str(path)
