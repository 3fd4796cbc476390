"""File names as other tools write them, found among the names that there are.

Annotation tools write Windows paths, folders of another machine, letters in another case, `%20` for a space, or accents
as one character where the file system has two.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import unquote

Tail = tuple[str, ...]


def tails(name: str) -> Iterator[Tail]:
    """The last parts of a path, the longest first; equal for names that differ in nothing but the ways above."""
    plain = unicodedata.normalize("NFC", unquote(name).casefold()).replace("\\", "/")
    parts = tuple(part for part in plain.split("/") if part not in ("", ".", ".."))
    return (parts[start:] for start in range(len(parts)))


class Names:
    """Names to look for others among."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_tail: dict[Tail, str | None] = {}  # None: of several
        for name in names:
            for tail in tails(name):
                self._by_tail[tail] = None if tail in self._by_tail else name

    def find(self, name: str) -> str | None:
        """The only name that shares the most last parts with this one; None if there is none, or several."""
        return next((self._by_tail[tail] for tail in tails(name) if tail in self._by_tail), None)


def last_part(name: str) -> str:
    """The file's own name, as `tails` compares it."""
    return next(tails(name), ("",))[-1]


def one_ends_with_the_other(one: str, other: str) -> bool:
    """Whether no part of the shorter of two paths is another than in the longer."""
    a, b = (next(tails(name), ()) for name in (one, other))
    shorter = min(len(a), len(b))
    return a[len(a) - shorter :] == b[len(b) - shorter :]


def found_as(wanted: Iterable[str], there: Sequence[str]) -> dict[str, str]:
    """The name among `there` of each wanted one; no two get the same, and those with none are left out."""
    names = Names(there)
    found = {name: other for name in wanted if (other := names.find(name)) is not None}
    uses = Counter(found.values())
    return {name: other for name, other in found.items() if uses[other] == 1}
