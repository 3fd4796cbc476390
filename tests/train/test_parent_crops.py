import numpy as np
import pytest
import torch

from sohes.structures import ModelOutput
from sohes.train.augment import View
from sohes.train.correct import Correction
from sohes.train.dataset import PairDataset
from sohes.train.lesson import Lesson, teach
from sohes.train.parent_crops import with_children

SIZE = 64
VIEW = View(SIZE, SIZE, (SIZE, SIZE), (0, 0), False, (SIZE, SIZE))


def lesson_of(*boxes: tuple[int, int, int, int]) -> Lesson:
    masks = torch.zeros(len(boxes), SIZE, SIZE, dtype=torch.bool)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return Lesson(masks, np.full(len(boxes), -1), masks.sum((1, 2)).numpy() / SIZE**2)


class Teacher:
    """Answers every crop with the same boxes, in cells of a 16 x 16 map, sure of all of them; keeps what it saw."""

    def __init__(self, *boxes: tuple[int, int, int, int]) -> None:
        self.boxes, self.seen = boxes, torch.zeros(0)

    def __call__(self, crops_B3SS: torch.Tensor) -> ModelOutput:
        self.seen = crops_B3SS
        logits = torch.full((len(crops_B3SS), len(self.boxes), 16, 16), -8.0)
        for q, (y0, x0, y1, x1) in enumerate(self.boxes):
            logits[:, q, y0:y1, x0:x1] = 8.0
        classes = torch.tensor([4.0, -4.0]).expand(*logits.shape[:2], 2)
        return ModelOutput(classes, logits, None)


@pytest.fixture
def params(tiny):
    return tiny.correct.model_copy(update={"parent_crops": 2, "parent_min_fraction": 0.1})


def children_of(lesson, teacher, params, image=None, shown=(0, 0, SIZE, SIZE)):
    image = torch.zeros(3, SIZE, SIZE) if image is None else image
    return with_children(lesson, image, VIEW, shown, teacher, params, rng=np.random.default_rng(0))


def test_a_part_found_in_the_crop_lands_in_the_parent_and_has_it_as_parent(params):
    taught = children_of(lesson_of((16, 16, 48, 48)), Teacher((0, 0, 8, 8)), params)
    assert taught.parents_K.tolist() == [-1, 0]
    part = torch.nonzero(taught.masks_KSS[1])
    assert part.min(0).values.tolist() == [16, 16]
    assert part.max(0).values.tolist() == [31, 31]  # a quarter of the crop, which is half of the view wide
    assert taught.area_fractions_K == pytest.approx([0.25, 0.0625], abs=0.001)  # a corner is rounded off in growing


def test_the_teacher_sees_the_crops_of_the_largest_masks_in_full_size(params):
    image = torch.zeros(3, SIZE, SIZE)
    image[:, 16:48, 16:48] = 1
    teacher = Teacher((0, 0, 8, 8))
    children_of(lesson_of((0, 0, 4, 4), (16, 16, 48, 48), (0, 0, 64, 63), (30, 0, 60, 20)), teacher, params, image)
    assert teacher.seen.shape == (2, 3, SIZE, SIZE)
    assert teacher.seen[1].min() == 1  # the second largest: nothing but the bright square


def test_what_lies_outside_the_parent_is_known_or_is_the_parent_does_not_join(params):
    lesson = lesson_of((16, 16, 48, 48), (16, 16, 32, 32))
    lesson.masks_KSS[0, 32:, 32:48] = False  # the parent is an L: the lower right of its box is not in it
    the_missing_corner, the_known_part, nearly_all = (8, 8, 16, 16), (0, 0, 8, 8), (0, 0, 16, 16)
    taught = children_of(lesson, Teacher(the_missing_corner, the_known_part, nearly_all), params)
    assert len(taught.parents_K) == 2


def test_small_masks_are_not_looked_into_and_no_crop_is_no_change(params):
    teacher = Teacher((0, 0, 8, 8))
    lesson = lesson_of((0, 0, 10, 10))
    assert children_of(lesson, teacher, params) is lesson
    assert not len(teacher.seen)


def test_two_crops_that_find_the_same_part_teach_it_once(params):
    lesson = lesson_of((0, 0, 64, 64), (0, 0, 32, 32))
    full = children_of(lesson, Teacher((0, 0, 4, 4)), params)  # 16 pixels of the whole, 8 of the quarter
    areas = sorted(int(mask.sum()) for mask in full.masks_KSS)
    assert areas == pytest.approx([64, 256, 1024, 4096], abs=2)
    assert full.parents_K.tolist() == [-1, 0, 1, 2]
    again = children_of(full, Teacher((0, 0, 4, 4)), params)
    assert len(again.parents_K) == 4


def test_a_speck_that_grows_to_nothing_is_not_looked_into(params):
    logits = torch.full((1, 2, 16, 16), -8.0)
    logits[0, 0, 4:9, 4:9], logits[0, 1, 12, 12] = 8.0, 1.0
    classes = torch.tensor([4.0, -4.0]).expand(1, 2, 2)
    every = {"parent_min_fraction": 0.0, "theta_score_small": 0.1, "theta_score_large": 0.1}
    section, whole = params.model_copy(update=every), (0, 0, SIZE, SIZE)
    (lesson,) = teach(classes, logits, [VIEW], [whole], section, rngs=[np.random.default_rng(0)])
    teacher = Teacher((0, 0, 8, 8))
    assert len(children_of(lesson, teacher, section).parents_K) == 2
    assert len(teacher.seen) == 1


def test_the_limit_of_targets_holds(params):
    few = params.model_copy(update={"max_targets": 2})
    boxes = [(y, x, y + 3, x + 3) for y in (0, 8) for x in (0, 8)]
    assert len(children_of(lesson_of((0, 0, 64, 64)), Teacher(*boxes), few).parents_K) == 2


def test_a_part_that_the_student_does_not_see_is_not_taught(params):
    boxes = (0, 0, 8, 8), (8, 8, 16, 16)
    taught = children_of(lesson_of((16, 16, 48, 48)), Teacher(*boxes), params, shown=(0, 0, SIZE, 31))
    assert len(taught.parents_K) == 2
    assert not taught.masks_KSS[1, 32:].any()


def test_the_switch_adds_to_what_the_learner_teaches(tiny):
    dataset = tiny.dataset(PairDataset)
    batch = dataset.collate([dataset[0, k] for k in range(4)]).batch
    taught = {}
    for crops in (0, 3):
        sure = {"theta_score_small": 0.0, "theta_score_large": 0.05, "parent_crops": crops}
        learner = Correction(tiny.network(), tiny.correct.model_copy(update=sure), tiny.loss)
        lessons = learner._lessons(batch, [np.random.default_rng(b) for b in range(len(batch.pairs))])
        taught[crops] = sum(len(lesson.parents_K) for lesson in lessons)
    assert taught[3] > taught[0] > 0
