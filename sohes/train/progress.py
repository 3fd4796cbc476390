"""Progress of a training: a bar with the loss, the speed and the time left, or a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_SECONDS = 30


class Steps:
    """The steps of one training. shown: false in all processes but one."""

    def __init__(self, title: str, *, start: int, steps: int, images_per_step: int, shown: bool) -> None:
        self.title, self.start, self.steps, self.images_per_step = title, start, steps, images_per_step
        self.console, self._shown, self._said = Console(stderr=True), shown, set[str]()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:.1f} images/s"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (shown and self.console.is_terminal),
        )
        self._task = self._bar.add_task(title, total=steps, completed=start, loss=float("nan"), speed=0.0)
        self._began = self._last_line = time.monotonic()

    def show(self, done: int, loss: float) -> None:
        """`done` steps are finished."""
        now = time.monotonic()
        seconds_per_step = (now - self._began) / max(1, done - self.start)
        speed = self.images_per_step / seconds_per_step
        self._bar.update(self._task, completed=done, loss=loss, speed=speed)
        if self._shown and self._bar.disable and (now - self._last_line > LINE_EVERY_SECONDS or done == self.steps):
            self._last_line = now
            minutes = (self.steps - done) * seconds_per_step / 60
            self.say(f"{self.title} {done}/{self.steps}  loss {loss:.3f}  {speed:.1f} images/s  {minutes:.0f} min left")

    def say(self, sentence: str) -> None:
        """Print a line above the bar, in any process; each sentence once."""
        if sentence in self._said:
            return
        self._said.add(sentence)
        self.console.print(sentence, soft_wrap=True, highlight=False, markup=False)

    @contextmanager
    def __call__(self) -> Iterator[Steps]:
        with self._bar:
            yield self
