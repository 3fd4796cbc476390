"""The one exception that users see as a sentence instead of a traceback, and what else deserves a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

REMEDIES = {
    errno.EACCES: "mend its permissions, or name another",
    errno.EPERM: "mend its permissions, or name another",
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "check its spelling, or make it first",
    errno.EEXIST: "a folder is wanted there: name another, or remove the file",
    errno.ENOTDIR: "name a place inside a folder",
    errno.EISDIR: "name a file",
}


# How a want of memory is told: Python's exception, and the words of torch for GPU and CPU, and of OpenCV.
_MEMORY = ("memoryerror", "out of memory", "outofmemory", "can't allocate memory", "insufficient memory")


class SohesError(Exception):
    """Something the user can mend: one sentence with the value that is wrong and the remedy."""


def sentence_of(error: BaseException) -> str | None:
    """What to tell the user; None for what can only be a fault of ours, which deserves its traceback."""
    if isinstance(error, SohesError):
        return str(error)
    for link in chain(error):
        if _tells_of(link, _MEMORY):
            return (
                f"there is not enough memory ({str(link).splitlines()[0] if str(link) else type(link).__name__}): take "
                "fewer processes (SOHES_WORKERS), smaller images or a smaller batch, and run the same command again"
            )
        full = isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT)
        # Arrow, SQLite and safetensors have their own exceptions for it, and keep the system's words.
        if full or any(words in str(link) for words in ("No space left on device", "disk is full")):
            return f"the disk is full ({Path.cwd()}): free some space and run the same command again"
    if isinstance(error, OSError) and error.filename:  # about a file that somebody named, not about a socket of ours
        fault = (error.strerror or "cannot be used").lower()
        return f"{error.filename}: {fault}: {REMEDIES.get(error.errno or 0, 'mend it or name another')}"
    return None


def is_the_machines(error: BaseException) -> bool:
    """Whether an error tells of the machine's trouble (no memory, a disk, a GPU) not of what was worked on."""
    return isinstance(error, OSError) or _tells_of(error, (*_MEMORY, "cuda error"))


def _tells_of(error: BaseException, words: tuple[str, ...]) -> bool:
    told = f"{type(error).__name__}: {error}".lower()
    return any(word in told for word in words)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
