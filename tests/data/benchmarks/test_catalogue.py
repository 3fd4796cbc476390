"""What every reader has to keep, on a small official-looking download of its own and on real samples where they are."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sohes.data.benchmarks.catalogue import BENCHMARKS, benchmark, decode_photograph, describe
from sohes.errors import SohesError
from sohes.evaluate.recall import evaluate_masks
from sohes.masks import forest
from sohes.structures import ImageRecord

NAMES = ["coco", "lvis", "ade20k", "entityseg", "sa1b", "partimagenet", "paco", "coco_panoptic", "pascal_part",
         "bsds500"]  # fmt: skip
SAMPLES = [*NAMES, "ade20k_release"]
REAL = [("coco_panoptic", "coco_panoptic_100", 100), ("pascal_part", "pascal_part_18", 18),
        ("bsds500", "bsds500_val", 100)]  # fmt: skip


def name_of(sample: str) -> str:
    return sample.removesuffix("_release")


def shuffled(records: list[ImageRecord]) -> list[ImageRecord]:
    random = np.random.default_rng(0)
    return [
        ImageRecord(r.image_id, r.file_name, r.digest, forest.select(r.masks, random.permutation(len(r.masks))))
        for r in (records[i] for i in random.permutation(len(records)))
    ]


def check_bars(records: list[ImageRecord]) -> None:
    """Ground truth scored as its own prediction is perfect, in any order, and a missing image is named."""
    for found in (records, shuffled(records)):
        scores = evaluate_masks(records, found)
        assert scores.AR == 100
        assert scores.AP == pytest.approx(100)
        assert scores.ancestor_f1 in (None, 100)
    if len(records) > 1:
        with pytest.raises(SohesError, match=rf"lack 1 of {len(records)} images .*{records[0].file_name}"):
            evaluate_masks(records, records[1:])


def test_the_names_are_those_that_the_documentation_promises():
    assert list(BENCHMARKS) == NAMES
    with pytest.raises(SohesError, match="no benchmark is called imagenet: there are coco, lvis"):
        benchmark("imagenet")


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_reader_keeps_the_bars_on_its_sample(kind, sample):
    reader, root = BENCHMARKS[name_of(kind)], sample(kind)
    records = list(reader.read_benchmark(root))
    assert len(records) == 2
    check_bars(records)
    for record in records:
        assert len(record.masks) > 0
        with Image.open(io.BytesIO(reader.read_image(root, record.file_name))) as photograph:
            assert photograph.size == (record.masks.width, record.masks.height)
    with pytest.raises(SohesError, match=r"no photograph nobody_7\.jpg"):
        reader.read_image(root, "nobody_7.jpg")


@pytest.mark.parametrize(("name", "folder", "images"), REAL)
def test_every_reader_keeps_the_bars_on_real_data(name, folder, images, shared_data: Path):
    records = list(BENCHMARKS[name].read_benchmark(shared_data / folder))
    assert len(records) == images
    check_bars(records)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_has_the_frame_of_its_masks(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = io.BytesIO()
    Image.new("RGB", (30, 20)).save(data, "JPEG", exif=exif)
    read = partial(decode_photograph, data.getvalue())
    assert read().shape[:2] == read((20, 30)).shape[:2] == read((9, 9)).shape[:2] == (20, 30)
    assert read((30, 20)).shape[:2] == ((30, 20) if orientation >= 5 else (20, 30))


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_is_one_sentence_that_says_where_to_look(name, tmp_path):
    with pytest.raises(SohesError, match=f"does not hold {name}: .*sohes benchmark-info {name}"):
        list(BENCHMARKS[name].read_benchmark(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_the_description_states_protocol_and_layout(name):
    text = describe(name)
    assert text.startswith(f"{name}\n")
    assert "Protocol" in text
    assert "DIR" in text
    assert max(map(len, text.splitlines())) <= 120
