"""Stage `report`: one self-contained HTML file with the table, the plots and the pictures."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
import yaml

from sohes import tracking
from sohes.data.imaging import encode_jpeg
from sohes.errors import SohesError
from sohes.evaluate import examples, pictures, plots, published, tables
from sohes.evaluate.examples import Example
from sohes.evaluate.figures import UNTRAINED, Row, read_details, read_rows
from sohes.explore import label_free
from sohes.model.released import start_of
from sohes.params import Params
from sohes.pipeline import PHASES
from sohes.project import Project, read_json, require
from sohes.tracking.store import without_secrets
from sohes.train.threshold import theta_score
from sohes.work.cost import read_costs
from sohes.work.files import digest_file, write_file
from sohes.work.origin import Check, unchecked


def run(params: Params, root: Path, *, unchanged: Check = unchecked) -> None:
    """Write `reports/index.html` from `metrics/` and `predictions/`, and pictures for the flow's artifacts.

    unchanged: see `Origin`.
    """
    project = Project(root)
    with tracking.stage_run("report", params, root) as recorder:
        rows, details = _read(project)
        chosen = examples.examples(project, details, params.report.pictures)
        max_masks = params.evaluate.max_masks
        costs = {stage: cost for stage, cost in read_costs(root).items() if stage != "report"}  # which is not done yet
        context = _tables(rows, details)
        html = _template().render(
            **context,
            title=f"images: {params.pull.source}, seed {params.seed}",
            images=rows[PHASES[0]]["images"],
            label_free=_label_free(params, root),
            features="handmade colour and texture (not learned)"
            if not params.explore.uses_backbone
            else f"patch tokens of {params.backbone.pretrained}",
            refiner=params.explore.refiner,
            max_masks=max_masks,
            stages=tables.cost_rows(costs),
            plots=_plots(rows, details, project, params),
            photos=[_photo(example, max_masks) for example in chosen],
            picture_note=_picture_note(chosen),
            matched=project.truth.exists(),
            digests=_digests(project),
            params=without_secrets(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False)),
        )
        unchanged()
        write_file(project.report, html)
        for kind, mosaic in _mosaics(chosen, max_masks).items():
            write_file(project.mosaic(kind), mosaic)
        recorder.artifact(project.report)
        seconds = {f"cost/{stage}_seconds": cost["seconds"] for stage, cost in costs.items()}
        # Also the figures: this pipeline may have found those of `evaluate` ready.
        figures = tables.by_phase(rows) | {name: value for name, value in seconds.items() if value is not None}
        recorder.overall(figures, tables.phase_markdown(rows))


def _read(project: Project) -> tuple[dict[str, Row], dict[str, Row]]:
    rows, details = read_rows(project), read_details(project)
    if lacking := [phase for phase in (*PHASES, UNTRAINED) if phase not in details]:
        raise SohesError(
            f"{project.metrics('evaluate_details')} lacks {', '.join(lacking)}: run `sohes evaluate` again"
        )
    return rows, details


def _template() -> jinja2.Template:
    source = resources.files("sohes.evaluate").joinpath("report.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)


def _label_free(params: Params, root: Path) -> str:
    project = Project(root)
    path = require(project.pseudo_labels / "manifest.json", "pseudo-labels", "explore")
    manifest = read_json(path, "run `sohes explore` again", needs=["label_free"])
    return label_free.in_words(
        label_free.of_model(manifest["label_free"], project.model("backbone"), start_of(params.instruct, project.root))
    )


def _tables(rows: dict[str, Row], details: dict[str, Row]) -> dict[str, object]:
    scored = {phase: row["AR"] for phase, row in rows.items() if row["AR"] is not None}
    baseline = details[UNTRAINED].get("AR")
    return {
        "scored": bool(scored),
        "best": max(scored, key=scored.__getitem__) if scored else None,
        "verdict": _verdict(scored),
        "headings": [tables.heading(c) for c in tables.COLUMNS],
        "rows": tables.phase_cells(rows),
        "baseline": None if baseline is None else f"{baseline:.1f}",
        "hierarchy": _hierarchy(rows, details) if scored else None,
        "benchmarks": list(published.BENCHMARKS.values()),
        "published": tables.published_rows(),
        "paper_phases": tables.paper_phase_rows(),
    }


def _verdict(scored: dict[str, float]) -> str:
    if len(scored) < 2:
        return ""
    steps = [f"{phase} {recall:.1f}" for phase, recall in scored.items()]
    rises = all(low < high for low, high in itertools.pairwise(scored.values()))
    return f"AR {'rises' if rises else 'does not rise'} from phase to phase: {', '.join(steps)}."


def _hierarchy(rows: dict[str, Row], details: dict[str, Row]) -> list[list[str]]:
    columns = {
        "ancestor_precision": "precision",
        "ancestor_recall": "recall",
        "ancestor_f1": "F1",
        "AR_whole": "AR wholes",
        "AR_part": "AR parts",
        "AR_subpart": "AR subparts",
    }
    body = [[phase, *(tables.cell("", details[phase].get(c)) for c in columns)] for phase in rows]
    return [["phase", *columns.values()], *body]


def _plots(rows: dict[str, Row], details: dict[str, Row], project: Project, params: Params) -> list[str]:
    """Recall, losses, the number of regions and the teacher's threshold, each an SVG."""
    drawn = []
    if any(row["AR"] is not None for row in rows.values()):
        drawn += [
            plots.recall_by_size(rows),
            plots.recall_by_iou({phase: details[phase]["recall_per_iou"] for phase in rows}),
        ]
    for phase in ("instruct", "correct"):
        history = project.metrics(phase)
        if history.exists():
            drawn.append(plots.loss_curves(read_json(history, f"run `sohes {phase}` again", list), title=phase))
    counted = require(project.metrics("regions"), "metrics", "evaluate")
    regions = read_json(counted, "run `sohes evaluate` again")
    if regions["images"]:
        drawn.append(
            plots.masks_per_threshold(
                regions["thresholds"], regions["regions_per_image"], chosen=params.explore.theta_merge
            )
        )
    return [*drawn, _threshold_plot(params)]


