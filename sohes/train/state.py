"""What a stopped training continues from: `.sohes/<stage>/state.pt`, and the tracking run it belongs to."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sohes.work.files import atomic_path, write_json


def fingerprint(depends: Mapping[str, Any]) -> str:
    """Digest of everything that a training run depends on: params and the digests of its inputs."""
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


class ResumableState:
    """The state of one training run in a folder of its own.

    A state with another fingerprint (other params, labels or starting weights) is never continued: it is discarded
    with a message, when this object is made. Only the first process of a world may discard or save.
    """

    def __init__(self, folder: Path, fingerprint: str, *, may_write: bool = True) -> None:
        self.folder, self.fingerprint, self.may_write = Path(folder), fingerprint, may_write
        self._state, self._run = self.folder / "state.pt", self.folder / "run.json"
        found = self._read_run()
        if found and found["fingerprint"] != fingerprint:
            self._discard("it was made with other params or inputs")

    @property
    def run_id(self) -> str | None:
        """The tracking run that this training belongs to; None if it is new."""
        return (self._read_run() or {}).get("run_id")

    def begin(self, run_id: str | None) -> None:
        """Note the tracking run before the first step, so that a kill at any moment leads back to it."""
        if self.may_write:
            write_json(self._run, {"fingerprint": self.fingerprint, "run_id": run_id})

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state; tensors, numbers, strings and containers of them."""
        if self.may_write:
            with atomic_path(self._state) as temporary:
                torch.save({**state, "fingerprint": self.fingerprint}, temporary)

    def load(self) -> dict[str, Any] | None:
        """The saved state, its tensors on the CPU; None if there is none, or none that can be used."""
        if not self._state.exists():
            return None
        try:
            state = torch.load(self._state, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            self._discard(f"it cannot be read ({str(error).splitlines()[0]})")
            return None
        if state["fingerprint"] != self.fingerprint:
            self._discard("it was made with other params or inputs")
            return None
        return state

    def remove(self) -> None:
        """Forget the run: it is finished, and its result lies in `models/`."""
        if self.may_write:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read_run(self) -> dict[str, Any] | None:
        try:
            return json.loads(self._run.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def _discard(self, reason: str) -> None:
        if self.may_write:
            print(f"the saved training state in {self.folder} is discarded: {reason}", file=sys.stderr)
            self.remove()
