"""What a stopped training continues from: `.sohes/<stage>/state.pt` and the tracking run that it belongs to."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from sohes.errors import SohesError, first_sentence, is_the_machines
from sohes.project import read_json
from sohes.train.world import World
from sohes.work.files import atomic_path, write_json
from sohes.work.identity import identity


class Run(Protocol):
    """One run in a tracking store: `sohes.tracking.Recorder`, which this layer must not import."""

    run_id: str | None

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def artifact(self, path: Path) -> None: ...

    def dataset(self, folder: Path, digest: str, context: str) -> None: ...


OpenRun = Callable[[str | None], AbstractContextManager[Run]]  # the run to continue, None for a new one


@contextmanager
def resumable(
    folder: Path, depends: Mapping[str, Any], world: World, open_run: OpenRun
) -> Iterator[tuple[ResumableState, Run]]:
    """The state and the tracking run of a training that ends with the block: both are continued after a kill.

    depends: all that the result depends on, code included; a saved state of anything else is discarded. The state is
    removed when the block has ended well, so the block must have written the result by then.
    """
    state = ResumableState(folder, identity(depends), may_write=world.is_first)
    with open_run(state.run_id) as run:
        state.begin(run.run_id)
        yield state, run
        state.remove()
        world.wait()  # a process that left now would make torchrun end the others


class ResumableState:
    """The state of one training run in a folder of its own.

    A state with another fingerprint (the identity of params, labels, starting weights and code) is discarded with a
    message when this object is made, and one that is damaged is set aside in `state-damaged.pt`, the last of its kind.
    Only the first process of a world may discard, set aside or save.
    """

    def __init__(self, folder: Path, fingerprint: str, *, may_write: bool = True) -> None:
        self.folder, self.fingerprint, self.may_write = Path(folder), fingerprint, may_write
        self._state, self._run = self.folder / "state.pt", self.folder / "run.json"
        self._damaged = self.folder / "state-damaged.pt"
        found = self._read_run()
        if found and found["fingerprint"] != fingerprint:
            self._discard("it was made with other params, inputs or code")

    @property
    def run_id(self) -> str | None:
        """The tracking run that this training belongs to; None if it is new."""
        return (self._read_run() or {}).get("run_id")

    def begin(self, run_id: str | None) -> None:
        """Note the tracking run before the first step, so that it is found again after a kill at any moment."""
        if self.may_write:
            write_json(self._run, {"fingerprint": self.fingerprint, "run_id": run_id})

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the saved state; tensors, numbers, strings and containers of them."""
        if self.may_write:
            with atomic_path(self._state) as temporary:
                torch.save({**state, "fingerprint": self.fingerprint}, temporary)

    def load(self) -> dict[str, Any] | None:
        """The saved state, its tensors on the CPU; None if there is none, or if it cannot be used.

        What the machine is at fault for is raised: a disk or memory that fails for a moment costs no training.
        """
        try:
            state = torch.load(self._state, map_location="cpu", weights_only=True)
            fingerprint = state["fingerprint"]
        except FileNotFoundError:
            return None
        except Exception as error:  # torch raises a dozen kinds of exceptions on damaged files
            if is_the_machines(error) and not _seeks_outside(error):
                raise
            self._set_aside(first_sentence(error))
            return None
        if fingerprint != self.fingerprint:
            self._discard("it was made with other params, inputs or code")
            return None
        return state

    def remove(self) -> None:
        """Forget the run: it is finished, and its result is written."""
        if self.may_write:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _read_run(self) -> dict[str, Any] | None:
        try:
            return read_json(self._run, "", needs=["fingerprint"])
        except (FileNotFoundError, SohesError):
            return None

    def _set_aside(self, reason: str) -> None:
        if self.may_write:
            self._state.replace(self._damaged)
            print(
                f"the saved training state cannot be read ({reason}): it is set aside as {self._damaged}, and the "
                "training begins again",
                file=sys.stderr,
            )

    def _discard(self, reason: str) -> None:
        if self.may_write:
            print(f"the saved training state in {self.folder} is discarded: {reason}", file=sys.stderr)
            self.remove()


def _seeks_outside(error: BaseException) -> bool:
    """Whether a reader was sent to a place before the file's beginning, as by the index of a file that was cut."""
    return isinstance(error, OSError) and error.errno == errno.EINVAL
