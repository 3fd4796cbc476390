from pathlib import Path

import numpy as np
import pytest
import scipy.io

from sohes.data.benchmarks import pascal_part
from sohes.errors import SohesError
from sohes.masks import areas


def test_objects_are_wholes_and_parts_have_them_as_parents(sample):
    first, second = pascal_part.read_benchmark(sample("pascal_part"))
    assert (first.image_id, first.file_name) == (2008000002, "2008_000002.jpg")
    assert areas(first.masks).tolist() == [24, 6, 2, 24]
    assert first.masks.parents.tolist() == [-1, 0, 0, -1]
    assert second.masks.parents.tolist() == [-1]


def test_an_image_without_objects_has_its_photographs_size(sample):
    root = sample("pascal_part")
    annotation = {"imname": "2008_000003", "objects": np.zeros((0, 0))}
    scipy.io.savemat(root / "Annotations_Part/2008_000003.mat", {"anno": annotation})
    _, second = pascal_part.read_benchmark(root)
    assert (len(second.masks), second.masks.height, second.masks.width) == (0, 6, 8)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0 cut"])
def test_a_damaged_photograph_whose_size_is_needed_is_named(data, sample):
    root = sample("pascal_part")
    annotation = {"imname": "2008_000002", "objects": np.zeros((0, 0))}
    scipy.io.savemat(root / "Annotations_Part/2008_000002.mat", {"anno": annotation})
    (photograph,) = root.rglob("2008_000002.jpg")
    photograph.write_bytes(data)
    with pytest.raises(SohesError, match=r"the photograph 2008_000002\.jpg cannot be read"):
        list(pascal_part.read_benchmark(root))


def test_another_mat_file_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "2008_000001.mat", {"other": 1})
    with pytest.raises(SohesError, match="is not a Pascal-Part annotation"):
        list(pascal_part.read_benchmark(tmp_path))


def test_real_annotations(shared_data: Path):
    records = list(pascal_part.read_benchmark(shared_data / "pascal_part_18"))
    roots = sum(int((record.masks.parents < 0).sum()) for record in records)
    assert (len(records), roots, sum(len(record.masks) for record in records)) == (18, 53, 53 + 398)
