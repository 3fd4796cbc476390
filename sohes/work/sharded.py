"""Work cut into shards. Each is made whole or not at all, by whoever comes first, and never twice.

Finished shards wait in a folder named after everything that they depend on, until the work is published from there. So
a stopped run continues where it was, and what other params, inputs or code have made is never taken for it. Where
inputs come and go while the work lasts, `of_items` tells which shards are still of the same ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sohes.errors import SohesError
from sohes.project import read_json
from sohes.work.files import write_file, write_json
from sohes.work.pool import Shard, as_ranges, plan_shards, run_shards

Made = TypeVar("Made")
Facts = dict[str, Any]  # what is known of a finished shard, such as counts and times; JSON


@dataclass(frozen=True)
class ShardedWork:
    """Shards, each a sequence of items, and the folder where finished ones wait.

    Pickled, as it is with every shard for a pool, it leaves the items of all others behind.

    A shard is finished when its facts are written, `<folder>/parts/<name>.json`; its other files come before.
    names: of the shards' files; by default `shard-00000` and so on.
    of_items: what a shard's items are known by. It is kept beside the facts, `<folder>/parts/<name>.of`, and a shard
    with facts of others is not finished.
    """

    folder: Path
    shards: Sequence[Sequence[Any]]
    names: Sequence[str] = ()
    of_items: Callable[[Sequence[Any]], str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shards": ()}

    def path(self, index: int, suffix: str) -> Path:
        """A file of one shard: `<folder>/<name><suffix>`."""
        return self.folder / f"{self._name(index)}{suffix}"

    def _name(self, index: int) -> str:
        return self.names[index] if self.names else f"shard-{index:05d}"

    def _part(self, index: int) -> Path:
        return self.folder / "parts" / f"{self._name(index)}.json"

    def missing(self) -> list[int]:
        """The shards that are not finished."""
        return [index for index, items in enumerate(self.shards) if not self._is_finished(index, items)]

    def _is_finished(self, index: int, items: Sequence[Any]) -> bool:
        part = self._part(index)
        if self.of_items is None:
            return part.exists()
        try:
            return part.exists() and part.with_suffix(".of").read_text() == self.of_items(items)
        except (OSError, ValueError):  # ValueError: a damaged file
            return False

    def left(self, shards: range | None = None, *, of: str = "this work") -> list[Shard]:
        """The missing shards, or those of them that are asked for. A range may reach beyond the last shard.

        SohesError if there is no shard where it begins; `of` says what was cut, such as `5 images`.
        """
        if shards is not None and shards.start not in range(len(self.shards)):
            raise SohesError(f"--shard must lie in 0..{len(self.shards) - 1} for {of} (got {as_ranges(shards)})")
        return [(index, self.shards[index]) for index in self.missing() if shards is None or index in shards]

    def run(self, make: Callable[[Shard], Facts], left: Sequence[Shard], *, workers: int, description: str) -> None:
        """Make shards in a pool (`run_shards`). make: writes a shard's files and returns its facts."""
        run_shards(partial(self._make, make), left, workers=workers, description=description)

    def spread(
        self,
        compute: Callable[[Sequence[Any]], Made],
        write: Callable[[Path, Sequence[Made]], Facts],
        left: Sequence[Shard],
        *,
        workers: int,
        description: str,
    ) -> None:
        """Like `run`, but shards that are fewer than the workers are cut into pieces, which share the pool.

        compute: what is made of some of a shard's items.  write: writes a shard's `.parquet`, whose path it gets, from
        all its pieces, in order, and returns its facts.
        """
        if len(left) >= workers:
            self.run(partial(self._whole, compute, write), left, workers=workers, description=description)
            return
        pieces: list[Shard] = []
        for index, items in left:
            pieces += [(index, piece) for piece in plan_shards(items, -(-len(items) * len(left) // workers))]
        made = run_shards(partial(_piece, compute), pieces, workers=workers, description=description, kept=False)
        for index, items in left:
            parts = [part for (k, _), part in zip(pieces, made, strict=True) if k == index]
            self._finish((index, items), write(self.path(index, ".parquet"), parts))

    def _whole(
        self, compute: Callable[[Sequence[Any]], Made], write: Callable[[Path, Sequence[Made]], Facts], shard: Shard
    ) -> Facts:
        return write(self.path(shard[0], ".parquet"), [compute(shard[1])])

    def _make(self, make: Callable[[Shard], Facts], shard: Shard) -> None:
        if self.of_items is not None:  # its files are about to be replaced
            self._part(shard[0]).unlink(missing_ok=True)
        self._finish(shard, make(shard))

    def _finish(self, shard: Shard, facts: Facts) -> None:
        index, items = shard
        if self.of_items is not None:
            write_file(self._part(index).with_suffix(".of"), self.of_items(items))
        write_json(self._part(index), facts)

    def facts(self) -> list[Facts]:
        """Of every shard, in order; all must be finished."""
        return list(self.each_fact())

    def each_fact(self) -> Iterator[Facts]:
        """The same, one in memory at a time."""
        remedy = "remove it and run the same command again"
        return (read_json(self._part(index), remedy) for index in range(len(self.shards)))

    def redo(self, indices: Iterable[int]) -> None:
        """Have shards made again: a photograph that was rejected may have been repaired."""
        for index in indices:
            self._part(index).unlink()

    def others(self) -> list[Path]:
        """The folder's siblings of other params, inputs or code.

        Where several kinds of work lie together, a folder is named `<kind>-<identity>`; other kinds do not count.
        """
        kind = self.folder.name.rpartition("-")[0]
        beside = self.folder.parent.iterdir() if self.folder.parent.exists() else ()
        return [path for path in beside if path != self.folder and path.name.rpartition("-")[0] == kind]

    def remove(self) -> None:
        """Remove the folder and the `others`."""
        for folder in (self.folder, *self.others()):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another kind of work waits there
            self.folder.parent.rmdir()


def _piece(compute: Callable[[Sequence[Any]], Made], shard: Shard) -> Made:
    return compute(shard[1])
