import numpy as np

from sohes.downstream.sets.examples import VOID, Example, flipped, in_square


def drawn() -> Example:
    """40 x 20 pixels: class 1 in the left half, 0 in the right one, and a box round the left half."""
    image = np.zeros((20, 40, 3), np.uint8)
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
