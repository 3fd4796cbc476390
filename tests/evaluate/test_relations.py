import tracemalloc

import numpy as np
import pytest

from sohes import masks
from sohes.errors import SohesError
from sohes.evaluate.relations import relations_changed, relations_per_image, with_coverage
from sohes.masks.forest import parents_by_coverage
from sohes.masks.stretch import encode_stretched, packed_at
from sohes.structures import ImageRecord, MaskSet

DRAWN = np.zeros((4, 1, 8), bool)
for _k in range(4):
    DRAWN[_k, 0, : 8 - 2 * _k] = True


def record(*parents: int, image_id: int = 1, drawn: np.ndarray = DRAWN) -> ImageRecord:
    return ImageRecord(image_id, "", "", masks.mask_set(drawn, parents=np.array(parents)))


def test_lost_and_new_relations_are_counted_relative_to_the_baseline():
    chain = record(-1, 0, 1, 2)  # six relations
    assert relations_changed([chain], [chain]) == 0
    assert relations_changed([record(-1, 0, 1, -1)], [chain]) == 50  # three are gone
    assert relations_changed([chain], [record(-1, 0, 1, -1)]) == 100  # three are new
    assert relations_changed([record(-1, -1, -1, -1)], [chain]) == 100  # all are gone


def test_without_a_relation_in_the_baseline_there_is_no_percentage():
    none = record(-1, -1, -1, -1)
    assert relations_changed([none], [none]) is None
    assert relations_changed([record(-1, 0, 1, 2)], [none]) is None


def test_images_are_paired_by_their_ids():
    one, two = record(-1, 0, 1, 2, image_id=1), record(-1, 0, -1, 2, image_id=2)
    assert relations_changed([one, two], [two, one]) == 0
    with pytest.raises(
        SohesError, match=r"the baseline's labels lack 1 of 2 images of the labels \(image 2\): compare"
    ):
        relations_changed([one, two], [one])
    with pytest.raises(SohesError, match="the labels lack 1 of 2 images of the baseline's labels"):
        relations_changed([two], [one, two])


def test_large_masks_are_not_drawn_whole():
    """100 masks of 3000 x 2000 pixels are 600 MB, one byte a pixel."""
    small = np.zeros((100, 30, 20), bool)
    for k in range(100):
        small[k, k % 20 : k % 20 + 5, 2:9] = True
    found = masks.mask_set(small)
    large = MaskSet(
        3000,
        2000,
        encode_stretched(packed_at(found, (30, 20)), (3000, 2000)),
        found.scores,
        found.parents,
        found.sources,
    )
    tracemalloc.start()
    (at_theta,) = with_coverage([ImageRecord(1, "", "", large)], [0.8])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    expected = parents_by_coverage(masks.intersections(small), theta_cover=0.8)
    assert at_theta[0].masks.parents.tolist() == expected.tolist()


def test_different_masks_do_not_compare():
    with pytest.raises(SohesError, match="the masks of image 1 differ"):
        relations_changed([record(-1, 0, 1, 2)], [record(-1, 0, 1, 2, drawn=DRAWN[::-1])])


def test_forests_at_several_coverage_thresholds():
    drawn = np.zeros((3, 1, 20), bool)
    drawn[0, 0, :20] = drawn[1, 0, :10] = True
    drawn[2, 0, 2:12] = True  # eight of its ten pixels are in the second, all in the first
    drawn[2, 0, 11] = False
    (loose,), (strict,) = with_coverage([record(-1, -1, -1, drawn=drawn)], [0.7, 0.9])
    assert strict.masks.parents.tolist() == [-1, 0, 0]
    assert loose.masks.parents.tolist() == [-1, 0, 0]  # more than 0.7 of the second is also in the third
    drawn[2, 0, 2:5] = False
    (loose,), (strict,) = with_coverage([record(-1, -1, -1, drawn=drawn)], [0.7, 0.9])
    assert (loose.masks.parents.tolist(), relations_per_image([loose])) == ([-1, 0, 1], 3)
    assert (strict.masks.parents.tolist(), relations_per_image([strict])) == ([-1, 0, 0], 2)
    assert relations_changed([loose], [strict]) == 50
