"""What libraries expect of their surroundings, put right before they are imported.

They want a home in which to keep what they would otherwise make or fetch again: fonts, weights, compiled functions. A
container's user or a service account may have none that can be written to; then a private folder among the system's
temporary files is the next best place. And they ask a proxy even for servers on this machine.
"""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

CACHE = "XDG_CACHE_HOME"  # read by numba, torch, timm and Hugging Face's hub
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def settle() -> None:
    """Set the environment variables that this process and those it starts need. Call it before libraries are imported.

    Nothing changes where the home, or what the environment names in its place, can be written to.
    """
    _go_round_proxies()
    if _is_known() and may_write(cache_home()):
        return
    home = temporary_home()
    if home is None:
        return
    _name_the_user(home)
    if not may_write(cache_home()):
        os.environ[CACHE] = str(home)
    os.environ.setdefault("MPLCONFIGDIR", str(home / "matplotlib"))


def cache_home() -> Path:
    """The folder in which libraries keep their caches, which need not exist."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache")


def may_write(path: Path) -> bool:
    """Whether a file can be changed, or files be made in a folder; what does not exist would be made above it."""
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        if there.is_dir():
            tempfile.TemporaryFile(dir=there).close()
        else:
            there.open("ab").close()
    except OSError:
        return False
    return True


@cache
def temporary_home() -> Path | None:
    """A temporary folder that outlasts the process and that nobody else can write to; None if there can be none.

    What lies in a cache is executed: a folder of that name that somebody else has made is not used.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"sohes-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_ours and may_write(folder) else None


def _is_known() -> bool:
    """Whether the system can tell the user's name and home: libraries ask for both."""
    try:
        return bool(getpass.getuser() and Path.home())
    except (KeyError, OSError, RuntimeError):
        return False


def _name_the_user(home: Path) -> None:
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(home)


def _go_round_proxies() -> None:
    """A proxy's loopback is not ours: add this machine's to what needs no proxy."""
    if not any(os.environ.get(name) for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")):
        return
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    known = [host.strip() for host in listed.split(",") if host.strip()]
    if "*" not in known:
        without = ",".join(dict.fromkeys([*known, *LOOPBACK]))
        os.environ.update(NO_PROXY=without, no_proxy=without)
