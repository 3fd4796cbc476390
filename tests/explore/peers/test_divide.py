import numpy as np

from sohes.explore.peers.divide import divide_and_conquer
from sohes.explore.peers.maskcut import maskcut


def scene() -> np.ndarray:
    """A background of two halves, and an object of two alike parts."""
    features = np.zeros((12, 12, 4), np.float32)
    features[:, :6] = (1, 0, 0, 0)
    features[:, 6:] = (0.8, 0.6, 0, 0)
    features[3:9, 3:6] = (0, 0, 1, 0)
    features[3:9, 6:9] = (0, 0, 0.9, 0.436)
    return features


def test_objects_come_first_and_their_parts_lie_inside_one_place():
    objects = maskcut(scene(), tau=0.5, cuts=1)
    found = divide_and_conquer(scene(), tau=0.5, cuts=1, theta_merge=(0.95, 0.5), nms_iou=0.9)
    np.testing.assert_array_equal(found[0], objects[0])
    for mask in found:
        assert not (mask & objects[0]).any() or not (mask & ~objects[0]).any()


def test_both_parts_of_the_object_and_both_halves_of_the_rest_are_conquered():
    found = {mask.tobytes() for mask in divide_and_conquer(scene(), tau=0.5, cuts=1, theta_merge=(0.95,), nms_iou=0.9)}
    for rows, columns in ((slice(3, 9), slice(3, 6)), (slice(3, 9), slice(6, 9))):
        part = np.zeros((12, 12), bool)
        part[rows, columns] = True
        assert part.tobytes() in found
    for columns in (slice(0, 6), slice(6, 12)):
        half = np.zeros((12, 12), bool)
        half[:, columns] = True
        half[3:9, 3:9] = False
        assert half.tobytes() in found
