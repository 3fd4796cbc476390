"""An ablation table as a Prefect flow: one task a row, each the command that a person would paste.

python -m flows.ablations TABLE [--params FILE] [--launch PROFILE] [--root FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows.command import add_options, exit_code, failure, may_pass, records_to
from flows.server import require_server, without_tracebacks
from flows.workspace import folder_name
from sohes.commands import compare
from sohes.evaluate.ablation import load_table, table_file
from sohes.launch import Task, load_profile, run_tasks
from sohes.pipeline import STAGES
from sohes.project import Project
from sohes.work.files import digest_file
from sohes.work.identity import identity
from sohes.work.origin import code_of


@task(
    name="row",
    task_run_name="{table}: {row}",
    retries=1,
    retry_delay_seconds=10,
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,
)
def run_row(table: str, row: str, params: Path, root: Path, launch: str | None) -> None:
    """`sohes ablate TABLE --row ROW`, where the launch profile says. A row whose refiner is missing is left out."""
    command = (sys.executable, "-m", "sohes", "ablate", table, "--row", row, "--params", str(params))
    profile = load_profile(Project(root).launch_profiles, launch)
    read = (params, table_file(table, root), *code_of(*(f"sohes.stages.{stage}" for stage in STAGES)))
    inputs = identity([digest_file(file) for file in read if file.exists()])
    (outcome,) = run_tasks(
        [Task("row", command)], kind="whole", group=f"ablate-{table}-{folder_name(row)}", root=root, profile=profile,
        environment=records_to(profile), on_line=partial(get_run_logger().info, "%s"), inputs=inputs,
    )  # fmt: skip
    if outcome.exit_code != 0:
        raise failure(f"row {row!r} of {table}", outcome)


@flow(name="ablation")
def ablation(table: str, params: Path, root: Path, launch: str | None = None) -> None:
    """The baseline first, then the other rows, one after the other: they share what DVC has cached."""
    loaded = load_table(table, root)
    for row in loaded.order():
        run_row(table, row, params, root, launch)
    text, _ = compare.run(table, root)
    create_markdown_artifact(text, key=table, description=f"{loaded.title} ({loaded.source})")


def main(arguments: list[str] | None = None) -> int:
    """Run the flow; 0 if every row is recorded, otherwise as every `sohes` command ends."""
    parser = argparse.ArgumentParser(prog="python -m flows.ablations", description="Run an ablation under Prefect.")
    parser.add_argument("table", help="a file of params/ablations, without .yaml")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="what the rows start from")
    add_options(parser)
    options = parser.parse_args(arguments)
    root = options.root.resolve()

    def work() -> None:
        # Before a server is started: what is wrong with the folder is known at once.
        load_table(options.table, root)
        load_profile(Project(root).launch_profiles, options.launch)
        require_server()
        ablation(options.table, root / options.params, root, options.launch)

    without_tracebacks()
    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
