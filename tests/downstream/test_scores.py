import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sohes.downstream.scores import box_average_precision, confusion, mean_iou


def test_mean_iou_by_hand():
    wanted = np.array([[0, 0, 0, 1], [1, -1, -1, 1]])
    found = np.array([[0, 0, 1, 1], [1, 2, 0, 2]])
    table = confusion(wanted, found, 4)
    assert table.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # class 0: 2 of 3; class 1: 2 of 4; class 2 is found but annotated nowhere, as class 3 is neither
    assert mean_iou(table) == pytest.approx(100 * (2 / 3 + 2 / 4) / 2)


def test_mean_iou_needs_a_class():
    with pytest.raises(ValueError, match="no pixel has a class"):
        mean_iou(np.zeros((3, 3), np.int64))


def image(*boxes: tuple[float, float, float, float], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels)


def detected(boxes: tuple[np.ndarray, np.ndarray], scores: list[float]):
    return boxes[0], np.array(scores, np.float32), boxes[1]


def test_truth_as_its_own_prediction_is_100_and_a_wrong_class_0():
    one = image((0, 0, 10, 10), (20, 20, 40, 40), labels=[0, 5])
    assert box_average_precision([one, one], [detected(one, [0.9, 0.8])] * 2) == pytest.approx(100)
    swapped = (one[0], one[1][::-1])
    assert box_average_precision([one], [detected(swapped, [0.9, 0.8])]) == 0
    nothing = image(labels=[])
    assert box_average_precision([one], [detected(nothing, [])]) == 0


def test_sides_of_other_lengths_and_no_box_are_refused():
    one = image((0, 0, 10, 10), labels=[1])
    with pytest.raises(ValueError, match="no box is annotated"):
        box_average_precision([image(labels=[])], [detected(image(labels=[]), [])])
    with pytest.raises(ValueError, match="argument 2 is longer"):
        box_average_precision([one, one], [detected(one, [0.5])])


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pycocotools(seed):
    random = np.random.default_rng(seed)

    def boxes(count: int) -> tuple[np.ndarray, np.ndarray]:
        corners = random.uniform(0, 60, (count, 2))
        return np.concatenate([corners, corners + random.uniform(5, 60, (count, 2))], 1), random.integers(0, 3, count)

    wanted = [boxes(5) for _ in range(6)]
    found = []
    for boxes_T4, labels_T in wanted:
        shaken = boxes_T4 + random.normal(0, 2, boxes_T4.shape)
        more = boxes(4)
        found.append((np.concatenate([shaken, more[0]]), random.random(9), np.concatenate([labels_T, more[1]])))

    def xywh(box) -> list[float]:
        return [*map(float, box[:2]), *map(float, box[2:] - box[:2])]

    annotations = [
        {"image_id": i, "bbox": xywh(box), "area": float(np.prod(xywh(box)[2:])), "category_id": int(n), "iscrowd": 0}
        for i, pair in enumerate(wanted, 1)
        for box, n in zip(*pair, strict=True)
    ]
    detections = [
        {"image_id": i, "bbox": xywh(box), "score": float(score), "category_id": int(n)}
        for i, triple in enumerate(found, 1)
        for box, score, n in zip(*triple, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i} for i in range(1, 7)],
            "categories": [{"id": n} for n in range(3)],
            "annotations": [{**annotation, "id": k} for k, annotation in enumerate(annotations, 1)],
        }
        truth.createIndex()
        reference = COCOeval(truth, truth.loadRes(detections), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    assert box_average_precision(wanted, found) == pytest.approx(100 * reference.stats[0], abs=1e-9)
