"""The `sohes` command: the table of its commands, and what the shell gets when one of them fails.

Every unit of work is one shell command, so a person, dvc.yaml, a Prefect task and a cluster job run the same thing.
A command's module is imported when the command is called, so `sohes --help` is instant.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from sohes.errors import exit_code_of, print_any_name, sentence_of
from sohes.work.ended import clean_up_when_ended

STAGES = "Stages, in the pipeline's order"
TOOLS = "Around the pipeline"
PLUMBING = "Not in the list of `sohes --help`"  # which fits a screen; the documentation has them

# Name: its panel, its module in sohes.commands, and the first line of its help.
COMMANDS = {
    "pull": (STAGES, "stages", "Fetch the images, or make them."),
    "backbone": (STAGES, "stages", "Pre-train or fetch the vision transformer."),
    "explore": (STAGES, "stages", "Phase 1: pseudo-labels by clustering patch features."),
    "instruct": (STAGES, "stages", "Phase 2: train the segmenter on the pseudo-labels."),
    "correct": (STAGES, "stages", "Phase 3: let a teacher's masks correct the labels."),
    "evaluate": (STAGES, "stages", "Predict and score the held-out images."),
    "report": (STAGES, "stages", "Tables, plots and pictures: reports/index.html."),
    "init": (TOOLS, "init", "Point params.yaml at your own photographs."),
    "params": (TOOLS, "params", "Print every number in force, or explain one."),
    "calibrate": (TOOLS, "calibrate", "Fit explore.theta_merge to the backbone."),
    "table": (TOOLS, "table", "Print the phases' table, and where the pictures are."),
    "segment": (TOOLS, "segment", "Masks, scores and parents for any photograph."),
    "view": (TOOLS, "view", "Look at masks in the browser."),
    "ablate": (TOOLS, "ablate", "Compute the rows of an ablation table into MLflow."),
    "compare": (TOOLS, "compare", "Print and plot an ablation beside the paper's figures."),
    "shards": (PLUMBING, "stages", "Print the unfinished shards of a stage."),
    "code": (PLUMBING, "stages", "Note which code each stage runs."),
    "export": (TOOLS, "export", "Convert labels for other tools, or back."),
    "export-model": (TOOLS, "export_model", "A trained model as one ONNX file."),
    "push": (TOOLS, "push", "Share a model on the Hugging Face hub."),
    "score": (TOOLS, "score", "Score anybody's predictions."),
    "results": (TOOLS, "results", "All phases on benchmarks of photographs, as one page."),
    "downstream": (PLUMBING, "downstream", "Measure the backbone on supervised tasks."),
    "benchmark-info": (PLUMBING, "score", "What a benchmark counts, and where to get it."),
    "sam": (PLUMBING, "sam", "SAM's masks on a benchmark, to score as a baseline."),
    "bench": (TOOLS, "bench", "Measure one part of the method."),
    "view-batch": (PLUMBING, "view_batch", "A picture of what training sees."),
    "doctor": (TOOLS, "doctor", "Check that this machine can run the profile."),
    "label": (TOOLS, "label", "Phase 1 alone: pseudo-labels for a folder."),
    "ablate-photographs": (PLUMBING, "ablate_photographs", "Every step and switch of phase 1 on photographs."),
}


def load(name: str) -> Any:
    """The command, for which its module is imported. It is a function there, or an app where it needs settings."""
    found = getattr(importlib.import_module(f"sohes.commands.{COMMANDS[name][1]}"), name.replace("-", "_"))
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command(name)(function)
    return typer.main.get_command(found)


COMPLETION = {"install_completion": "Complete words in this shell.", "show_completion": "Print what that adds to it."}


class Commands(TyperGroup):
    """Commands that are listed from the table and loaded when they are called, or when the shell completes them."""

    def get_params(self, ctx: Any) -> list[Any]:
        options: list[Any] = super().get_params(ctx)
        for option in options:
            option.help = COMPLETION.get(option.name, option.help)  # typer's own words take three lines
        return options

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load(name) if name in COMMANDS else listed, rest


app = typer.Typer(
    help="Self-supervised open-world hierarchical entity segmentation (SOHES).",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for _name, (_panel, _, _words) in COMMANDS.items():
    app.command(_name, help=_words, rich_help_panel=_panel, hidden=_panel == PLUMBING)(lambda: None)


def _print_version(wanted: bool) -> None:
    if wanted:
        import sohes

        print(f"sohes {sohes.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="SOHES_DEBUG", show_envvar=False, help="Show tracebacks, as SOHES_DEBUG=1."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if debug:
        os.environ["SOHES_DEBUG"] = "1"


def main() -> NoReturn:
    """Run the command; an error that the user can fix ends as one sentence on stderr and a non-zero exit code.

    1: an error; 2: wrong usage; 75: an error that may pass by itself; 129: the terminal was closed; 130: Ctrl-C;
    143: SIGTERM.
    """
    clean_up_when_ended()
    print_any_name()
    try:
        app()
    except SystemExit as end:
        if end.code == 130:
            print("sohes: interrupted", file=sys.stderr)
        raise
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None or os.environ.get("SOHES_DEBUG"):
            raise
        print(f"sohes: {sentence}", file=sys.stderr)
        raise SystemExit(exit_code_of(error)) from None
    raise SystemExit(0)
