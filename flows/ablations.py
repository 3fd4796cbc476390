"""An ablation table as a Prefect flow: one task a row, each the command that a person would paste.

python -m flows.ablations TABLE [--params FILE] [--launch PROFILE] [--root FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.command import add_options, exit_code
from sohes.ablation import load_table
from sohes.commands import compare
from sohes.errors import SohesError
from sohes.launch import load_profile, run_task


@task(name="row", task_run_name="{table}: {row}", retries=1, retry_delay_seconds=10, cache_policy=NO_CACHE)
def run_row(table: str, row: str, params: Path, root: Path, launch: str | None) -> None:
    """`sohes ablate TABLE --row ROW`, where the launch profile says. A row whose refiner is not there is left out."""
    logger = get_run_logger()
    outcome = run_task(
        [sys.executable, "-m", "sohes", "ablate", table, "--row", row, "--params", str(params)],
        task=f"ablate-{table}",
        root=root,
        profile=load_profile(root / "infra/launch", launch),
        on_line=lambda line: logger.info("%s", line),
    )
    if outcome.exit_code != 0:
        raise SohesError(f"row {row!r} of {table} failed: {outcome.last_lines[-1:] or 'it said nothing'}")


@flow(name="ablation")
def ablation(table: str, params: Path, root: Path, launch: str | None = None) -> None:
    """The baseline first, then the other rows, one after the other: they share what DVC has cached."""
    loaded = load_table(table, root)
    for row in [loaded.baseline, *(name for name in loaded.rows if name != loaded.baseline)]:
        run_row(table, row, params, root, launch)
    text, _ = compare.run(table, root)
    create_markdown_artifact(text, key=table, description=f"{loaded.title} ({loaded.source})")


def main(arguments: list[str] | None = None) -> int:
    """Run the flow; 0 if every row is recorded, 1 after one sentence on stderr, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m flows.ablations", description="Run an ablation under Prefect.")
    parser.add_argument("table", help="a file of params/ablations, without .yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="what the rows start from")
    add_options(parser)
    options = parser.parse_args(arguments)
    root = options.root.resolve()

    def work() -> None:
        # Before a server is started: what is wrong with the folder is known at once.
        load_table(options.table, root)
        load_profile(root / "infra/launch", options.launch)
        ablation(options.table, root / options.params, root, options.launch)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
