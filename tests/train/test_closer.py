from dataclasses import replace

import numpy as np
import pytest
import torch

from sohes.masks import forest
from sohes.masks.windows import windows
from sohes.params import TilesParams
from sohes.structures import ModelOutput
from sohes.train.augment import View
from sohes.train.closer import find, in_parts, joined, with_tiles
from sohes.train.correct import Correction
from sohes.train.dataset import PairDataset
from sohes.train.lesson import Lesson, teach
from sohes.train.tiles import NO_TILES, Tiles

SIZE = 64
TILES = TilesParams(levels=(0.5,), overlap=0.0, score_factor=0.9)
WEAK = View(96, 192, (32, SIZE), (0, 0), False, (SIZE, SIZE))  # the lower half is padding
WHOLE = (0, 0, 32, SIZE)
SEEN = Tiles((), tuple(windows((32, SIZE), levels=[0.5], overlap=0.0)[1:]), ((32, SIZE),) * 4)


@pytest.fixture
def params(tiny):
    return tiny.correct.model_copy(update={"tiles": TILES})


def lesson_of(*boxes):
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return Lesson(masks, np.full(len(boxes), -1), masks.sum((1, 2)).numpy() / (32 * SIZE))


def output_of(*boxes_of_window, probability=0.999):
    """Each window's boxes in cells of its 16 x 16 map, of which 8 x 16 show the window."""
    logits = torch.full((len(boxes_of_window), 4, 16, 16), -8.0)
    for window, boxes in zip(logits, boxes_of_window, strict=True):
        for query, (y0, x0, y1, x1) in zip(window, boxes, strict=False):
            query[y0:y1, x0:x1] = 8.0
    odds = torch.tensor(probability).logit().item()
    return ModelOutput(torch.tensor([odds, 0.0]).expand(len(logits), 4, 2), logits, None)


def found(params, *boxes_of_window, **options):
    return find(output_of(*boxes_of_window, **options), SEEN, params, size=SIZE, within=WEAK.resized_hw)


def box_of(mask):
    inside = torch.nonzero(mask)
    return [*inside.min(0).values.tolist(), *(inside.max(0).values + 1).tolist()]


def test_the_four_windows_are_the_quarters_of_the_photograph():
    assert [window.box for window in SEEN.windows] == [
        (0, 0, 16, 32),
        (0, 32, 16, 64),
        (16, 0, 32, 32),
        (16, 32, 32, 64),
    ]


def test_a_mask_lands_where_its_window_lies(params):
    masks = found(params, [], [(2, 4, 6, 8)], [], [(1, 1, 3, 5)])
    assert sorted(masks.of_window_M.tolist()) == [1, 3]
    boxes = {window: box_of(mask) for window, mask in zip(masks.of_window_M, masks.masks_MSS, strict=True)}
    assert boxes == {1: [4, 40, 12, 48], 3: [18, 34, 22, 42]}  # a cell is two pixels of the weak view


def test_a_mask_that_a_window_cuts_is_dropped_and_one_at_the_photographs_border_stays(params):
    corner, right_side, bottom = (0, 0, 3, 3), (2, 13, 5, 16), (5, 3, 8, 6)
    assert found(params, [corner, right_side, bottom], [], [], []).of_window_M.tolist() == [0]
    assert found(params, [], [corner, right_side, bottom], [], []).of_window_M.tolist() == [1]
    assert found(params, [], [], [], [corner, right_side, bottom]).of_window_M.tolist() == [3, 3]
    uncut = find(output_of([corner, right_side, bottom], [], [], []), SEEN, params, size=SIZE, within=None)
    assert uncut.of_window_M.tolist() == [0, 0, 0]


def test_a_mask_in_the_padding_of_a_square_is_none(params):
    assert len(found(params, [(9, 2, 14, 8)], [], [], []).of_window_M) == 0


