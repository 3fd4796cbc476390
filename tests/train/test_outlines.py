import numpy as np
import pytest
import torch

from sohes.masks import packed
from sohes.train import outlines
from sohes.train.augment import View
from sohes.train.lesson import Lesson, teach
from sohes.train.outlines import refined

SIZE = 96
WEAK = View(64, 96, (64, SIZE), (0, 0), False, (SIZE, SIZE))  # below is padding


@pytest.fixture
def params(tiny):
    return tiny.correct.model_copy(update={"refiner": "guided"})


def drawn(*boxes):
    masks = np.zeros((len(boxes), SIZE, SIZE), bool)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def lesson_of(masks, parents):
    return Lesson(torch.from_numpy(masks), np.array(parents), masks.sum((1, 2)) / (64 * SIZE))


def photograph(mask, noise=3):
    grey = np.where(mask[..., None], 200, 60) + np.random.default_rng(0).normal(0, noise, (SIZE, SIZE, 3))
    grey[64:] = 0
    return grey.astype(np.uint8)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_an_outline_that_is_off_by_two_pixels_moves_to_the_edge(params):
    (true,), (coarse,) = drawn((16, 20, 48, 60)), drawn((14, 22, 46, 62))
    lesson = refined(lesson_of(coarse[None], [-1]), photograph(true), WEAK, params, cell=4.0)
    assert iou(coarse, true) < 0.85
    assert iou(lesson.masks_KSS[0].numpy(), true) > 0.97
    assert lesson.area_fractions_K == pytest.approx(lesson.masks_KSS.sum((1, 2)).numpy() / (64 * SIZE))


def test_nothing_grows_into_the_padding(params):
    """Even where the object's colour continues below the photograph."""
    (true,) = drawn((40, 20, 68, 60))
    lesson = refined(lesson_of(drawn((42, 22, 64, 62)), [-1]), photograph(true), WEAK, params, cell=4.0)
    assert not lesson.masks_KSS[:, 64:].any()


def test_a_mask_that_would_change_too_much_stays(params):
    """The first moves, the second does not: it is a few pixels without an edge near them."""
    (true,) = drawn((16, 20, 48, 60))
    coarse = drawn((14, 22, 46, 62), (4, 80, 6, 82))
    photo = photograph(true)
    moved = refined(lesson_of(coarse, [-1, -1]), photo, WEAK, params, cell=4.0).masks_KSS.numpy()
    assert iou(moved[0], true) > 0.97
    strict = params.model_copy(update={"refine_min_iou": 0.999})
    stayed = refined(lesson_of(coarse, [-1, -1]), photo, WEAK, strict, cell=4.0).masks_KSS.numpy()
    assert np.array_equal(stayed[0], coarse[0])
    assert np.array_equal(moved[1], coarse[1])
    assert np.array_equal(stayed[1], coarse[1])


def test_what_moves_to_the_same_edge_is_taught_once(params):
    (true,) = drawn((16, 20, 48, 60))
    family = drawn((0, 0, 64, 96), (15, 19, 49, 61), (17, 21, 47, 59), (24, 30, 36, 44))
    lesson = refined(lesson_of(family, [-1, 0, 1, 2]), photograph(true), WEAK, params, cell=4.0)
    assert iou(family[1], family[2]) < params.nms_iou
    assert len(lesson.masks_KSS) == 3
    assert lesson.parents_K.tolist() == [-1, 0, 1]


@pytest.mark.parametrize("sure", [0, 1])
def test_of_two_that_move_to_the_same_edge_the_surer_one_is_taught(params, monkeypatch, sure):
    """Whichever query found it."""
    coarse, moved = drawn((8, 8, 48, 36), (8, 8, 48, 48)), drawn((8, 8, 48, 46), (8, 8, 48, 44))
    logits = torch.where(torch.from_numpy(coarse[:, ::4, ::4]), torch.tensor([1.0, 1.0])[:, None, None], -8.0)
    logits[sure] *= 8
    every = params.model_copy(update={"theta_score_small": 0.1, "theta_score_large": 0.1, "nms_iou": 0.72})
    classes, rngs = torch.tensor([6.0, 0.0]).expand(1, 2, 2), [np.random.default_rng(0)]
    (lesson,) = teach(classes, logits[None], [WEAK], [(0, 0, 64, SIZE)], every, rngs=rngs)
    assert len(lesson.parents_K) == 2

    class Mover:
        def __init__(self, cell):
            pass

        def refine(self, image, before):
            by_width = np.argsort(np.argsort(packed.areas(before)))
            return packed.pack(moved[by_width, :64], size=(64, SIZE))

    monkeypatch.setattr(outlines, "GuidedRefiner", Mover)
    photo = np.zeros((SIZE, SIZE, 3), np.uint8)
    taught = refined(lesson, photo, WEAK, every, cell=4.0)
    assert np.array_equal(taught.masks_KSS.numpy(), moved[sure : sure + 1])


@pytest.mark.parametrize("refiner", ["none", "guided"])
def test_an_empty_lesson_and_none(params, refiner):
    empty = lesson_of(drawn(), np.zeros(0, np.int64))
    assert refined(empty, photograph(drawn((0, 0, 1, 1))[0]), WEAK, params, cell=4.0) is empty
    one = lesson_of(drawn((16, 20, 48, 60)), [-1])
    plain = params.model_copy(update={"refiner": refiner})
    same = refined(one, photograph(drawn((14, 22, 46, 62))[0]), WEAK, plain, cell=4.0)
    assert (same is one) == (refiner == "none")
