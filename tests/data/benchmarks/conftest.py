"""A tiny download of every benchmark, in its official schema and folders."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 6, 8
WHOLE = np.zeros((HEIGHT, WIDTH), bool)
WHOLE[1:5, 1:7] = True
PART = np.zeros((HEIGHT, WIDTH), bool)
PART[1:3, 1:4] = True
SUBPART = np.zeros((HEIGHT, WIDTH), bool)
SUBPART[1, 1:3] = True
POLYGON = [[1, 1, 7, 1, 7, 5, 1, 5]]  # WHOLE


def rle(mask_HW: np.ndarray) -> dict:
    packed = coco_mask.encode(np.asfortranarray(mask_HW.astype(np.uint8)))
    return {"size": list(mask_HW.shape), "counts": packed["counts"].decode()}


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, "JPEG")


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def image(number: int, file_name: str | None, **more: object) -> dict:
    named = {} if file_name is None else {"file_name": file_name}
    return {"id": number, "height": HEIGHT, "width": WIDTH, **named, **more}


def annotation(number: int, image_id: int, segmentation: object, **more: object) -> dict:
    return {"id": number, "image_id": image_id, "category_id": number, "segmentation": segmentation, **more}


def coco(root: Path) -> None:
    annotations = [annotation(1, 139, POLYGON, iscrowd=0), annotation(2, 285, rle(PART), iscrowd=0)]
    images = [image(139, "000000000139.jpg"), image(285, "000000000285.jpg")]
    write_json(root / "annotations/instances_val2017.json", {"images": images, "annotations": annotations})
    for entry in images:
        picture(root / "val2017" / entry["file_name"])


def lvis(root: Path) -> None:
    images = [
        image(139, None, coco_url="http://images.cocodataset.org/val2017/000000000139.jpg", not_exhaustive=[1]),
        image(9, None, coco_url="http://images.cocodataset.org/train2017/000000000009.jpg"),
    ]
    annotations = [annotation(1, 139, POLYGON), annotation(2, 9, POLYGON)]
    write_json(root / "annotations/lvis_v1_val.json", {"images": images, "annotations": annotations})
    picture(root / "val2017/000000000139.jpg")
    picture(root / "train2017/000000000009.jpg")


def ade20k(root: Path) -> None:
    folder = root / "ADEChallengeData2016/annotations_instance/validation"
    folder.mkdir(parents=True)
    for number in (1, 2):
        values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        values[WHOLE] = (7, 1, 0)
        values[SUBPART] = (7, 2, 0)  # another instance of the category
        values[5] = (9, 0, 0)  # a category without an instance: nothing
        Image.fromarray(values).save(folder / f"ADE_val_0000000{number}.png")
        picture(root / f"ADEChallengeData2016/images/validation/ADE_val_0000000{number}.jpg")


def ade20k_release(root: Path) -> None:
    folder = root / "ADE20K_2021_17_01/images/ADE/validation/urban/street"
    for number in (1, 2):
        name = f"ADE_val_0000000{number}"
        objects = [
            {"id": 0, "parts": {"hasparts": 4, "ispartof": [], "part_level": 0}, "instance_mask": f"{name}/i_000.png"},
            {"id": 5, "parts": {"hasparts": [], "ispartof": 4, "part_level": 2}, "instance_mask": f"{name}/i_005.png"},
            {"id": 4, "parts": {"hasparts": 5, "ispartof": 0, "part_level": 1}, "instance_mask": f"{name}/i_004.png"},
            {"id": 6, "parts": {"hasparts": [], "ispartof": 5, "part_level": 3}, "instance_mask": f"{name}/i_006.png"},
        ]
        content = {"filename": f"{name}.jpg", "imsize": [HEIGHT, WIDTH, 3], "object": objects, "source": "Caf\xe9"}
        (folder / name).mkdir(parents=True)
        (folder / f"{name}.json").write_bytes(json.dumps({"annotation": content}, ensure_ascii=False).encode("latin-1"))
        for entry, mask in zip(objects, (WHOLE, SUBPART, PART, np.zeros_like(PART)), strict=True):
            values = np.where(mask, 255, 0).astype(np.uint8)
            values[5] = 128  # hidden by something else
            Image.fromarray(values).save(folder / entry["instance_mask"])
        picture(folder / f"{name}.jpg")


def entityseg(root: Path) -> None:
    images = [image(1, "entity_01_11580/a.jpg"), image(2, "entity_02_11598/a.jpg")]
    annotations = [annotation(1, 1, rle(WHOLE)), annotation(2, 1, rle(~WHOLE)), annotation(3, 2, rle(PART))]
    write_json(root / "entityseg_val_lr.json", {"images": images, "annotations": annotations})
    for entry in images:
        picture(root / "images_lr" / entry["file_name"])


def sa1b(root: Path) -> None:
    for name, data in sa1b_files().items():
        (root / name).write_bytes(data)


def sa1b_files() -> dict[str, bytes]:
    files = {}
    for number in (10, 9):
        annotations = [
            {"id": 500 + i, "segmentation": rle(mask), "predicted_iou": 0.9, "crop_box": [0, 0, WIDTH, HEIGHT]}
            for i, mask in enumerate((WHOLE, PART))
        ]
        name = f"sa_{number}.jpg"
        entry = {"image_id": number, "width": WIDTH, "height": HEIGHT, "file_name": name}
        files[f"sa_{number}.json"] = json.dumps({"image": entry, "annotations": annotations}).encode()
        buffer = io.BytesIO()
        Image.new("RGB", (WIDTH, HEIGHT)).save(buffer, "JPEG")
        files[name] = buffer.getvalue()
    return files


def sa1b_tar(path: Path, *, gzip: bool) -> None:
    with tarfile.open(path, "w:gz" if gzip else "w") as tar:
        for name, data in sa1b_files().items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def partimagenet(root: Path) -> None:
    images = [image(0, "n01440764_1.JPEG"), image(1, "n01440764_2.JPEG")]
    annotations = [annotation(0, 0, POLYGON, iscrowd=0), annotation(1, 1, rle(PART), iscrowd=0)]
    write_json(root / "annotations/val/val.json", {"images": images, "annotations": annotations})
    for entry in images:
        picture(root / "images/val" / entry["file_name"])


def paco(root: Path) -> None:
    images = [image(9, "train2017/000000000009.jpg"), image(25, "train2017/000000000025.jpg")]
    annotations = [
        annotation(1, 9, rle(WHOLE), obj_ann_id=1),
        annotation(2, 9, rle(PART), obj_ann_id=1),
        annotation(3, 25, rle(WHOLE), obj_ann_id=3),
        annotation(4, 25, rle(SUBPART), obj_ann_id=3),
    ]
    write_json(root / "annotations/paco_lvis_v1_val.json", {"images": images, "annotations": annotations})
    for entry in images:
        picture(root / entry["file_name"])


def coco_panoptic(root: Path) -> None:
    images = [image(139, "000000000139.jpg"), image(285, "000000000285.jpg")]
    annotations = []
    (root / "annotations/panoptic_val2017").mkdir(parents=True)
    for entry in images:
        name = entry["file_name"].replace("jpg", "png")
        colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        colours[WHOLE] = (1, 2, 0)
        Image.fromarray(colours).save(root / "annotations/panoptic_val2017" / name)
        segments = [{"id": 513, "iscrowd": 0}]
        annotations.append({"image_id": entry["id"], "file_name": name, "segments_info": segments})
        picture(root / "val2017" / entry["file_name"])
    write_json(root / "annotations/panoptic_val2017.json", {"images": images, "annotations": annotations})


def pascal_part(root: Path) -> None:
    folder = root / "Annotations_Part"
    folder.mkdir()
    for name in ("2008_000002", "2008_000003"):
        parts = [
            {"part_name": "head", "mask": PART.astype(np.uint8)},
            {"part_name": "lear", "mask": SUBPART.astype(np.uint8)},
        ]
        dog = {"class": "dog", "class_ind": 12, "mask": WHOLE.astype(np.uint8), "parts": parts}
        sofa = {"class": "sofa", "class_ind": 18, "mask": (~WHOLE).astype(np.uint8), "parts": np.zeros((0, 0))}
        objects = [dog, sofa] if name.endswith("2") else [sofa]  # one struct alone is no array
        scipy.io.savemat(folder / f"{name}.mat", {"anno": {"imname": name, "objects": objects}})
        picture(root / "VOCdevkit/VOC2010/JPEGImages" / f"{name}.jpg")


def bsds500(root: Path) -> None:
    data = root / "BSR/BSDS500/data"
    (data / "groundTruth/val").mkdir(parents=True)
    coarse = np.where(WHOLE, 2, 1).astype(np.uint16)
    fine = np.where(PART, 3, coarse).astype(np.uint16)  # WHOLE without PART is still mostly WHOLE
    for name, people in (("101085", [coarse, fine]), ("3096", [coarse])):
        cells = np.empty((1, len(people)), object)
        for i, one in enumerate(people):
            cells[0, i] = {"Segmentation": one, "Boundaries": np.zeros_like(one, np.uint8)}
        scipy.io.savemat(data / f"groundTruth/val/{name}.mat", {"groundTruth": cells})
        picture(data / f"images/val/{name}.jpg")


WRITERS: dict[str, Callable[[Path], None]] = {
    writer.__name__: writer
    for writer in (coco, lvis, ade20k, ade20k_release, entityseg, sa1b, partimagenet, paco, coco_panoptic, pascal_part,
                   bsds500)
}  # fmt: skip


@pytest.fixture
def sample(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the sample of that name, two images, and returns its folder."""

    def write(name: str) -> Path:
        root = tmp_path / name
        root.mkdir()
        WRITERS[name](root)
        return root

    return write


@pytest.fixture
def write_pack() -> Callable[..., None]:
    """Writes SA-1B's sample as a tar: `write_pack(path, gzip=True)`."""
    return sa1b_tar
