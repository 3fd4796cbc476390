import numpy as np
import pytest
import torch

from sohes.train import lesson as of_teacher
from sohes.train.augment import View
from sohes.train.lesson import _shared_in_parts, areas_of, shared_pixels, teach


def logits_of(*boxes, size=8, strength=4.0):
    """Mask logits that are +strength inside a box of cells and -strength outside."""
    logits = torch.full((len(boxes), size, size), -strength)
    for one, (y0, x0, y1, x1) in zip(logits, boxes, strict=True):
        one[y0:y1, x0:x1] = strength
    return logits


def class_logits(*probabilities):
    p = torch.tensor(probabilities)
    return torch.stack([p.log(), (1 - p).log()], -1)


def weak_view(height=32, width=32, flip=False):
    resized = (height * 32 // max(height, width), width * 32 // max(height, width))
    return View(height, width, resized, (0, 0), flip, (32, 32))


def lesson_of(params, logits, scores, view=None, shown=(0, 0, 32, 32)):
    views, rngs = [view or weak_view()], [np.random.default_rng(0)]
    return teach(class_logits(*scores)[None], logits[None], views, [shown], params, rngs=rngs)[0]


def test_the_teacher_keeps_sure_masks_without_duplicates_and_finds_their_hierarchy(tiny):
    boxes = [(0, 0, 6, 6), (0, 0, 6, 6), (1, 1, 3, 3), (5, 5, 8, 8), (7, 0, 8, 1)]
    lesson = lesson_of(tiny.correct, logits_of(*boxes), [0.8, 0.95, 0.9, 0.4, 0.6])
    # the first is a duplicate of the second; the fourth is not sure enough; the last is small but fails 0.7 (1/64)
    areas = lesson.masks_KSS.sum((1, 2)) / 32**2
    assert len(areas) == 2
    assert lesson.area_fractions_K == pytest.approx([36 / 64, 4 / 64])
    assert areas[0] == pytest.approx(36 / 64, abs=0.05)
    assert lesson.parents_K.tolist() == [-1, 0]


def test_a_lesson_begins_with_what_the_teacher_is_surest_of(tiny):
    boxes = [(0, 0, 3, 3), (0, 4, 4, 8), (5, 0, 8, 4), (5, 5, 8, 8)]
    lesson = lesson_of(tiny.correct, logits_of(*boxes, strength=8), [0.8, 0.95, 0.85, 0.9])
    assert (lesson.area_fractions_K * 64).tolist() == [16, 9, 12, 9]


def test_small_masks_pass_with_a_lower_score_and_a_fixed_threshold_drops_them(tiny):
    logits = logits_of((0, 0, 40, 40), (50, 50, 52, 52), size=64, strength=8)
    scores = [0.75, 0.6]  # 4 of 4,096 cells: wanted is 0.37
    assert len(lesson_of(tiny.correct, logits, scores).parents_K) == 2
    fixed = tiny.correct.model_copy(update={"theta_score_small": 0.7})
    assert lesson_of(fixed, logits, scores).area_fractions_K == pytest.approx([1600 / 4096])


def test_a_falling_threshold_drops_the_small_mask_that_scores_higher(tiny):
    logits = logits_of((0, 0, 40, 40), (50, 50, 52, 52), size=64, strength=8)
    falling = tiny.correct.model_copy(update={"theta_score_small": 0.75, "theta_score_large": 0.52, "gamma": 40})
    assert lesson_of(falling, logits, [0.6, 0.7]).area_fractions_K == pytest.approx([1600 / 4096])


def test_nothing_is_found_in_the_padding(tiny):
    lesson = lesson_of(tiny.correct, logits_of((2, 0, 8, 8), (4, 0, 8, 8)), [0.9, 0.9], weak_view(16, 32))
    assert len(lesson.parents_K) == 1  # the second lies in the padding altogether
    assert lesson.area_fractions_K == pytest.approx([0.5])
    assert not lesson.masks_KSS[:, 16:].any()
    assert lesson.masks_KSS[:, 9:16].all()


def test_a_cell_that_shows_a_part_of_the_photograph_counts(tiny):
    """As in predictions: 17 rows of pixels show in four rows of cells, and a quarter of a fifth."""
    lesson = lesson_of(tiny.correct, logits_of((4, 0, 5, 8)), [0.9], weak_view(17, 32))
    assert lesson.area_fractions_K == pytest.approx([8 / 40])
    assert lesson.masks_KSS[:, 16].all()
    assert not lesson.masks_KSS[:, 17:].any()


def test_a_teacher_that_is_sure_of_nothing(tiny):
    lesson = lesson_of(tiny.correct, logits_of((0, 0, 4, 4)), [0.1])
    assert lesson.masks_KSS.shape == (0, 32, 32)
    assert lesson.parents_K.shape == (0,)


def test_at_most_max_targets_masks_are_taught(tiny):
    boxes = [(y, x, y + 1, x + 1) for y in range(0, 8, 2) for x in range(0, 8, 2)]
    lesson = lesson_of(tiny.correct, logits_of(*boxes, strength=8), [0.95] * 16)
    assert len(lesson.parents_K) == tiny.correct.max_targets == 10


def specks(count, size=16):
    """Logits of single cells, so sure that the cells around them leave nothing in growing."""
    logits = logits_of(*[(2 * k + 1, 2, 2 * k + 2, 3) for k in range(count)], size=size, strength=8)
    return torch.where(logits > 0, 1.0, logits)


def test_a_mask_that_grows_to_nothing_is_not_taught_and_takes_no_place(tiny):
    boxes = [(y, x, y + 3, x + 3) for y in (0, 4, 8, 12) for x in (5, 9)]
    logits = torch.cat([specks(7), logits_of(*boxes, size=16, strength=8)])
    assert (logits > 0).flatten(1).any(1).all()
    section = tiny.correct.model_copy(update={"max_targets": 8, "theta_score_small": 0.1, "theta_score_large": 0.1})
    view = View(64, 64, (64, 64), (0, 0), False, (64, 64))
    lesson = lesson_of(section, logits, [0.95] * 15, view, (0, 0, 64, 64))
    assert lesson.area_fractions_K == pytest.approx([9 / 256] * 8)
    assert lesson.masks_KSS.flatten(1).any(1).all()


def test_a_mask_whose_cell_shows_the_photograph_but_whose_pixels_do_not_is_not_taught(tiny):
    """17 rows of pixels show in five rows of cells; all that the last cell gives lies below them."""
    logits = torch.full((1, 8, 8), -8.0)
    logits[0, 4, 2:6], logits[0, 5, 2:6] = 0.5, 8.0
    below = logits.clone()
    below[0, 3] = -40.0
    view = weak_view(17, 32)
    both = torch.cat([logits_of((0, 0, 2, 4)), below])
    lesson = lesson_of(tiny.correct, both, [0.95, 0.95], view)
    assert lesson.masks_KSS.flatten(1).any(1).tolist() == [True]


def test_only_what_the_student_sees_takes_a_place_among_the_targets(tiny):
    """16 masks of a cell in 8 x 8, of which the strong view shows the upper left quarter."""
    boxes = [(y, x, y + 1, x + 1) for y in range(0, 8, 2) for x in range(0, 8, 2)]
    lesson = lesson_of(tiny.correct, logits_of(*boxes, strength=8), [0.95] * 16, shown=(0, 0, 16, 16))
    assert len(lesson.parents_K) == 4
    assert not lesson.masks_KSS[:, 16:].any()
    assert not lesson.masks_KSS[:, :, 16:].any()


@pytest.mark.parametrize(
    ("shown", "count"),
    [
        ((0, 0, 32, 4), 0),
        ((0, 0, 32, 5), 1),  # a cell of which the student sees a column
        ((0, 27, 32, 32), 1),
        ((0, 28, 32, 32), 0),
        ((0, 4, 16, 28), 1),
        ((0, 4, 7, 28), 0),
        ((0, 0, 0, 0), 0),
    ],
)
def test_a_mask_that_reaches_into_the_view_is_seen(tiny, shown, count):
    """A mask in a view that is wider than high; a cell is four pixels."""
    lesson = lesson_of(tiny.correct, logits_of((2, 1, 4, 7)), [0.95], weak_view(16, 32), shown)
    assert len(lesson.parents_K) == count


def test_autocast_does_not_round_the_cells_that_masks_share(tiny):
    """Their IoU is 0.905, so one is a duplicate; of counts with three digits it would be 0.899."""
    boxes = [(0, 0, 40, 63), (0, 0, 40, 57)]
    with torch.autocast("cpu", torch.bfloat16):
        lesson = lesson_of(tiny.correct, logits_of(*boxes, size=64, strength=8), [0.9, 0.95])
    assert len(lesson.parents_K) == 1


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("count", [0, 1, 70])
def test_areas_of_masks_and_of_a_window_of_them(count):
    masks = torch.rand(count, 20, 30, generator=torch.Generator().manual_seed(0)) < 0.3
    for seen in (masks, masks[:, 3:17, 5:6]):
        assert torch.equal(areas_of(seen), seen.sum((1, 2)))
    assert areas_of(masks.to("meta")).shape == (count,)  # as on a GPU: nothing is read


@pytest.mark.parametrize("count", [0, 1, 40])
def test_shared_pixels_are_counted_exactly_on_a_cpu_and_elsewhere(count, monkeypatch):
    monkeypatch.setattr(of_teacher, "_PIXELS_AT_ONCE", 256)
    masks = torch.rand(count, 70, 70, generator=torch.Generator().manual_seed(0)) < 0.3
    counted = (masks[:, None] & masks).sum((2, 3))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_shared_in_parts(masks), counted)
    assert torch.equal(shared_pixels(masks), counted)
