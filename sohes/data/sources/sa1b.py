"""SA-1B as a source: a list of signed links, each to a pack of about 11,000 photographs.

The list has the tab-separated columns `file_name` and `cdn_link` and a header line with these names. When its links
expire, download a fresh list to the same place; packs that were fetched are kept. A pack is named `.tar` but may be
gzipped. Its JSON files hold machine-made masks, which are read for held-out images only, never for training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sohes.data.benchmarks import sa1b
from sohes.data.sources.source import Member, Pack, Plan, held_out_by_name, read_digests
from sohes.data.sources.transfer import PATIENCE, LinkRefused, Patience, fetch
from sohes.data.sources.unpack import iter_members
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError
from sohes.masks.mask_json import Remarks
from sohes.project import read_text

_PACK = re.compile(r"sa_\d+\.tar")
_PHOTOGRAPH = re.compile(r"sa_(\d+)\.jpg")


@dataclass(frozen=True)
class Sa1bSource:
    """`links`: the list; `packs`: a file with the packs to learn from, one per line, or None for all of the list.

    `eval_packs`: names of packs that are held out as a whole, as in the paper (section 4.1), and not learned from.
    """

    links: Path
    packs: Path | None
    eval_packs: tuple[str, ...]
    eval_fraction: float
    digests: Path | None
    patience: Patience = PATIENCE

    def plan(self) -> Plan:
        links = read_links(self.links)
        if wrong := [name for name in self.eval_packs if not _PACK.fullmatch(name)]:
            raise SohesError(f"pull.sa1b.eval_packs must name packs such as sa_000020.tar (got {wrong[0]})")
        chosen = sorted(links) if self.packs is None else read_packs(self.packs)
        names = [*(name for name in chosen if name not in self.eval_packs), *dict.fromkeys(self.eval_packs)]
        missing = [name for name in names if name not in links]
        if missing:
            raise SohesError(f"{self.links} has no link for {len(missing)} of {len(names)} packs, such as {missing[0]}")
        digests = read_digests(self.digests, names)
        packs = [
            Pack(index, name, held_out=name in self.eval_packs, digest=digests.get(name))
            for index, name in enumerate(names)
        ]
        return Plan((), (), False, packs=tuple(packs))

    def fetch(self, pack: Pack, folder: Path) -> str:
        try:
            url = read_links(self.links)[pack.name]  # read again: the list may have been replaced meanwhile
            return fetch(url, folder / pack.name, digest=pack.digest, patience=self.patience)
        except LinkRefused as error:
            raise SohesError(
                f"the link of {pack.name} was refused (HTTP status {error.status}), probably because it has expired: "
                f"download a fresh list to {self.links} and run the same command again; finished packs are kept"
            ) from None

    def members(self, pack: Pack, folder: Path, *, held_out: bool, remarks: Remarks | None = None) -> Iterator[Member]:
        waiting: dict[str, bytes | UnreadableImage] = {}  # the photograph or its JSON, whichever came first

        def wanted(path: str) -> bool:
            name = PurePosixPath(path)
            evaluates = pack.held_out or held_out_by_name(name.stem, self.eval_fraction)
            return evaluates == held_out and (
                bool(_PHOTOGRAPH.fullmatch(name.name)) or (held_out and name.suffix == ".json")
            )

        for path, data in iter_members(folder / pack.name, wanted):
            name = PurePosixPath(path)
            if not held_out:
                yield _member(name.name, data, None, remarks)
            elif name.stem in waiting:
                photograph, annotations = (data, waiting.pop(name.stem))
                if name.suffix == ".json":
                    photograph, annotations = annotations, photograph
                yield _member(f"{name.stem}.jpg", photograph, annotations, remarks)
            else:
                waiting[name.stem] = data
        if waiting:
            names = ", ".join(sorted(waiting)[:3])
            raise SohesError(
                f"{pack.name} has {len(waiting)} held-out photographs without annotations, such as {names}"
            )


def _member(
    name: str, data: bytes | UnreadableImage, annotations: bytes | UnreadableImage | None, remarks: Remarks | None
) -> Member:
    match = _PHOTOGRAPH.fullmatch(name)
    assert match is not None
    if annotations is None:
        return Member(int(match[1]), name, data, None)
    if isinstance(annotations, UnreadableImage):
        return Member(int(match[1]), name, annotations, None)
    try:
        found = sa1b.record(annotations, Path(name).with_suffix(".json"), remarks=remarks)
        return Member(int(match[1]), name, data, found.masks)
    except SohesError as error:
        return Member(int(match[1]), name, UnreadableImage(f"its annotations cannot be read: {error}"), None)


def read_links(path: Path) -> dict[str, str]:
    """The links by pack name. SohesError names the line that is wrong, without its link."""
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        raise SohesError(f"there is no list of links at {path}: download it and name it in pull.sa1b.links") from None
    links: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, link = line.strip().partition("\t")
        if not name or (number == 1 and name == "file_name"):
            continue
        if not _PACK.fullmatch(name) or not link.startswith(("https://", "http://")):
            raise SohesError(f"{path}, line {number}: expected a name such as sa_000020.tar, a tab and a link")
        links[name] = link
    if not links:
        raise SohesError(f"{path} has no links: download the list again")
    return links


def read_packs(path: Path) -> list[str]:
    """The names of the packs to use; lines that start with # are comments."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except FileNotFoundError:
        raise SohesError(f"there is no list of packs at {path}: fix pull.sa1b.packs") from None
    names = [line for line in lines if line and not line.startswith("#")]
    wrong = [name for name in names if not _PACK.fullmatch(name)]
    if wrong or not names:
        raise SohesError(f"{path} must name packs such as sa_000020.tar (got {wrong[0] if wrong else 'none'})")
    return list(dict.fromkeys(names))
