"""Stage `report`: one self-contained HTML file with the table, the plots and the pictures."""

from __future__ import annotations

import base64
import itertools
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
import yaml

from sohes import tracking
from sohes.data.imaging import encode_jpeg
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.errors import SohesError
from sohes.evaluate import pictures, plots, published, tables
from sohes.evaluate.figures import UNTRAINED, Row, read_details, read_rows
from sohes.explore import label_free
from sohes.params import Params
from sohes.pipeline import PHASES
from sohes.project import Project, read_json, require
from sohes.tracking.store import without_secrets
from sohes.train.threshold import theta_score
from sohes.work.cost import read_costs
from sohes.work.files import digest_file, write_file
from sohes.work.origin import Check, unchecked


def run(params: Params, root: Path, *, unchanged: Check = unchecked) -> None:
    """Write `reports/index.html` from `metrics/` and `predictions/`, and a picture for the flow's artifacts.

    unchanged: see `Origin`.
    """
    project = Project(root)
    with tracking.stage_run("report", params, root) as recorder:
        rows, details = _read(project)
        photos, note = _photos(project, details, params.report.pictures)
        costs = {stage: cost for stage, cost in read_costs(root).items() if stage != "report"}  # which is not done yet
        context = _tables(rows, details)
        html = _template().render(
            **context,
            title=f"images: {params.pull.source}, seed {params.seed}",
            images=rows[PHASES[0]]["images"],
            label_free=_label_free(root),
            features="handmade colour and texture (not learned)"
            if not params.explore.uses_backbone
            else f"patch tokens of {params.backbone.pretrained}",
            refiner=params.explore.refiner,
            max_masks=params.evaluate.max_masks,
            stages=tables.cost_rows(costs),
            plots=_plots(rows, details, project, params),
            photos=photos,
            picture_note=note,
            panels=len(photos[0]["panels"]) if photos else 1,
            digests=_digests(project),
            params=without_secrets(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False)),
        )
        unchanged()
        write_file(project.report, html)
        write_file(project.example, base64.b64decode(photos[0]["panels"][-1]["data"]))  # the last phase on the first
        recorder.artifact(project.report)


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


def _label_free(root: Path) -> str:
    project = Project(root)
    path = require(project.pseudo_labels / "manifest.json", "pseudo-labels", "explore")
    manifest = read_json(path, "run `sohes explore` again", needs=["label_free"])
    return label_free.in_words(label_free.of_model(manifest["label_free"], project.model("backbone")))


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


def _photos(project: Project, details: dict, count: int) -> tuple[list[dict], str]:
    """Good, typical and worst images by the last phase's recall; the first ones where nothing is annotated."""
    store = ImageStore(project.held_out)
    truth = LabelStore(project.truth) if project.truth.exists() else None
    phases = {phase: LabelStore(project.predictions(phase)) for phase in PHASES}
    recalls = {int(k): v for k, v in details[PHASES[-1]].get("per_image", {}).items() if v is not None}
    if recalls:
        ranked = sorted(recalls, key=lambda i: (-recalls[i], i))
        places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
        chosen = [ranked[k] for k in places]
        note = "The best image, typical ones and the worst, by the recall of phase 3."
    else:
        chosen = store.image_ids[:count]
        note = "The first images: there is no ground truth to rank them by."
    words = {chosen[0]: "best", chosen[-1]: "worst"} if recalls and len(chosen) > 1 else {}
    return [_photo(i, store, truth, phases, recalls.get(i), words.get(i, "typical")) for i in chosen], note


def _photo(
    image_id: int, store: ImageStore, truth: LabelStore | None, phases: dict, recall: float | None, word: str
) -> dict:
    image = store.read(image_id)
    panels = [("photograph", image)]
    if truth:
        panels.append(("ground truth", pictures.overlay(image, truth.record(image_id).masks)))
    for phase, store_of_phase in phases.items():
        found = store_of_phase.record(image_id).masks
        drawn = pictures.strongest(found)
        words = f"{len(found)} masks" if len(drawn) == len(found) else f"best {len(drawn)} of {len(found)} masks"
        panels.append((f"{phase}: {words}", pictures.overlay(image, drawn)))
    return {
        "name": store.entry(image_id).file_name,
        "note": "" if recall is None else f"{word}: recall of phase 3 is {recall:.1f}",
        "panels": [
            {"caption": caption, "data": base64.b64encode(encode_jpeg(panel)).decode()} for caption, panel in panels
        ],
    }


def _digests(project: Project) -> str:
    made = [folder / "manifest.parquet" for folder in (project.images, project.held_out)]
    made += [project.pseudo_labels / "manifest.json", *map(project.model, ("backbone", *PHASES[1:]))]
    return "\n".join(f"{p.relative_to(project.root)}  {digest_file(p)}" for p in made if p.exists())