def test_the_factor_on_scores_and_the_threshold_decide(params):
    """A mask of 16 of 128 cells needs 0.7, and the network gives 0.75."""
    one = ([(2, 2, 6, 6)], [], [], [])
    assert len(found(params, *one, probability=0.75).of_window_M) == 0
    full = params.model_copy(update={"tiles": TILES.model_copy(update={"score_factor": 1.0})})
    assert len(found(full, *one, probability=0.75).of_window_M) == 1


def test_tiles_add_small_masks_to_a_lesson_and_the_forest_holds_them(params):
    lesson = lesson_of((2, 2, 30, 30))
    taught = with_tiles(lesson, SEEN, output_of([(4, 4, 6, 6)], [(4, 4, 7, 7)], [], []), WEAK, WHOLE, params,
                        rng=np.random.default_rng(0))  # fmt: skip
    areas = taught.masks_KSS.sum((1, 2)).tolist()
    assert areas[0] == 28 * 28
    parents = dict(zip(areas, taught.parents_K.tolist(), strict=True))
    assert min(areas) == pytest.approx(16, abs=4)  # below a cell of the weak view's own map
    assert parents[min(areas)] == 0
    assert sorted(parents.values()) == [-1, -1, 0]
    assert taught.area_fractions_K == pytest.approx(np.array(areas) / (32 * SIZE))
    forest.forest_ancestors(taught.parents_K)


@pytest.mark.parametrize("side", [448, 1024])
@pytest.mark.parametrize("wide", [1, 2, 3])
@pytest.mark.parametrize("known", [True, False])
def test_a_thin_mask_is_taught_with_its_parent_wherever_it_lies(params, side, wide, known):
    """As the leg of a chair: of every second or fourth column, none or all of it would be seen."""
    weak = View(side, side, (side, side), (0, 0), False, (side, side))
    for left in range(200, 204):
        masks = torch.zeros(3, side, side, dtype=torch.bool)
        masks[0, 100:400, 100:400], masks[1, 150:350, left : left + wide] = True, True
        masks[2, 150:350, left + wide : left + 2 * wide] = True  # beside it, as another leg
        parts = (masks, masks[:0]) if known else (masks[:1], masks[1:])
        taught = joined(*parts, weak, (0, 0, side, side), params, rng=np.random.default_rng(0))
        assert torch.equal(taught.masks_KSS, masks)
        assert taught.parents_K.tolist() == [-1, 0, 0]
        assert taught.area_fractions_K * side**2 == pytest.approx([90_000, 200 * wide, 200 * wide])


def test_what_is_known_or_found_twice_is_taught_once(params):
    rng = np.random.default_rng(0)
    known = lesson_of((4, 8, 12, 16))
    same = with_tiles(known, SEEN, output_of([(2, 4, 6, 8)], [], [], []), WEAK, WHOLE, params, rng=rng)
    assert torch.equal(same.masks_KSS, known.masks_KSS)
    twice = with_tiles(
        lesson_of(), SEEN, output_of([(2, 4, 6, 8), (2, 4, 6, 8)], [], [], []), WEAK, WHOLE, params, rng=rng
    )
    assert len(twice.parents_K) == 1
    few = params.model_copy(update={"max_targets": 1})
    both = output_of([(2, 4, 6, 8)], [(1, 4, 6, 8)], [], [])
    assert len(with_tiles(known, SEEN, both, WEAK, WHOLE, few, rng=rng).parents_K) == 1


def test_what_the_student_does_not_see_takes_no_place(params):
    known, rng = lesson_of((4, 8, 12, 16)), np.random.default_rng(0)
    four = output_of(*[[(2, 4, 6, 8)]] * 4)
    two = params.model_copy(update={"max_targets": 2})
    left = with_tiles(known, SEEN, four, WEAK, (0, 0, 32, 32), two, rng=rng)
    assert sorted(box_of(mask) for mask in left.masks_KSS) == [[4, 8, 12, 16], [20, 8, 28, 16]]
    assert len(with_tiles(known, SEEN, four, WEAK, WHOLE, params, rng=rng).parents_K) == 4  # one is known


