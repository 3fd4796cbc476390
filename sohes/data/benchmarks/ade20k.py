"""ADE20K's validation set, 2,000 images, as class-agnostic ground truth: the challenge's instances or the full release.

Protocol. The folder decides which of two it is:

- `ADEChallengeData2016` (the one to compare with the paper's table 4, which does not say what it is on; UnSAM's
  published code, which repeats its rows, names this one): the instances of the 100 thing categories of the 2016
  challenge. In the PNGs red is the category and green the instance, 0 where there is none; every pair is one entity.
  Stuff is not annotated there. One level.
- `ADE20K_2021_17_01` (ours, for the hierarchy): every object, things and stuff, with its parts and their parts, and
  the parent that the JSON names. An instance's PNG has 255 where the object is seen and 128 where another hides it:
  what is seen is the mask.

Masks are in stored pixels. Image ids are the number in the name: ADE_val_00000012 is 12.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sohes.data.benchmarks import coco, layout
from sohes.errors import SohesError
from sohes.masks import encode, gate
from sohes.structures import ImageRecord

NAME = "ade20k"
INFO = """Either the 2016 challenge, from the Scene Parsing Challenge's page (ADEChallengeData2016.zip and
annotations_instance.tar); DIR is the folder ADEChallengeData2016 or the one above it:
  annotations_instance/validation/ADE_val_00000001.png ...
  images/validation/ADE_val_00000001.jpg ...          (only to predict; scoring reads no photograph)
or the full 2021 release, after registration with ADE20K; DIR is the folder ADE20K_2021_17_01 or the one above it:
  images/ADE/validation/*/*/ADE_val_00000001.json, its .jpg, and the folder ADE_val_00000001/ of instance PNGs"""
_CHALLENGE, _RELEASE = "annotations_instance/validation", "images/ADE/validation"
_FOLDERS = {_CHALLENGE: "ADEChallengeData2016", _RELEASE: "ADE20K_2021_17_01"}
_SEEN = 255


def read_benchmark(root: Path) -> Iterator[ImageRecord]:
    """The ground truth in the order of the images' numbers. SohesError if DIR holds neither set, or both."""
    kind, folder = _which(root)
    files = layout.files_below(folder, "*.png" if kind == _CHALLENGE else "*.json")
    return map(_challenge_record if kind == _CHALLENGE else _release_record, files)


def read_image(root: Path, file_name: str) -> bytes:
    """The encoded photograph, as stored."""
    kind, folder = _which(root)
    if kind == _CHALLENGE:
        return layout.read_file(folder.parents[1], "images/validation", name=file_name)
    return layout.read_file(folder, name=file_name)  # below the folder of its scene


def is_challenge(root: Path) -> bool:
    """Whether the folder holds the set that published figures are on."""
    return _which(root)[0] == _CHALLENGE


def _which(root: Path) -> tuple[str, Path]:
    found = [
        (kind, place)
        for kind, name in _FOLDERS.items()
        for place in (Path(root) / kind, Path(root) / name / kind)
        if place.is_dir()
    ]
    if len(found) > 1:
        raise SohesError(f"{root} holds both kinds of ADE20K: name {' or '.join(_FOLDERS.values())} in it as --root")
    if not found:
        layout.find(root, *_FOLDERS, name=NAME)
    return found[0]


def _challenge_record(path: Path) -> ImageRecord:
    values_HWC = layout.read_png(path)
    if values_HWC.ndim != 3 or values_HWC.shape[2] < 3:
        raise SohesError(f"{path} is no instance PNG of the 2016 challenge: it needs red, green and blue")
    codes_HW = np.where(values_HWC[..., 1] > 0, values_HWC[..., 0].astype(np.int64) * 256 + values_HWC[..., 1], 0)
    codes = np.unique(codes_HW[codes_HW > 0])
    rles = [rle for code in codes for rle in encode((codes_HW == code)[None])]  # all at once would take gigabytes
    return coco.record(layout.image(path.with_suffix(".jpg").name, codes_HW.shape), rles, NAME)


def _release_record(path: Path) -> ImageRecord:
    objects, image = _annotation(path)
    index = {number: i for i, (number, _, _) in enumerate(objects)}
    rles: list[bytes] = []
    parents = []
    for _, name, above in objects:
        mask_path = path.parent / name
        try:
            mask_HW = layout.read_png(mask_path, (image["height"], image["width"])) == _SEEN
        except FileNotFoundError:
            raise SohesError(f"{path} names the instance {name}, which is not there") from None
        if mask_HW.ndim != 2:
            raise SohesError(f"{mask_path} is no instance of ADE20K 2021: it needs one channel")
        rles += encode(mask_HW[None])
        parents.append(-1 if above is None else index.get(above, -1))
    return coco.record(image, rles, NAME, parents=parents)


def _annotation(path: Path) -> tuple[list[tuple[int | None, str, int | None]], dict[str, Any]]:
    """The objects of a JSON file, each with its id, its PNG and the id of what it is part of, and their image."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:  # some place names of the release are in Latin-1
        text = data.decode("latin-1")
    try:
        annotation = json.loads(text)["annotation"]
        height, width = annotation["imsize"][:2]
        objects = [
            (gate.whole(entry["id"]), str(entry["instance_mask"]), gate.whole(entry["parts"]["ispartof"]))
            for entry in annotation["object"]  # `ispartof` is an empty list for a whole
        ]
        return objects, layout.image(str(annotation["filename"]), gate.checked_size(height, width))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise SohesError(f"{path} is not an annotation of ADE20K 2021: {error}") from None
