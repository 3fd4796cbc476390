import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sohes import masks
from sohes.masks.forest import forest_ancestors
from sohes.model import decode as decoding
from sohes.structures import Logits

RULES = {
    "max_masks": 1000,
    "mask_threshold": 0.5,
    "nms_iou": 0.9,
    "votes": False,
    "ancestor_threshold": 0.5,
    "coverage": False,
    "theta_cover": 0.9,
    "source": "instruct",
}


def decode(*logits, **rules):
    """Class, mask and ancestor logits as tensors."""
    given = (part if part is None else part.float().numpy() for part in logits)
    return decoding.decode(Logits(*given), **rules)


def drawn(*pictures):
    """Logits of 6 for `#`, -6 for `.`, one map a picture."""
    maps = [[[6.0 if c == "#" else -6.0 for c in line] for line in picture.split()] for picture in pictures]
    return torch.tensor(maps)


def entities(*probabilities):
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p.logit(), torch.zeros_like(p)], -1)


def smooth_logits(count, side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 1, 5, 5, generator=generator)
    return F.interpolate(coarse, size=(side, side), mode="bicubic")[:, 0] * 4 - 1


LEFT = "##.. ##.. ##.. ##.."
TOP_LEFT = "##.. ##.. .... ...."
RIGHT = "...# ...# ...# ...#"
BOTTOM_RIGHT = ".... .... ...# ...#"
NOTHING = ".... .... .... ...."


def test_scores_order_and_empty_masks():
    found = decode(
        entities(0.5, 0.9, 0.99), drawn(LEFT, RIGHT, NOTHING), None, content_hw=(16, 16), image_hw=(16, 16), **RULES
    )
    sure = torch.tensor(6.0).sigmoid().item()
    np.testing.assert_allclose(found.scores, [0.9 * sure, 0.5 * sure], rtol=1e-6)
    assert found.sources == ("instruct", "instruct")
    assert found.parents.tolist() == [-1, -1]
    right, left = masks.decode(found)
    assert left[:, :8].all()
    assert not left[:, 8:].any()
    assert right[:, 14:].all()


def test_a_duplicate_falls_to_the_better_one():
    found = decode(
        entities(0.6, 0.7, 0.8), drawn(LEFT, LEFT, TOP_LEFT), None, content_hw=(16, 16), image_hw=(8, 8), **RULES
    )
    np.testing.assert_allclose(found.scores, np.array([0.8, 0.7]) * torch.tensor(6.0).sigmoid().item(), rtol=1e-6)


def test_with_votes_a_mask_counts_the_scores_of_its_duplicates():
    ancestors = torch.full((4, 4), -5.0)
    ancestors[1, 3] = 5  # the right half's part of it is none of the left half's
    given = entities(0.5, 0.7, 0.6, 0.65), drawn(LEFT, RIGHT, LEFT, BOTTOM_RIGHT), ancestors
    sizes = {"content_hw": (16, 16), "image_hw": (16, 16)}
    found = decode(*given, **sizes, **RULES | {"votes": True})
    votes = np.array([0.6 + 0.5, 0.7, 0.65]) * torch.tensor(6.0).sigmoid().item()
    np.testing.assert_allclose(found.scores, votes / (1 + votes), rtol=1e-6)
    shown = masks.decode(found)
    assert shown[0, :, :8].all()
    assert shown[1, :, 15].all()
    assert not shown[2, 0].any()
    assert found.parents.tolist() == [-1, -1, 1]
    assert masks.decode(decode(*given, **sizes, **RULES))[0, :, 15].all()  # without votes, the right half comes first
    (best,) = masks.decode(decode(*given, **sizes, **RULES | {"votes": True, "max_masks": 1}))
    np.testing.assert_array_equal(best, shown[0])


def test_where_nothing_is_a_duplicate_a_vote_is_a_masks_own():
    scores, iou = np.array([0.9, 0.5]), np.ones((2, 2))
    found = decoding.counted(iou, scores, np.array([0, 1]), nms_iou=1.0)
    np.testing.assert_allclose(found, [0.9 / 1.9, 0.5 / 1.5])


