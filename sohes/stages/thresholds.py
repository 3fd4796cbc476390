"""`sohes thresholds`: the paper's table 3, phase 3 with a fixed and with the dynamic threshold, from one command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sohes.data.dataset import PairDataset
from sohes.data.images import ImageStore
from sohes.data.labels import iter_records
from sohes.evaluate.predict import best_device, segment_images
from sohes.evaluate.recall import Scores, evaluate_masks, paired_bootstrap
from sohes.evaluate.tables import cell
from sohes.files import write_json
from sohes.model.network import Segmenter
from sohes.params import CorrectParams, Params
from sohes.stages.training import input_digests, open_dataset, require
from sohes.structures import ImageRecord
from sohes.tracking import Recorder
from sohes.train.checkpoint import load_checkpoint
from sohes.train.correct import correct
from sohes.train.state import ResumableState, fingerprint
from sohes.train.world import join_world

COLUMNS = ("AR", "AR_S", "AR_M", "AR_L")
TAUGHT = ("teacher_masks_S", "teacher_masks_M", "teacher_masks_L")
PUBLISHED = {  # SOHES, ICLR 2024, table 3, on SA-1B
    "phase 2": (32.6, 8.0, 33.7, 43.0),
    "fixed threshold": (32.5, 6.3, 32.5, 45.3),
    "dynamic threshold": (33.3, 8.6, 35.2, 42.0),
}
DRAWS = 2000


def run(
    params: Params, root: Path, *, fixed: float, parent_crops: int = 0, console: Console | None = None
) -> list[dict[str, object]]:
    """Train phase 3 once with the threshold `fixed` for all and once with the params' dynamic one, and score all.

    With `parent_crops` a further row: the dynamic threshold, and so many crops of the teacher's large masks.
    Writes `metrics/thresholds.json`; models/ stays as it is. Every row after phase 2's has the gain in AR over it with
    a 95 % interval, and the masks that the teacher taught per image, by size, on average over the steps.
    A run that was stopped goes on from its last checkpoint.
    """
    require(root / "data/eval/labels", "annotations of evaluation images", "pull")
    digests = input_digests(root, "instruct")
    dynamic = params.correct.model_copy(update={"parent_crops": 0})
    same = {"theta_score_small": fixed, "theta_score_large": fixed}
    variants = {"fixed threshold": dynamic.model_copy(update=same), "dynamic threshold": dynamic}
    if parent_crops:
        variants["dynamic, parent crops"] = dynamic.model_copy(update={"parent_crops": parent_crops})
    before = _score(load_checkpoint(root / "models/instruct.safetensors")[0], params, root)
    rows = [_row("phase 2", before, before, [])]
    for name, section in variants.items():
        teacher, history = _train(name, section, params, digests, root)
        rows.append(_row(name, _score(teacher, params, root), before, history))
    write_json(root / "metrics/thresholds.json", rows)
    _print(rows, console or Console())
    return rows


def _train(
    name: str, section: CorrectParams, params: Params, digests: dict[str, str], root: Path
) -> tuple[Segmenter, list[dict[str, float]]]:
    network, _ = load_checkpoint(root / "models/instruct.safetensors")
    dataset = open_dataset(PairDataset, params, section, network, root)
    depends = {"digests": digests, "loss": params.loss.model_dump(mode="json"), "seed": params.seed}
    print_of_all = fingerprint({**depends, "correct": section.model_dump(mode="json")})
    with join_world() as world:
        state = ResumableState(
            root / ".sohes/thresholds" / name.replace(" ", "-"), print_of_all, may_write=world.is_first
        )
        state.begin(None)
        result = correct(
            network, dataset, section, params.loss, seed=params.seed, world=world, state=state, recorder=Recorder()
        )
        state.remove()
    return result


def _score(network: Segmenter, params: Params, root: Path) -> Scores:
    store = ImageStore(root / "data/eval")
    images = (store.read(image_id) for image_id in store.image_ids)
    found = segment_images(network.to(best_device()), images, params.evaluate, source="thresholds")
    records = (ImageRecord(i, store.entry(i).file_name, "", m) for i, m in zip(store.image_ids, found, strict=True))
    return evaluate_masks(iter_records(root / "data/eval/labels"), records, max_masks=params.evaluate.max_masks)


def _row(name: str, scores: Scores, before: Scores, history: list[dict[str, float]]) -> dict[str, object]:
    taught = {key: float(np.mean([row[key] for row in history])) if history else None for key in TAUGHT}
    gain, low, high = paired_bootstrap(scores.per_image, before.per_image, seed=0, draws=DRAWS)
    figures = {column: getattr(scores, column) for column in COLUMNS}
    return {"phase": name, **figures, **taught, "gain": gain, "gain_low": low, "gain_high": high}


def _print(rows: list[dict[str, object]], console: Console) -> None:
    table = Table(title="table 3: thresholds of phase 3, percent")
    for heading in ("", "figures", *COLUMNS, "gain", "95 % interval", "taught S", "M", "L"):
        table.add_column(heading, justify="left" if heading in ("", "figures") else "right")
    for row in rows:
        interval = f"{row['gain_low']:+.2f} to {row['gain_high']:+.2f}"
        gain = [] if row is rows[0] else [f"{row['gain']:+.2f}", interval, *(cell(c, row[c]) for c in TAUGHT)]
        table.add_row(str(row["phase"]), "measured here", *(cell(c, row[c]) for c in COLUMNS), *gain)
    table.add_section()
    for name, figures in PUBLISHED.items():
        table.add_row(name, "published, on SA-1B", *(cell("AR", value) for value in figures))
    console.print(table)