def _threshold_plot(params: Params) -> str:
    numbers = params.correct.model_dump(include={"theta_score_small", "theta_score_large", "gamma"})
    areas = np.geomspace(1e-5, 1, 200).tolist()
    return plots.score_threshold(areas, [float(theta_score(area, **numbers)) for area in areas])


def _picture_note(chosen: Sequence[Example]) -> str:
    if any(example.recall is not None for example in chosen):
        return "The best image, typical ones and the worst, by the recall of phase 3."
    return "The first images: there is no ground truth to rank them by."


def _photo(example: Example, max_masks: int) -> dict:
    """What the template shows of an image. A panel that one switches on and off has its kind as a class."""
    kinds = {
        "": examples.given(example),
        "matched": examples.matched(example, max_masks=max_masks),
        "strongest": examples.strongest(example),
    }
    return {
        "name": example.name,
        "note": "" if example.recall is None else f"{example.rank}: recall of phase 3 is {example.recall:.1f}",
        "panels": [
            {"kind": kind, "caption": panel.caption, "data": base64.b64encode(encode_jpeg(panel.image)).decode()}
            for kind, panels in kinds.items()
            for panel in panels
        ],
    }


def _mosaics(chosen: Sequence[Example], max_masks: int) -> dict[str, bytes]:
    """The best, a typical and the worst image below each other, as JPEG: with what recall counts, and with all masks.

    Only the latter without a ground truth.
    """
    few = [chosen[k] for k in sorted({0, len(chosen) // 2, len(chosen) - 1})]
    drawn = {"strongest": [[*examples.given(example), *examples.strongest(example)] for example in few]}
    if few[0].truth is not None:
        drawn["matched"] = [
            [*examples.given(example), *examples.matched(example, max_masks=max_masks)] for example in few
        ]
    return {kind: encode_jpeg(pictures.mosaic(rows)) for kind, rows in drawn.items()}


def _digests(project: Project) -> str:
    made = [project.images_manifest, project.held_out_manifest]
    made += [project.pseudo_labels / "manifest.json", *map(project.model, ("backbone", *PHASES[1:]))]
    return "\n".join(f"{p.relative_to(project.root)}  {digest_file(p)}" for p in made if p.exists())
