"""`sohes downstream`: the backbone before and after SOHES's training in two supervised tasks (paper 4.4, figure 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sohes import tracking
from sohes.commands.options import HERE, ParamsFile
from sohes.data.benchmarks.places import files_of, name_and_folder
from sohes.evaluate.published import PAPER_DOWNSTREAM, SOHES_PAPER
from sohes.evaluate.tables import markdown
from sohes.params import load_params
from sohes.project import Project
from sohes.work.files import write_json
from sohes.work.origin import Origin, code_of

if TYPE_CHECKING:  # it imports torch
    from sohes.downstream.run import Outcome


def downstream(
    semantic: Annotated[str | None, typer.Option(help="NAME=DIR: ade20k or coco_panoptic.")] = None,
    detection: Annotated[str | None, typer.Option(help="NAME=DIR: coco or coco_panoptic.")] = None,
    params: ParamsFile = HERE.params,
) -> str:
    """Measure the backbone on supervised tasks.

    Before and after training: mean IoU and AP on the frozen ViT.

    Example: sohes downstream --semantic ade20k=~/ADEChallengeData2016 --detection coco=~/coco

    Without data: both tasks on the embedded scenes. After a kill, the same command resumes. Writes
    metrics/downstream.json.
    """
    from sohes.downstream.run import SCENES, find_backbones, measure, open_tasks
    from sohes.train.world import join_world

    values, root = load_params(params), Path.cwd()
    backbones = find_backbones(values, root)
    tasks = open_tasks(values, semantic=semantic, detection=detection)
    folders = [name_and_folder(task.text)[1] for task in tasks if task.text != SCENES]
    origin = Origin(
        "downstream",
        values,
        params,
        sections=("pull", "model", "downstream"),
        load=load_params,
        code=code_of("sohes.downstream.run"),
        inputs=[*backbones.values(), *chain.from_iterable(map(files_of, folders))],
    )
    with join_world() as world, tracking.stage_run("downstream", values, root) as recorder:
        outcomes = measure(tasks, backbones, values, root=root, world=world, recorder=recorder)
        if world.is_first:
            origin.check()
            metrics = Project(root).metrics("downstream")
            write_json(metrics, [asdict(outcome) for outcome in outcomes])
            recorder.artifact(metrics)
    print(shown := table(outcomes))
    return shown


def table(outcomes: Sequence[Outcome]) -> str:
    """Both backbones of each task in percent, and the paper's figures where it has the same task."""
    from sohes.downstream.run import FIGURES

    def line(task: str, source: str, before: float, after: float) -> list[str]:
        return [task, source, FIGURES[task], f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"]

    body = []
    for one in outcomes:
        body.append(line(one.task, f"{one.data}, measured here", one.before, one.after))
        paper = PAPER_DOWNSTREAM.get((one.task, one.data))
        if paper is not None:
            body.append(line(one.task, f"{one.data}, published: {SOHES_PAPER}, figure 6", *paper))
    return markdown(["task", "data", "figure", "pre-trained backbone", "after SOHES", "gain"], body)
