from pathlib import Path

import pytest
import scipy.io

from sohes.data.benchmarks import bsds500
from sohes.errors import SohesError
from sohes.masks import areas


def test_an_entity_that_two_people_drew_counts_once_in_the_first_ones_outline(sample):
    second, first = bsds500.read_benchmark(sample("bsds500"))
    assert (first.image_id, second.image_id) == (101085, 3096)
    # coarse: background 24, thing 24.  fine: the same background, the thing without its part (IoU 18/24), the part.
    assert areas(first.masks).tolist() == [24, 24, 6]
    assert areas(second.masks).tolist() == [24, 24]
    assert first.masks.parents.tolist() == [-1] * 3


def test_another_mat_file_is_refused(sample):
    root = sample("bsds500")
    scipy.io.savemat(root / "BSR/BSDS500/data/groundTruth/val/5.mat", {"other": 1})
    with pytest.raises(SohesError, match=r"5\.mat is not a ground truth of BSDS500"):
        list(bsds500.read_benchmark(root))


def test_real_annotations_hold_regions_of_every_granularity(shared_data: Path):
    record = next(bsds500.read_benchmark(shared_data / "bsds500_val"))
    sizes = areas(record.masks)
    assert sizes.max() > 100 * sizes.min() > 0
