from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sohes import masks
from sohes.masks import forest
from sohes.params import TilesParams
from sohes.train import augment
from sohes.train.augment import Labelled, View
from sohes.train.correct import Correction, into_strong_views, teacher_masks_per_image
from sohes.train.dataset import Pair, PairDataset
from sohes.train.lesson import Lesson
from sohes.train.loop import train


def weak_view(height=32, width=32, flip=False):
    resized = (height * 32 // max(height, width), width * 32 // max(height, width))
    return View(height, width, resized, (0, 0), flip, (32, 32))


# ---------------------------------------------------------------- into the student's view


def pair_of(weak, strong_view, pasted=None, parents=()):
    square = np.zeros((*strong_view.canvas_hw, 3), np.uint8)
    pasted = np.zeros((0, *strong_view.canvas_hw), bool) if pasted is None else pasted
    strong = Labelled(square, pasted, np.array(parents, np.int64))
    no_labels = torch.zeros((0, *weak.canvas_hw), dtype=torch.bool)
    return Pair(square, weak, strong, strong_view, no_labels, 1, 0, ())


def moved(lessons, pairs, max_targets=500):
    rngs = [np.random.default_rng(0) for _ in pairs]
    return into_strong_views(lessons, pairs, max_targets=max_targets, rngs=rngs)


@pytest.mark.parametrize("seed", range(10))
def test_the_teachers_masks_land_where_the_labels_would(seed):
    """Masks of the photograph, seen by the teacher in the weak view, arrive in the strong view as if moved directly."""
    rng = np.random.default_rng(seed)
    on_image = np.zeros((2, 32, 24), bool)
    on_image[0, 4:28, 3:20], on_image[1, 8:20, 6:14] = True, True
    weak = augment.weak_view(32, 24, size=32, rng=rng)
    strong = augment.strong_geometry(32, 24, size=32, scale_min=0.6, scale_max=2.0, rng=rng)
    expected = augment.settle(
        Labelled(np.zeros((32, 32, 3), np.uint8), strong.draw(masks.mask_set(on_image)), np.array([-1, 0]))
    )
    lesson = Lesson(torch.from_numpy(weak.draw(masks.mask_set(on_image))), np.array([-1, 0]), np.array([0.5, 0.1]))
    (targets,) = moved([lesson], [pair_of(weak, strong)])
    assert np.array_equal(targets.masks_THW.numpy(), expected.masks_NHW)
    assert targets.ancestors_TT.sum() == (expected.parents_N >= 0).sum()


def test_what_was_pasted_covers_the_teachers_masks_and_brings_its_own_family():
    weak = weak_view()
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[0, :, :], masks[1, :10, :10], masks[2, 20:30, 20:30] = True, True, True
    pasted = np.zeros((2, 32, 32), bool)
    pasted[0, :12, :12], pasted[1, 2:8, 2:8] = True, True
    lesson = Lesson(masks, np.array([-1, 0, 0]), np.array([1.0, 0.1, 0.1]))
    (targets,) = moved([lesson], [pair_of(weak, weak, pasted, [-1, 0])])
    # the mask beneath is hidden; a root, its other child, the pasted root and its part remain
    assert targets.masks_THW.sum((1, 2)).tolist() == [32 * 32 - 144, 100, 144, 36]
    assert torch.argwhere(targets.ancestors_TT).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("places", range(5))
def test_no_more_targets_than_places_for_what_is_taught_and_what_was_pasted(places):
    weak = weak_view()
    squares = torch.zeros(4, 32, 32, dtype=torch.bool)
    squares[0], squares[1, :10, :10] = True, True  # a lesson
    squares[2, 16:, 16:], squares[3, 20:28, 20:28] = True, True  # pasted over it
    lesson = Lesson(squares[:2], np.array([-1, 0]), np.array([1.0, 0.1]))
    pair = pair_of(weak, weak, squares[2:].numpy(), [-1, 0])
    (targets,) = moved([lesson], [pair], max_targets=places)
    visible = [squares[0] & ~squares[2], *squares[1:]]
    taught = [k for k, square in enumerate(visible) if any(torch.equal(square, mask) for mask in targets.masks_THW)]
    assert len(taught) == len(targets.masks_THW) == places
    family = [[above, below] for above, below in ([0, 1], [2, 3]) if {above, below} <= set(taught)]
    assert torch.argwhere(targets.ancestors_TT).tolist() == [[taught.index(k) for k in pair] for pair in family]


# ---------------------------------------------------------------- the learner


def test_both_branches_count_alike(tiny):
    dataset = tiny.dataset(PairDataset)
    batch = dataset.collate([dataset[0, k] for k in range(4)]).batch.to("cpu")
    learner = Correction(tiny.network(), tiny.correct, tiny.loss)
    losses = learner(batch, torch.Generator().manual_seed(0))
    assert losses["loss"].item() == pytest.approx((losses["initial_labels"] + losses["teacher_labels"]).item())
    parts = sum(losses[name] for name in ("class", "mask", "dice", "ancestor"))
    assert losses["loss"].item() == pytest.approx(parts.item(), rel=1e-5)


def test_free_queries_are_held_to_the_teacher_in_both_branches(tiny):
    dataset = tiny.dataset(PairDataset)
    batch = dataset.collate([dataset[0, k] for k in range(2)]).batch.to("cpu")
    learner = Correction(tiny.network(), tiny.correct.model_copy(update={"hold_free": True}), tiny.loss)
    losses = learner(batch, torch.Generator().manual_seed(0))
    assert losses["hold"] > 0
    parts = sum(losses[name] for name in ("class", "mask", "dice", "ancestor", "hold"))
    assert losses["loss"].item() == pytest.approx(parts.item(), rel=1e-5)
    losses["loss"].backward()
    assert all(weight.grad is None for weight in learner.average.parameters())


def test_what_the_teacher_does_not_say_can_be_left_open(tiny):
    """Without weight on it, a teacher who is sure of nothing says nothing of any query."""
    dataset = tiny.dataset(PairDataset)
    dataset.augmentation = dataset.augmentation.model_copy(update={"copy_paste": 0.0})
    batch = dataset.collate([dataset[0, k] for k in range(4)]).batch.to("cpu")
    loss = tiny.loss.model_copy(update={"matched_only": True})  # or else all queries learn that they are no ancestors
    said = {}
    for weight in (0.0, 0.1):
        silent = {"theta_score_small": 1.0, "theta_score_large": 1.0, "no_object_weight": weight}
        learner = Correction(tiny.network(), tiny.correct.model_copy(update=silent), loss)
        said[weight] = learner(batch, torch.Generator().manual_seed(0))
    assert said[0.0]["teacher_labels"].item() == 0 < said[0.1]["teacher_labels"].item()
    assert said[0.0]["initial_labels"].item() == said[0.1]["initial_labels"].item() > 0


def test_labels_that_are_kept_are_what_a_silent_teacher_leaves(tiny):
    """They lie where phase 2 draws them, since the weak view does not shrink the photograph, with the same family."""
    dataset = tiny.dataset(PairDataset, keep_labels=True)
    dataset.augmentation = dataset.augmentation.model_copy(update={"copy_paste": 0.0})
    batch = dataset.collate([dataset[0, k] for k in range(4)]).batch.to("cpu")
    silent = {"theta_score_small": 1.0, "theta_score_large": 1.0, "keep_labels": True}
    learner = Correction(tiny.network(), tiny.correct.model_copy(update=silent), tiny.loss)
    rngs = [np.random.default_rng(b) for b in range(4)]
    found = learner._lessons(batch, rngs)
    assert not any(len(lesson.parents_K) for lesson in found)
    taught = moved(learner._beside_labels(found, batch.pairs, rngs), batch.pairs)
    for targets, pair in zip(taught, batch.pairs, strict=True):
        labels = dataset.labels.record(pair.image_id).masks
        drawn = augment.settle(Labelled(pair.strong.image_HW3, pair.strong_view.draw(labels), labels.parents))
        assert len(drawn.masks_NHW)
        assert np.array_equal(targets.masks_THW.numpy(), drawn.masks_NHW)
        assert np.array_equal(targets.ancestors_TT.numpy(), forest.forest_ancestors(drawn.parents_N))


def test_the_teacher_adds_to_labels_that_are_kept_what_resembles_none(tiny):
    view = weak_view()
    labels, found = torch.zeros(2, 32, 32, dtype=torch.bool), torch.zeros(3, 32, 32, dtype=torch.bool)
    labels[0, :16], labels[1, 20:24, 20:24] = True, True
    found[0, :17], found[1, 2:8, 2:8], found[2, 16:] = True, True, True  # the first label, a part of it, a whole
    lesson = Lesson(found, np.array([-1, 0, -1]), np.array([0.53, 0.04, 0.5]))
    pair = replace(pair_of(view, view), labels_LSS=labels)
    learner = Correction(tiny.network(), tiny.correct.model_copy(update={"keep_labels": True}), tiny.loss)
    (both,) = learner._beside_labels([lesson], (pair,), [np.random.default_rng(0)])
    assert torch.equal(both.masks_KSS, torch.cat([labels, found[1:]]))
    assert both.parents_K.tolist() == [-1, 3, 0, -1]
    learner.params = tiny.correct
    assert learner._beside_labels([lesson], (pair,), [np.random.default_rng(0)]) == [lesson]


@pytest.mark.parametrize("places", [1, 2, 3, 4])
def test_the_teacher_gets_the_places_that_labels_leave(tiny, places):
    view = weak_view()
    squares = torch.zeros(4, 32, 32, dtype=torch.bool)
    for square, (top, left) in zip(squares, [(0, 0), (0, 16), (16, 0), (16, 16)], strict=True):
        square[top : top + 12, left : left + 12] = True
    pair = replace(pair_of(view, view), labels_LSS=squares[:2])
    lesson = Lesson(squares[2:], np.array([-1, -1]), np.array([0.14, 0.14]))
    section = tiny.correct.model_copy(update={"keep_labels": True, "max_targets": places})
    learner = Correction(tiny.network(), section, tiny.loss)
    for seed in range(8):
        (both,) = learner._beside_labels([lesson], (pair,), [np.random.default_rng(seed)])
        taught = [bool((both.masks_KSS == square).all((1, 2)).any()) for square in squares]
        assert sum(taught) == len(both.masks_KSS) == places
        assert sum(taught[:2]) == min(places, 2)


def test_the_student_learns_the_labels_that_are_kept(tiny):
    silent = {"theta_score_small": 1.0, "theta_score_large": 1.0}
    losses = {}
    for keeps in (False, True):
        dataset = tiny.dataset(PairDataset, keep_labels=keeps)
        dataset.augmentation = dataset.augmentation.model_copy(update={"copy_paste": 0.0})
        batch = dataset.collate([dataset[0, k] for k in range(4)]).batch.to("cpu")
        section = tiny.correct.model_copy(update={**silent, "keep_labels": keeps})
        losses[keeps] = Correction(tiny.network(), section, tiny.loss)(batch, torch.Generator().manual_seed(0))
    assert losses[False]["mask"] < losses[True]["mask"]  # the second branch has no mask to learn, or the labels
    assert losses[False]["initial_labels"] == losses[True]["initial_labels"]


def test_labels_travel_only_where_they_are_kept_and_shown(tiny):
    """At most `max_targets`, as in phase 2."""
    counts = []
    for places in (10, 1):
        dataset = tiny.dataset(PairDataset, keep_labels=True)
        dataset.augmentation = dataset.augmentation.model_copy(update={"scale_min": 2.5, "scale_max": 2.5})
        dataset.max_targets = places
        for k in range(4):
            pair = dataset[0, k][1]
            labels = dataset.labels.record(pair.image_id).masks
            shown = int(pair.strong_view.shows(masks.boxes_xywh(labels)).sum())
            assert len(pair.labels_LSS.packed_NB) == min(places, shown)
            counts.append((shown, len(labels)))
    assert any(0 < shown < all_of_them for shown, all_of_them in counts)
    assert len(tiny.dataset(PairDataset)[0, 0][1].labels_LSS.packed_NB) == 0


def test_where_there_is_room_for_all_the_students_view_changes_nothing(tiny, monkeypatch):
    """What it does not show was dropped afterwards anyway."""
    tiles = TilesParams(levels=(0.6,), overlap=0.25, score_factor=0.9)
    all_are_sure = {"theta_score_small": 0.0, "theta_score_large": 0.0, "max_targets": 500, "tiles": tiles}
    dataset = tiny.dataset(PairDataset, tiles=tiles)
    dataset.augmentation = dataset.augmentation.model_copy(update={"scale_min": 1.5, "scale_max": 3.0})
    learner = Correction(tiny.network(), tiny.correct.model_copy(update=all_are_sure), tiny.loss).train()

    def taught():
        batch = dataset.collate([dataset[0, k] for k in range(4)]).batch.to("cpu")
        lessons = learner._lessons(batch, [np.random.default_rng(b) for b in range(4)])
        return sum(len(lesson.parents_K) for lesson in lessons), moved(lessons, batch.pairs)

    fewer, seen = taught()
    monkeypatch.setattr(augment, "shared_box", lambda weak, strong: (0, 0, *weak.canvas_hw))
    more, every = taught()
    assert fewer < more
    for one, other in zip(seen, every, strict=True):
        assert torch.equal(one.masks_THW, other.masks_THW)
        assert torch.equal(one.ancestors_TT, other.ancestors_TT)


class SumsOfBools(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name().startswith("aten::sum") and args[0].dtype == torch.bool:
            self.shapes.append(args[0].shape)
        return function(*args, **(kwargs or {}))


def test_no_stack_of_masks_is_converted_to_integers_to_be_counted(tiny):
    """Eight bytes a pixel: of 600 masks of 448 x 448 a gigabyte."""
    tiles = TilesParams(levels=(0.6,), overlap=0.25, score_factor=0.9)
    all_are_sure = {"theta_score_small": 0.0, "theta_score_large": 0.0, "tiles": tiles}
    looks_closer = {"parent_crops": 2, "parent_min_fraction": 0.0, "keep_labels": True}
    dataset = tiny.dataset(PairDataset, tiles=tiles, keep_labels=True)
    batch = dataset.collate([dataset[0, k] for k in range(4)]).batch.to("cpu")
    learner = Correction(tiny.network(), tiny.correct.model_copy(update={**all_are_sure, **looks_closer}), tiny.loss)
    with SumsOfBools() as sums:
        learner(batch, torch.Generator().manual_seed(0))
    assert sums.shapes == []


def test_only_the_student_learns_by_gradient_and_the_teacher_follows_it(tiny, tmp_path):
    start = tiny.network()
    params = tiny.correct.model_copy(update={"steps": 1, "teacher_momentum": 0.75})
    learner = Correction(tiny.network(), params, tiny.loss)
    assert not any(p.requires_grad for p in learner.average.parameters())
    learner.train()
    assert learner.network.training
    assert not learner.average.training  # no dropout for the teacher
    history = train(
        learner, tiny.dataset(PairDataset), params, title="correct", seed=0, world=tiny.world,
        state=tiny.state(tmp_path), recorder=tiny.recorder(),
    )  # fmt: skip
    moved = [(a - b).abs().max() for a, b in zip(learner.kept.parameters(), start.parameters(), strict=True)]
    assert all(m > 0 for m in moved)
    # Adan's first step is at most a few times the rate; the teacher goes a quarter of the way
    assert max(moved) < 0.25 * 3 * params.optim.learning_rate
    assert {"teacher_masks_S", "teacher_masks_M", "teacher_masks_L"} <= set(history[0])


def test_every_image_of_a_step_has_random_numbers_of_its_own(tiny, tmp_path, monkeypatch):
    """The same ones, however many parts its batch is split into."""
    drawn: dict[int, list[float]] = {1: [], 2: [], 4: []}
    lessons = Correction._lessons
    for accumulate, numbers in drawn.items():
        monkeypatch.setattr(
            Correction,
            "_lessons",
            lambda self, batch, rngs, kept=numbers: (
                kept.extend(rng.random() for rng in rngs),
                lessons(self, batch, rngs),
            )[1],
        )
        params = tiny.correct.model_copy(update={"steps": 2, "accumulate": accumulate})
        train(
            Correction(tiny.network(), params, tiny.loss), tiny.dataset(PairDataset), params, title="correct", seed=0,
            world=tiny.world, state=tiny.state(tmp_path / str(accumulate)), recorder=tiny.recorder(),
        )  # fmt: skip
    assert drawn[1] == drawn[2] == drawn[4]
    assert len(set(drawn[1])) == len(drawn[1]) == 2 * tiny.correct.batch_size


def test_teacher_masks_are_counted_by_their_size_in_the_photograph():
    view = View(100, 100, (32, 32), (0, 0), False, (32, 32))
    lesson = Lesson(torch.zeros(3, 32, 32), np.array([-1, -1, -1]), np.array([0.05, 0.5, 0.95]))
    none = Lesson(torch.zeros(0, 32, 32), np.zeros(0, np.int64), np.zeros(0))
    pairs = (pair_of(view, view), pair_of(view, view))
    edge = replace(lesson, area_fractions_K=np.array([0.1024, 0.05, 0.05]))  # 32 x 32 pixels: S and M, as in COCO
    counts = teacher_masks_per_image([edge, none], pairs)
    assert counts == {"teacher_masks_S": 1.5, "teacher_masks_M": 0.5, "teacher_masks_L": 0.0}
    counts = teacher_masks_per_image([lesson, none], pairs)
    assert counts == {"teacher_masks_S": 0.5, "teacher_masks_M": 0.5, "teacher_masks_L": 0.5}