def test_the_cap_counts_what_is_left_after_duplicates():
    rules = RULES | {"max_masks": 2}
    found = decode(
        entities(0.9, 0.8, 0.7, 0.6),
        drawn(LEFT, LEFT, RIGHT, TOP_LEFT),
        None,
        content_hw=(16, 16),
        image_hw=(16, 16),
        **rules,
    )
    assert len(found) == 2
    assert masks.decode(found)[1, :, 15].all()


def test_ancestors_become_parents_in_the_order_of_the_scores():
    # query 0 is the part, query 1 the whole; the head also claims, wrongly, that the part is above the whole
    ancestors = torch.full((3, 3), -5.0)
    ancestors[1, 0] = ancestors[0, 1] = 5
    found = decode(
        entities(0.9, 0.8, 0.7),
        drawn(TOP_LEFT, LEFT, RIGHT),
        ancestors,
        content_hw=(16, 16),
        image_hw=(16, 16),
        **RULES,
    )
    assert found.parents.tolist() == [1, -1, -1]


def test_an_ancestor_needs_a_probability_above_the_threshold():
    ancestors = torch.full((2, 2), -5.0)
    ancestors[1, 0] = torch.tensor(0.3).logit()

    def parents(threshold):
        rules = RULES | {"ancestor_threshold": threshold}
        drawn_two = drawn(TOP_LEFT, LEFT)
        return decode(
            entities(0.9, 0.8), drawn_two, ancestors, content_hw=(16, 16), image_hw=(16, 16), **rules
        ).parents.tolist()

    assert parents(0.29) == [1, -1]
    assert parents(0.31) == [-1, -1]


def test_with_coverage_the_head_is_helped_and_checked():
    """It claims that the corner is part of the right side, not of the left half, and of what covers half of it."""
    ancestors = torch.full((3, 3), -5.0)
    ancestors[2, 0] = 5
    wide = ".### .### .### .###"
    given = entities(0.9, 0.8, 0.7), drawn(TOP_LEFT, LEFT, RIGHT), ancestors
    half = entities(0.9, 0.8, 0.7), drawn(TOP_LEFT, RIGHT, wide), ancestors
    sizes = {"content_hw": (16, 16), "image_hw": (16, 16)}
    assert decode(*given, **sizes, **RULES).parents.tolist() == [2, -1, -1]
    assert decode(*given, **sizes, **RULES | {"coverage": True}).parents.tolist() == [1, -1, -1]
    assert decode(*half, **sizes, **RULES).parents.tolist() == [2, -1, -1]
    assert decode(*half, **sizes, **RULES | {"coverage": True}).parents.tolist() == [2, 2, -1]


def test_without_an_ancestor_head_the_forest_is_by_coverage():
    found = decode(
        entities(0.9, 0.8, 0.7),
        drawn(TOP_LEFT, LEFT, RIGHT),
        None,
        content_hw=(16, 16),
        image_hw=(32, 32),
        **RULES,
    )
    assert found.parents.tolist() == [1, -1, -1]


def test_nothing_found_is_an_empty_set():
    found = decode(entities(0.9), drawn(NOTHING), torch.zeros(1, 1), content_hw=(16, 12), image_hw=(30, 23), **RULES)
    assert len(found) == 0
    assert (found.height, found.width) == (30, 23)


