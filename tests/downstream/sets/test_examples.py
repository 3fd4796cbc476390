import numpy as np
import pytest

from sohes.downstream.sets.examples import VOID, ClassSet, Example, ExampleDataset, flipped, in_square


def drawn(number: int = 0) -> Example:
    """40 x 20 pixels: class 1 in the left half, 0 in the right one, and a box round the left half."""
    image = np.full((20, 40, 3), number, np.uint8)
    classes = np.zeros((20, 40), np.int16)
    classes[:, :20] = 1
    return Example(image, classes, np.array([[0, 0, 20, 20]], np.float32), np.array([1]))


def test_a_square_holds_the_content_and_void_below_it():
    square, content = in_square(drawn(), 80)
    assert content == (40, 80)
    assert (square.classes_HW[:40, :40] == 1).all()
    assert (square.classes_HW[:40, 40:] == 0).all()
    assert (square.classes_HW[40:] == VOID).all()
    assert square.boxes_T4.tolist() == [[0, 0, 40, 40]]


def test_a_mirror_image_of_a_mirror_image_is_the_example():
    mirrored = flipped(drawn())
    assert (mirrored.classes_HW[:, 20:] == 1).all()
    assert mirrored.boxes_T4.tolist() == [[20, 0, 40, 20]]
    assert flipped(mirrored).boxes_T4.tolist() == [[0, 0, 20, 20]]


@pytest.fixture
def dataset() -> ExampleDataset:
    data = ClassSet(("a", "b"), train=range(6), val=(), read=drawn)
    return ExampleDataset(data, image_size=40, batch_size=4, normalisation=([0.0] * 3, [1.0] * 3), seed=3)


def test_every_epoch_shows_every_example_once(dataset):
    numbers = [int(dataset[step, k].image_HW3[0, 0, 0]) for step in range(3) for k in range(4)]
    assert sorted(numbers[:6]) == sorted(numbers[6:]) == list(range(6))
    assert numbers[:6] != numbers[6:]


def test_half_of_them_are_mirrored_and_the_same_position_is_the_same_sample(dataset):
    lefts = [float(dataset[step, 0].boxes_T4[0, 0]) for step in range(60)]
    assert 15 < sum(left > 0 for left in lefts) < 45
    assert lefts == [float(dataset[step, 0].boxes_T4[0, 0]) for step in range(60)]


def test_a_batch_is_normalised_and_keeps_every_box(dataset):
    batch = dataset.collate([dataset[0, k] for k in range(2)]).batch
    assert batch.images_B3HW.shape == (2, 3, 40, 40)
    assert batch.images_B3HW.max() < 1
    assert batch.classes_BHW.shape == (2, 40, 40)
    assert [boxes.shape for boxes in batch.boxes] == [(1, 4), (1, 4)]
