"""`sohes segment`: masks, scores and parents for anybody's photographs, as JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from sohes import masks
from sohes.data.images import UnreadableImage, decode_image
from sohes.errors import SohesError
from sohes.evaluate import pictures
from sohes.files import atomic_path
from sohes.params import Params
from sohes.structures import MaskSet

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def run(params: Params, photos: Sequence[Path], *, model: Path, out: Path, explore: bool, root: Path) -> list[Path]:
    """Segment every photograph and write `<name>.json`, `<name>.overlay.png` and `<name>.levels.png` into `out`.

    explore: phase 1 (no trained model) instead of the network. Returns the JSON files written.
    SohesError if there is nothing to read, no model, or a photograph cannot be decoded.
    """
    files = [file for photo in photos for file in _expand(photo)]
    if not files:
        raise SohesError(f"no photographs in {', '.join(map(str, photos))}: name image files or a folder of them")
    segment = _phase_one(params, root) if explore else _trained(params, model)
    out.mkdir(parents=True, exist_ok=True)
    return [_write(file, _decode(file, params), segment, out) for file in track(files, description="segment")]


def _expand(photo: Path) -> Iterator[Path]:
    if photo.is_dir():
        yield from sorted(p for p in photo.rglob("*") if p.suffix.lower() in SUFFIXES)
    elif photo.exists():
        yield photo
    else:
        raise SohesError(f"no such photograph: {photo}")


def _decode(file: Path, params: Params) -> np.ndarray:
    try:
        return decode_image(file.read_bytes(), max_megapixels=params.pull.max_megapixels, apply_exif=True)
    except UnreadableImage as error:
        raise SohesError(f"cannot read {file}: {error}") from None


def _phase_one(params: Params, root: Path):
    from sohes.explore.label_image import label_image, make_extractor

    extract = make_extractor(params.explore, root / "models/backbone.safetensors")
    return lambda image: label_image(image, extract, params.explore)


def _trained(params: Params, model: Path):
    if not model.exists():
        raise SohesError(
            f"no trained model at {model}: run `make demo`, name one with --model, or use --explore "
            "for phase 1, which needs none"
        )
    from sohes.evaluate.predict import best_device, segment_images
    from sohes.train.checkpoint import load_checkpoint

    network, _ = load_checkpoint(model)
    network.to(best_device())
    return lambda image: next(segment_images(network, [image], params.evaluate, source=model.stem))


def _write(file: Path, image: np.ndarray, segment, out: Path) -> Path:
    found: MaskSet = segment(image)
    drawn = pictures.strongest(found)
    for suffix, picture in (
        ("overlay", pictures.overlay(image, drawn)),
        ("levels", pictures.contact_sheet(image, drawn)),
    ):
        with atomic_path(out / f"{file.stem}.{suffix}.png") as path:
            path.write_bytes(pictures.encode_png(picture))
    target = out / f"{file.stem}.json"
    with atomic_path(target) as path:
        path.write_text(json.dumps(as_json(file.name, found)))
    return target


def as_json(file_name: str, found: MaskSet) -> dict:
    """SA-1B's JSON with `score` and `parent_id` (null for a whole entity) added; ids from 1."""
    areas, boxes = masks.areas(found).tolist(), masks.boxes_xywh(found).tolist()
    annotations = [
        {
            "id": i + 1,
            "segmentation": {"size": [found.height, found.width], "counts": found.rles[i].decode("ascii")},
            "area": areas[i],
            "bbox": boxes[i],
            "score": round(float(found.scores[i]), 6),
            "parent_id": int(found.parents[i]) + 1 if found.parents[i] >= 0 else None,
        }
        for i in range(len(found))
    ]
    image = {"file_name": file_name, "height": found.height, "width": found.width}
    return {"image": image, "annotations": annotations}
