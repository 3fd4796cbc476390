"""`sohes view`: a project's predictions, results of `sohes segment`, or photographs, in the browser."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from sohes.commands import segment as segmenting
from sohes.errors import SohesError
from sohes.project import Project
from sohes.viewer.gallery import Gallery, ProjectGallery, ResultGallery, is_result
from sohes.viewer.server import make_server

SegmentPhotos = Callable[[Sequence[Path]], Iterable[Path]]


def view(
    what: Annotated[list[Path] | None, typer.Argument(help="A project, results of segment, or photographs.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in the browser.")] = True,
    model: segmenting.ModelName = None,
    explore: Annotated[bool, typer.Option("--explore", help="For photographs, as in segment.")] = False,
    out: Annotated[Path, typer.Option(help="For photographs, as in segment.")] = segmenting.OUT,
    params: segmenting.Numbers = None,
) -> None:
    """Look at masks in the browser.

    Hover, walk up to parents, compare the phases. Nothing leaves this machine.

    Example: sohes view                 (this project's predictions; also: sohes view cat.jpg, sohes view segmented)
    """

    def segment(photos: Sequence[Path]) -> Iterator[Path]:
        chosen = segmenting.choose(model, params, explore=explore)
        return (file for file, _ in segmenting.run(photos, **chosen, out=out, root=Path.cwd()))

    what, root = what or [], Path.cwd()
    gallery = open_gallery(what, root=root, segment=segment)
    if not gallery.names:
        raise SohesError("there is nothing to show: name a project, a folder of results, or photographs")
    title = ", ".join(map(str, what)) or root.resolve().name
    with make_server(gallery, title=title, port=port) as server:
        address = f"http://{server.server_address[0]!s}:{server.server_port}/"
        print(f"{len(gallery.names)} pictures at {address} (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def open_gallery(what: Sequence[Path], *, root: Path, segment: SegmentPhotos) -> Gallery:
    """The project in `root` if `what` is empty; else a project's folder, results, or photographs to segment first.

    SohesError if there are no predictions or results where they are expected, or if no photograph can be segmented.
    """
    if not what:
        if Project(root).all_predictions.exists():
            return ProjectGallery(root)
        raise SohesError(f"no predictions in {root}: run `sohes evaluate`, or name photographs or results")
    if len(what) == 1 and what[0].is_dir():
        folder = what[0]
        above = Project(folder.parent)
        if folder == above.all_predictions and above.held_out.exists():
            return ProjectGallery(folder.parent)
        if Project(folder).all_predictions.exists():
            return ProjectGallery(folder)
    # A folder of photographs may hold JSON files of its own: annotations, a camera's or a web album's.
    results = [file for path in what for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    results = [file for file in results if is_result(file)]
    if results and all(path.is_dir() or path.suffix == ".json" for path in what):
        return ResultGallery(results)
    if all(path.suffix == ".json" and not path.is_dir() for path in what):
        raise SohesError(f"no result of `sohes segment` in {', '.join(map(str, what))}: name the folder that it wrote")
    return ResultGallery(_done(segment(what)))


def _done(written: Iterable[Path]) -> list[Path]:
    """The files that are written before a SohesError, which goes to stderr; if there are none, it is raised."""
    done: list[Path] = []
    try:
        for file in written:  # one by one: a list made at once is lost with the error
            done.append(file)
    except SohesError as error:
        if not done:
            raise
        print(f"sohes: {error}", file=sys.stderr)
    return done