def test_the_switch_adds_to_what_the_learner_teaches_and_is_off_otherwise(tiny):
    sure = {"theta_score_small": 0.0, "theta_score_large": 0.05, "max_targets": 40}
    taught = {}
    for levels in ((), (0.6,)):
        tiles = TILES.model_copy(update={"levels": levels})
        params = tiny.correct.model_copy(update={**sure, "tiles": tiles})
        dataset = tiny.dataset(PairDataset, tiles=tiles)
        batch = dataset.collate([dataset[0, k] for k in range(4)]).batch.to("cpu")
        learner = Correction(tiny.network(), params, tiny.loss).train()  # the teacher has no dropout
        taught[levels] = learner._lessons(batch, [np.random.default_rng(b) for b in range(len(batch.pairs))])
        assert torch.isfinite(learner(batch, torch.Generator().manual_seed(0))["loss"])
    output = learner.average(batch.weak_B3HW)
    views, rngs = [pair.weak for pair in batch.pairs], [np.random.default_rng(0) for _ in batch.pairs]
    shown = [pair.shown for pair in batch.pairs]
    alone = teach(output.class_logits_BQ2, output.mask_logits_BQhw, views, shown, params, rngs=rngs)
    assert all(torch.equal(a.masks_KSS, b.masks_KSS) for a, b in zip(alone, taught[()], strict=True))
    counts = {levels: sum(len(lesson.parents_K) for lesson in lessons) for levels, lessons in taught.items()}
    assert counts[(0.6,)] > counts[()] > 0


def test_a_closer_look_takes_no_larger_batch_than_the_first(tiny):
    """Of however many squares, with the same masks as all at once."""
    sure = {"theta_score_small": 0.0, "theta_score_large": 0.05, "max_targets": 40, "tiles": TILES}
    crops = {"parent_crops": 5, "parent_min_fraction": 0.0}
    dataset = tiny.dataset(PairDataset, tiles=TILES)
    batch = dataset.collate([dataset[0, k] for k in range(2)]).batch.to("cpu")
    assert len(batch.tiles_USS3) > 2
    learner = Correction(tiny.network(), tiny.correct.model_copy(update={**sure, **crops}), tiny.loss).train()
    sizes = []
    learner.average.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    learner._lessons(batch, [np.random.default_rng(b) for b in range(2)])
    assert sum(sizes) > 2 + len(batch.tiles_USS3)
    assert max(sizes) == 2
    few, all_of_them = (in_parts(learner.average, n)(batch.tiles_U3SS()) for n in (2, 100))
    torch.testing.assert_close(few.mask_logits_BQhw, all_of_them.mask_logits_BQhw)
    torch.testing.assert_close(few.class_logits_BQ2, all_of_them.class_logits_BQ2)


def test_a_pair_without_a_window_beside_one_with_some(tiny):
    """As where the student's view shows nothing of the photograph."""
    sure = {"theta_score_small": 0.0, "theta_score_large": 0.05, "max_targets": 40, "tiles": TILES}
    dataset = tiny.dataset(PairDataset, tiles=TILES)
    (first, blind), second = dataset[0, 0], dataset[0, 1]
    learner = Correction(tiny.network(), tiny.correct.model_copy(update=sure), tiny.loss).train()

    def lessons(*samples):
        rngs = [np.random.default_rng(b) for b in range(len(samples))]
        return learner._lessons(dataset.collate(samples).batch.to("cpu"), rngs)

    mixed = lessons((first, replace(blind, tiles=NO_TILES)), second)
    alone, with_windows = lessons((first, replace(blind, tiles=NO_TILES))), lessons((first, blind), second)
    assert torch.equal(mixed[0].masks_KSS, alone[0].masks_KSS)
    assert torch.equal(mixed[1].masks_KSS, with_windows[1].masks_KSS)
    assert len(with_windows[0].parents_K) > len(mixed[0].parents_K) > 0
