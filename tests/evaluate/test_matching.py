"""What a picture shows as found is what recall counts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sohes import masks
from sohes.evaluate.matching import found_masks
from sohes.evaluate.recall import evaluate_masks
from sohes.structures import CROWD, ImageRecord, MaskSet
from tests.drawings import blobs, drawn

TWO_NESTED = drawn("#####. ......", "####.. ......")


def shown(wanted, found, *, max_masks=1000):
    result, hits, of = found_masks(wanted, found, max_masks=max_masks)
    return masks.decode(result), hits, of


def test_a_mask_is_drawn_in_the_place_of_the_true_one_that_it_finds():
    truth = drawn("##.. ##..", "...# ...#", ".... ####")
    found = masks.mask_set(drawn("...# ...#", "##.. #...", "#... ...."), scores=np.array([0.2, 0.9, 0.5]))
    pictures, hits, of = shown(masks.mask_set(truth), found)
    assert (hits, of) == (2, 3)
    assert np.array_equal(pictures, drawn("##.. #...", "...# ...#", ".... ...."))


def test_a_mask_finds_one_true_mask_only():
    pictures, hits, _ = shown(masks.mask_set(TWO_NESTED), masks.mask_set(TWO_NESTED[:1]))
    assert hits == 1
    assert np.array_equal(pictures, [TWO_NESTED[0], np.zeros((2, 6), bool)])


def test_the_match_at_the_highest_iou_is_drawn_and_not_the_most_confident():
    truth = masks.mask_set(TWO_NESTED[:1])
    found = masks.mask_set(drawn("###... ......", "#####. ......"), scores=np.array([0.9, 0.5]))
    assert np.array_equal(shown(truth, found)[0], TWO_NESTED[:1])
    assert np.array_equal(shown(truth, found, max_masks=1)[0], drawn("###... ......"))


@pytest.mark.parametrize("wanted", [0, 2])
def test_nothing_finds_nothing(wanted):
    truth = masks.mask_set(TWO_NESTED[:wanted].reshape(wanted, 2, 6))
    pictures, hits, of = shown(truth, masks.empty_mask_set(2, 6))
    assert (hits, of) == (0, wanted)
    assert not pictures.any()


def noisy(wanted: MaskSet, seed: int) -> MaskSet:
    """Each mask moved a little, once or twice, with random scores."""
    rng = np.random.default_rng(seed)
    moved = [np.roll(mask, rng.integers(-3, 4, 2), (0, 1)) for mask in masks.decode(wanted).repeat(2, axis=0)]
    return masks.mask_set(np.array(moved), scores=rng.random(len(moved)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), max_masks=st.integers(1, 30), crowd=st.booleans())
def test_as_many_are_found_as_recall_counts(seed, max_masks, crowd):
    wanted = masks.mask_set(blobs(12, 40, 50, seed)[1:])
    if crowd:
        wanted = replace(wanted, sources=(*wanted.sources[:-1], CROWD))
    found = noisy(wanted, seed)
    result, hits, of = found_masks(wanted, found, max_masks=max_masks)
    records = [ImageRecord(1, "1.png", "", each) for each in (wanted, found)]
    scores = evaluate_masks(records[:1], records[1:], max_masks=max_masks)
    assert of == len(wanted) - crowd
    assert 100 * hits / of == pytest.approx(scores.recall_per_iou["0.50"])
    assert set(result.rles) - set(found.rles) <= {masks.encode(np.zeros((1, 40, 50), bool))[0]}
    assert result.sources == wanted.sources
