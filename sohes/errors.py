"""The one exception that users see as a sentence instead of a traceback, and which other errors become one."""

from __future__ import annotations

import errno
import importlib.util
import io
import sys
from collections.abc import Iterator

REMEDIES = {
    errno.EACCES: "fix its permissions, or name another",
    errno.EPERM: "fix its permissions, or name another",
    errno.EROFS: "name a place that can be written to",
    errno.ENOENT: "check its spelling, or make it first",
    errno.EEXIST: "a folder must be there: name another, or remove the file",
    errno.ENOTDIR: "name a place inside a folder",
    errno.EISDIR: "name a file",
}

# Faults of a shared file system that pass, and its remedy.
PASSING = {
    getattr(errno, name) for name in ("ESTALE", "EIO", "ETIMEDOUT", "EREMOTEIO", "ENOTCONN") if hasattr(errno, name)
}
PASSES = "run the same command again; if it stays, the file system or its server is at fault"

# What the base install does without: the name that is imported, and the extra of pyproject.toml that brings it.
EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "huggingface_hub"), "torch"),
    **dict.fromkeys(("dvc", "httpx", "mlflow", "pandas", "prefect"), "pipeline"),
    **dict.fromkeys(("boto3", "botocore"), "s3"),
    "submitit": "slurm",
    "kubernetes": "kubernetes",
    **dict.fromkeys(("onnx", "onnxscript"), "onnx"),
}

# Words that identify an out-of-memory error: of Python, of torch for GPU and CPU, and of OpenCV.
_MEMORY = (
    *("memoryerror", "out of memory", "outofmemory", "insufficient memory"),
    *("can't allocate memory", "cannot allocate memory"),
)


class SohesError(Exception):
    """Something the user can fix: one sentence with the value that is wrong and the remedy."""


class TemporaryError(SohesError):
    """Something that may pass by itself, so that the same command may succeed later: a network, a server, a node."""


def is_installed(package: str) -> bool:
    """Whether a package is there, by the name that is imported; nothing is imported."""
    return importlib.util.find_spec(package) is not None


def require_package(package: str, instead: str = "") -> None:
    """SohesError if a package of an extra is not installed. instead: another way out, after the extra's."""
    if not is_installed(package):
        raise SohesError(f"{_lacking(package)}{', or ' if instead else ''}{instead}")


def _lacking(package: str) -> str:
    return f"this needs the package {package}, which is not installed: `pip install 'sohes[{EXTRAS[package]}]'`"


LOST = "lost another"  # in the sentence of a process that trains with others, one of which ended

TEMPORARY = 75  # exit code after a TemporaryError, as in sysexits.h


def exit_code_of(error: BaseException) -> int:
    """What a command ends with after the error's sentence: 130 if the user interrupted it, TEMPORARY, or 1."""
    if any(isinstance(link, KeyboardInterrupt) for link in chain(error)):
        return 130
    return TEMPORARY if isinstance(error, TemporaryError) or _passes(error) else 1


def sentence_of(error: BaseException) -> str | None:
    """What to tell the user; None for a bug of ours, which deserves its traceback."""
    if isinstance(error, SohesError):
        return str(error)
    for link in chain(error):
        if isinstance(link, ModuleNotFoundError) and link.name in EXTRAS:
            return _lacking(link.name)
        if lacks_memory(link):
            return (
                f"there is not enough memory ({str(link).splitlines()[0] if str(link) else type(link).__name__}): take "
                "fewer processes (SOHES_WORKERS), smaller images or a smaller batch, and run the same command again"
            )
        full = isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT)
        # Arrow, SQLite and safetensors raise exceptions of their own that keep the system's words.
        if full or any(words in str(link) for words in ("No space left on device", "disk is full")):
            named = f" ({link.filename})" if isinstance(link, OSError) and link.filename else ""
            return f"the disk is full{named}: free some space and run the same command again"
    if isinstance(error, OSError) and error.filename:  # a file that somebody named, not a socket of ours
        fault = (error.strerror or "cannot be used").lower()
        remedy = PASSES if _passes(error) else REMEDIES.get(error.errno or 0, "fix it or name another")
        return f"{error.filename}: {fault}: {remedy}"
    return None


def _passes(error: BaseException) -> bool:
    return isinstance(error, OSError) and bool(error.filename) and error.errno in PASSING


def first_sentence(error: object) -> str:
    """The first sentence of what another library's error says, for use inside one of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0].rstrip(":.") if lines else type(error).__name__


def remark(sentence: str) -> None:
    """Say on stderr what does not end the command: `sohes: ` is kept for the sentence that does."""
    print(f"note: {sentence}", file=sys.stderr, flush=True)


def print_any_name() -> None:
    """Show letters that the terminal does not have as escapes, where they would end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def is_the_machines(error: BaseException) -> bool:
    """Whether the machine is at fault (memory, disk, GPU) rather than what was worked on."""
    return isinstance(error, OSError) or lacks_memory(error) or _mentions(error, ("cuda error",))


def lacks_memory(error: BaseException) -> bool:
    """Whether Python, torch or OpenCV got no memory, on the GPU or the CPU."""
    return _mentions(error, _MEMORY)


def _mentions(error: BaseException, words: tuple[str, ...]) -> bool:
    message = f"{type(error).__name__}: {error}".lower()
    return any(word in message for word in words)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
