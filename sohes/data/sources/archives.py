"""Archives of photographs, by https or as files, such as COCO's zips.

`images` are for training, except for `eval_fraction` of each; `eval` are held out as a whole. With `annotations` (COCO
instance JSON), only annotated photographs of `eval` are used and they keep their ids. A JSON file inside an archive is
written `https://host/annotations.zip#annotations/instances_val2017.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urldefrag, urlsplit

from sohes.data.benchmarks import coco
from sohes.data.names import Names, one_ends_with_the_other
from sohes.data.sources.source import (
    IDS_PER_PACK,
    Member,
    Pack,
    Plan,
    held_out_by_name,
    is_photograph,
    read_digests,
)
from sohes.data.sources.transfer import PATIENCE, Patience, fetch
from sohes.data.sources.unpack import iter_members, iter_numbered
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError
from sohes.masks.mask_json import Remarks
from sohes.work.files import fitted, write_file

MAX_JSON_BYTES = 2**32  # COCO's largest is 450 MB
_JSON = "annotations.json"


@dataclass(frozen=True)
class ArchivesSource:
    """`images`, `eval`, `annotations`: links, or paths on this machine."""

    images: tuple[str, ...]
    eval: tuple[str, ...]
    annotations: str | None
    eval_fraction: float
    digests: Path | None
    patience: Patience = PATIENCE

    def plan(self) -> Plan:
        if not self.images:
            raise SohesError("pull.source is archives but pull.archives.images is empty: name an archive there")
        links = [*self.images, *self.eval]
        names = [_name(link) for link in links]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SohesError(f"two archives of pull.archives are called {twice.pop()}: rename one")
        digests = self._digests()
        packs = [
            Pack(index, name, _stamp(link), held_out=index >= len(self.images), digest=digests.get(name))
            for index, (name, link) in enumerate(zip(names, links, strict=True))
        ]
        return Plan((), (), self.annotations is None, packs=tuple(packs))

    def fetch(self, pack: Pack, folder: Path) -> str:
        if pack.held_out and self.annotations is not None:
            self._fetch_annotations(self.annotations, folder)
        link = [*self.images, *self.eval][pack.index]
        return fetch(_as_url(link), _place(folder, pack.name), digest=pack.digest, patience=self.patience)

    def _digests(self) -> dict[str, str]:
        links = [*self.images, *self.eval, *([_in_archive(self.annotations)[0]] if self.annotations else [])]
        return read_digests(self.digests, {_name(link) for link in links})

    def _fetch_annotations(self, annotations: str, folder: Path) -> None:
        if (folder / _JSON).exists():
            return
        link, member = _in_archive(annotations)
        path = _place(folder, f"for-annotations-{_name(link)}")
        fetch(_as_url(link), path, digest=self._digests().get(_name(link)), patience=self.patience)
        if not member:
            path.rename(folder / _JSON)
            return
        found = dict(iter_members(path, lambda name: name == member, max_member_bytes=MAX_JSON_BYTES))
        if not isinstance(data := found.get(member), bytes):
            raise SohesError(f"cannot read {member} in {_name(link)}: fix pull.archives.annotations")
        write_file(folder / _JSON, data)
        path.unlink()

    def members(self, pack: Pack, folder: Path, *, held_out: bool, remarks: Remarks | None = None) -> Iterator[Member]:
        def wanted(name: str) -> bool:
            chosen = held_out if pack.held_out else held_out_by_name(name, self.eval_fraction) == held_out
            return chosen and is_photograph(name)

        if pack.held_out and self.annotations is not None:
            yield from self._annotated(pack, folder, wanted, remarks) if held_out else ()
            return
        for number, name, data in iter_numbered(_place(folder, pack.name), wanted):
            yield Member(pack.index * IDS_PER_PACK + number, f"{pack.name}/{name}", data)

    def _annotated(
        self, pack: Pack, folder: Path, wanted: Callable[[str], bool], remarks: Remarks | None
    ) -> Iterator[Member]:
        content = coco.load(folder / _JSON)
        images = {image["file_name"]: image["id"] for image in content["images"]}
        names = Names(images)

        def listed(path: str) -> str | None:
            for name in (path, PurePosixPath(path).name):
                if name in images:
                    return name
            found = names.find(path)
            return found if found and one_ends_with_the_other(found, path) else None  # b/1.jpg is not a/1.jpg

        seen: set[str] = set()
        records = coco.read_content(content, folder / _JSON, remarks=remarks)
        truth = {record.image_id: record.masks for record in records}
        for path, data in iter_members(_place(folder, pack.name), lambda path: wanted(path) and bool(listed(path))):
            name = listed(path)
            if name and name not in seen:  # a second file with the same name is not the annotated one
                seen.add(name)
                yield Member(images[name], name, data, truth[images[name]])
        if len(self.eval) == 1:  # several archives have a part of the annotated photographs each
            for name in sorted(images.keys() - seen):
                yield Member(images[name], name, UnreadableImage(f"annotated, but not in {pack.name}"))


def _in_archive(annotations: str) -> tuple[str, str]:
    """The file, and which of its members holds the annotations: what comes after a `#` that is not of its name."""
    if "://" in annotations:
        link, member = urldefrag(annotations)
        return link, member
    parts = annotations.split("#")
    ways = [("#".join(parts[:n]), "#".join(parts[n:])) for n in range(len(parts), 0, -1)]
    return next((way for way in ways if Path(way[0]).expanduser().is_file()), ways[-1])


def _name(link: str) -> str:
    name = PurePosixPath(unquote(urlsplit(link).path) if "://" in link else link).name
    if not name:
        raise SohesError(f"{link} names no file: fix pull.archives")
    return name


def _place(folder: Path, name: str) -> Path:
    """Where an archive of any name is kept while it is used."""
    return folder / fitted(name, 230)  # `.part.json` is added


def _as_url(link: str) -> str:
    return link if "://" in link else Path(link).expanduser().resolve().as_uri()


def _stamp(link: str) -> str:
    """Size and time of a local file. A link has none: its content is assumed to change only with the link."""
    path = Path(link).expanduser()
    return f"{path.stat().st_size} {path.stat().st_mtime_ns}" if "://" not in link and path.exists() else ""