@pytest.mark.parametrize("image_hw", [(64, 64), (256, 256), (131, 301), (20, 33), (1, 1)])
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_enlarged_as_interpolate_does_and_written_as_pycocotools_writes(image_hw, threshold):
    logits = smooth_logits(12, 32)
    rules = RULES | {"nms_iou": 1.0, "mask_threshold": threshold}
    found = decode(
        entities(*np.linspace(0.9, 0.3, 12)), logits, None, content_hw=(128, 128), image_hw=image_hw, **rules
    )
    level = np.log(threshold / (1 - threshold))
    expected = F.interpolate(logits[:, None], size=image_hw, mode="bilinear")[:, 0].numpy()
    scores = torch.stack([m.sigmoid()[m > level].mean() for m in logits]).numpy() * np.linspace(0.9, 0.3, 12)
    order = [i for i in np.argsort(-scores) if (expected[i] > level).any()]
    wanted = expected[order] > level
    assert len(found) == len(wanted) > 0
    # a pixel within rounding of the threshold may fall on either side
    unsure = np.abs(expected[order] - level) < 1e-4
    ours = masks.decode(found)
    assert not (ours ^ wanted)[~unsure].any()
    assert masks.encode(ours) == found.rles


def test_a_window_keeps_what_touches_the_images_border_and_drops_what_its_own_sides_cut():
    logits = drawn(TOP_LEFT, RIGHT, ".... .##. .##. ....")
    rules = {"content_hw": (16, 16), "image_hw": (40, 50), **RULES}
    found = decode(entities(0.9, 0.8, 0.7), logits, None, window=(0, 0, 16, 16), **rules)
    kept = masks.decode(found)
    assert len(kept) == 2
    assert np.array_equal(kept[0], kept[0] & (np.add.outer(np.arange(40), np.arange(50)) < 18))  # its corner is rounded
    assert kept[0, 0, 0]
    assert masks.bounding_boxes(kept)[1].tolist() == [4, 4, 12, 12]
    assert found.parents.tolist() == [-1, -1]


@pytest.mark.parametrize("window", [(3, 5, 27, 41), (0, 0, 40, 50), (16, 0, 40, 31)])
def test_a_masks_of_a_window_lie_where_the_window_lies(window):
    y0, x0, y1, x1 = window
    logits = smooth_logits(8, 32)
    for edge in (logits[:, 0], logits[:, -1], logits[:, :, 0], logits[:, :, -1]):
        edge.fill_(-6)  # nothing is cut
    classes, rules = entities(*np.linspace(0.9, 0.3, 8)), {"content_hw": (128, 128), **RULES}
    alone = decode(classes, logits, None, image_hw=(y1 - y0, x1 - x0), **rules)
    placed = decode(classes, logits, None, image_hw=(40, 50), window=window, **rules)
    expected = np.zeros((len(alone), 40, 50), bool)
    expected[:, y0:y1, x0:x1] = masks.decode(alone)
    assert len(alone) > 3
    assert placed.rles == masks.encode(expected)
    assert placed.parents.tolist() == alone.parents.tolist()


def test_padding_does_not_reach_into_the_image():
    """The content fills 10 of 16 rows: the third row of cells is cut by the border, the fourth is padding."""
    logits = drawn("#### #### #### ....")
    found = decode(entities(0.9), logits, None, content_hw=(10, 16), image_hw=(20, 32), **RULES)
    assert masks.decode(found).all()


def test_thresholds_at_the_ends_and_half_precision():
    logits, classes = smooth_logits(3, 16).bfloat16(), entities(0.9, 0.8, 0.7).bfloat16()
    size = {"content_hw": (64, 64), "image_hw": (40, 40)}
    everything = decode(classes, logits, None, **size, **(RULES | {"mask_threshold": 0.0, "nms_iou": 1.0}))
    assert masks.areas(everything).tolist() == [1600] * 3
    assert len(decode(classes, logits, None, **size, **(RULES | {"mask_threshold": 1.0}))) == 0


def test_the_forest_holds_for_random_logits():
    generator = torch.Generator().manual_seed(3)
    found = decode(
        torch.randn(40, 2, generator=generator),
        smooth_logits(40, 32, seed=3),
        torch.randn(40, 40, generator=generator),
        content_hw=(128, 96),
        image_hw=(200, 150),
        **RULES,
    )
    areas = masks.areas(found)
    for child, parent in enumerate(found.parents):
        assert parent == -1 or areas[parent] > areas[child]
    forest_ancestors(found.parents)  # raises for a cycle
    assert (np.diff(found.scores) <= 0).all()
