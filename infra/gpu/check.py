"""One check of a GPU machine that is lent for minutes, without network: what agrees, how fast it is, where it is bound.

    python infra/gpu/check.py --seconds 180 --out FOLDER [--weights dinov2.safetensors] [--photographs FOLDER]
    python infra/gpu/check.py --table --out FOLDER

Every figure is a line of FOLDER/check.jsonl as soon as it is known. A stage that fails or hangs costs its own lines
only. Without a GPU everything runs at toy sizes. --table writes a finished check into docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/performance.md"
BEGIN, END = "<!-- figures of a GPU check: begin -->", "<!-- figures of a GPU check: end -->"
ORDER = ("agreement", "training", "loader", "explore", "inference", "correct", "falls", "compile")
LATE = 1.5, 10  # a stage is ended after this many times its seconds and so many more
LAST = 3.0  # seconds at the end for ending what still runs


class Check:
    """Lines as they come, in a file and on stdout."""

    def __init__(self, folder: Path, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "check.jsonl"
        self.path.unlink(missing_ok=True)
        self.end = time.monotonic() + seconds

    def write(self, **line: object) -> None:
        text = json.dumps(line)
        with self.path.open("a") as file:
            file.write(text + "\n")
        print(text, flush=True)

    def left(self) -> float:
        return self.end - time.monotonic() - LAST

    def run(self, stages: Sequence[str], options: Sequence[str]) -> None:
        """All stages; where one ends the worker or keeps it too long, another worker takes the rest."""
        rest, first = list(stages), True
        while rest and self.left() > 2:
            done = self._some(rest, options, first=first)
            rest, first = rest[done:], False
        for stage in rest:
            self.write(stage=stage, what="skipped", error="no time left")

    def _some(self, stages: list[str], options: Sequence[str], *, first: bool) -> int:
        """Start a worker on the stages; how many of them are over when it has ended."""
        command = [sys.executable, "-m", "infra.gpu.worker", *stages, "--seconds", str(self.left()), *options]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, "SOHES_TRACKING": "off"}
        worker = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        events: queue.Queue[dict | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(worker, events), daemon=True)
        reader.start()
        over, running, limit, reason = 0, "", self.left(), ""
        until = time.monotonic() + limit
        while True:
            try:
                event = events.get(timeout=max(0.0, min(until, self.end - LAST) - time.monotonic()))
            except queue.Empty:
                reason = f"ended after {limit:.0f} seconds" if self.left() > 0.5 else "the check's time is over"
                break
            if event is None:
                reason = f"the process ended with status {worker.wait()}"
                break
            kind = event.pop("event")
            if kind == "begin":
                running, limit = event["stage"], LATE[0] * event["seconds"] + LATE[1]
                until, begun = time.monotonic() + limit, time.monotonic()
            elif kind == "row":
                self.write(**event)
            elif kind == "machine" and first:
                self.write(stage="machine", **event)
            elif kind == "end":
                over, running, until = over + 1, "", self.end
                self.write(stage=event["stage"], what="end", seconds=event["seconds"])
        _end(worker)
        reader.join()
        worker.stdout.close()
        if running:
            self.write(stage=running, what="failed", error=reason)
            self.write(stage=running, what="end", seconds=round(time.monotonic() - begun, 1))
            return over + 1
        if over < len(stages) and not over:  # it did not even begin: another one would not either
            self.write(stage=stages[0], what="failed", error=reason)
            return 1
        return over


def _read(worker: subprocess.Popen, events: queue.Queue) -> None:
    for line in worker.stdout:
        try:
            events.put(json.loads(line))
        except json.JSONDecodeError:  # a library's own words
            print(line, end="", file=sys.stderr)
    events.put(None)


def _end(worker: subprocess.Popen) -> None:
    """The worker and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


# ---------------------------------------------------------------- the table


def table(lines: Sequence[dict]) -> str:
    """Markdown: a table for each stage, a row for each line, a column for each figure."""
    parts = []
    for stage in ("machine", *ORDER):
        rows = [{k: v for k, v in line.items() if k != "stage"} for line in lines if line.get("stage") == stage]
        rows = [row for row in rows if row.get("what") != "end"]
        if not rows:
            continue
        names = list(dict.fromkeys(name for row in rows for name in row))
        head = [name.replace("_", " ") for name in names]
        body = [[_cell(row.get(name)) for name in names] for row in rows]
        drawn = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(names), *body)]
        parts.append("\n".join([f"**{stage}**", "", *drawn]))
    return "\n\n".join(parts)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"`{name}` {count}" for name, count in value.items())
    if isinstance(value, list):
        return f"{len(value)} numbers"
    return str(value).replace("|", "\\|")


def write_table(lines: Sequence[dict], page: Path) -> None:
    """Replace what stands between the page's two markers."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{table(lines)}\n\n{END}{after}", "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="the check ends by then")
    parser.add_argument("--out", type=Path, required=True, help="folder of check.jsonl")
    parser.add_argument("--stages", nargs="+", choices=ORDER, default=ORDER, help="only these, in this order")
    parser.add_argument("--weights", type=Path, help="DINOv2 ViT-S/14, for explore")
    parser.add_argument("--photographs", type=Path, help="folder of photographs, for loader and explore")
    parser.add_argument("--table", action="store_true", help="write a finished check into docs/performance.md")
    given = parser.parse_args(arguments)
    out = given.out.resolve()
    if given.table:
        lines = [json.loads(line) for line in (out / "check.jsonl").read_text().splitlines()]
        write_table(lines, PAGE)
        return
    options = ["--out", str(out)]
    for name in ("weights", "photographs"):
        if (value := getattr(given, name)) is not None:
            options += [f"--{name}", str(value.resolve())]
    Check(out, given.seconds).run(given.stages, options)


if __name__ == "__main__":
    main()
