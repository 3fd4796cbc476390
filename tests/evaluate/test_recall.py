"""The evaluator against hand-counted figures, pycocotools and faster-coco-eval, and the pitfalls of other tools."""

from __future__ import annotations

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
from faster_coco_eval.core.coco import COCO as FasterCOCO
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sohes import masks
from sohes.data.benchmarks import coco
from sohes.data.benchmarks.predictions.read import read_predictions
from sohes.data.store.labels import iter_records, write_shard
from sohes.errors import SohesError
from sohes.evaluate.recall import RATIOS, ImageRecall, evaluate_masks, paired_bootstrap, per_image_of
from sohes.structures import ImageRecord

FIGURES = ("AR", "AR_S", "AR_M", "AR_L", "AR_1", "AR_10", "AR_100", "AP", "AP50")


def record(image_id: int, drawn, scores=None, parents=None, sources="") -> ImageRecord:
    return ImageRecord(
        image_id,
        f"{image_id}.png",
        "",
        masks.mask_set(np.asarray(drawn, bool), scores=scores, parents=parents, sources=sources),
    )


def nothing(image_id: int, size: tuple[int, int] = (4, 4)) -> ImageRecord:
    return record(image_id, np.zeros((0, *size)))


def row_of(*columns: int) -> np.ndarray:
    """A mask of 1 x 10 pixels."""
    mask = np.zeros((1, 10), bool)
    mask[0, list(columns)] = True
    return mask


# ---------------------------------------------------------------- by hand


def test_truth_as_its_own_prediction_is_perfect():
    drawn = [row_of(0, 1, 2, 3), row_of(0, 1), row_of(0), row_of(5, 6)]
    truth = [record(1, drawn, parents=[-1, 0, 1, -1])]
    scores = evaluate_masks(truth, truth)
    for name in ("AR", "AR_S", "AR_10", "AR_100", "AR_whole", "AR_part", "AR_subpart"):
        assert getattr(scores, name) == 100, name
    assert scores.ancestor_precision == scores.ancestor_recall == scores.ancestor_f1 == 100
    assert scores.AP == pytest.approx(100)
    assert scores.AR_1 == 25
    assert scores.AR_M is scores.AR_L is None
    assert scores.masks_per_image == 4


def test_an_iou_of_point_eight_counts_up_to_that_threshold():
    truth = [record(1, [row_of(0, 1, 2, 3, 4)])]
    scores = evaluate_masks(truth, [record(1, [row_of(0, 1, 2, 3)])])
    assert scores.recall_per_iou == {
        "0.50": 100, "0.55": 100, "0.60": 100, "0.65": 100, "0.70": 100, "0.75": 100, "0.80": 100,
        "0.85": 0, "0.90": 0, "0.95": 0,
    }  # fmt: skip
    assert scores.AR == pytest.approx(70)


def test_a_wrong_mask_lowers_ap_and_not_ar():
    truth = [record(1, [row_of(0, 1)])]
    found = [record(1, [row_of(8, 9), row_of(0, 1)], scores=[0.9, 0.1])]
    scores = evaluate_masks(truth, found)
    assert scores.AR == 100
    assert scores.AP == pytest.approx(50)
    assert scores.AR_1 == 0


def test_a_mask_counts_once_however_often_it_is_predicted():
    truth = [record(1, [row_of(0, 1), row_of(4, 5)])]
    scores = evaluate_masks(truth, [record(1, [row_of(0, 1)] * 5)])
    assert scores.AR == 50


def test_only_the_most_confident_masks_count():
    truth = [record(1, [row_of(0, 1), row_of(4, 5)])]
    found = [record(1, [row_of(4, 5), row_of(8), row_of(0, 1)], scores=[0.2, 0.5, 0.9])]
    assert evaluate_masks(truth, found, max_masks=2).AR == 50
    assert evaluate_masks(truth, found, max_masks=2).masks_per_image == 2
    assert evaluate_masks(truth, found, max_masks=3).AR == 100
    with pytest.raises(ValueError, match="got 0"):
        evaluate_masks(truth, found, max_masks=0)


def test_more_than_255_masks_of_an_image():
    drawn = np.eye(300).reshape(300, 15, 20)
    truth = [record(1, drawn)]
    scores = evaluate_masks(truth, [record(1, drawn[::-1])])
    assert scores.AR == 100
    assert scores.AR_100 == pytest.approx(100 * 100 / 300)


def test_area_ranges_include_both_ends():
    drawn = np.zeros((3, 128, 128), bool)
    drawn[0, :32, :32] = True  # 1,024 pixels: small and medium
    drawn[1, 32:, 32:] = True  # 9,216: medium and large
    drawn[2, :10, 100:110] = True
    scores = evaluate_masks([record(1, drawn)], [record(1, drawn[:1])])
    assert (scores.AR_S, scores.AR_M, scores.AR_L) == (50, 50, 0)


def test_a_crowd_need_not_be_found_and_masks_inside_it_are_not_wrong():
    truth = [record(1, [row_of(0, 1, 2, 3, 4), row_of(8, 9)], sources=["crowd", "coco"])]
    found = [record(1, [row_of(0, 1), row_of(2, 3), row_of(8, 9)], scores=[0.9, 0.8, 0.7])]
    scores = evaluate_masks(truth, found)
    assert scores.AR == 100
    assert scores.AP == pytest.approx(100)
    assert scores.per_image[1].truths == 1


def test_recall_by_level_of_the_truth():
    truth = [record(1, [row_of(0, 1, 2, 3, 4, 5), row_of(0, 1), row_of(0), row_of(1)], parents=[-1, 0, 1, 1])]
    scores = evaluate_masks(truth, [record(1, [row_of(0, 1, 2, 3, 4, 5), row_of(0)])])
    assert (scores.AR_whole, scores.AR_part, scores.AR_subpart) == (100, 0, 50)
    flat = evaluate_masks([record(1, [row_of(0)])], [record(1, [row_of(0)])])
    assert flat.AR_whole is flat.AR_part is flat.AR_subpart is None


def test_ancestor_pairs_by_hand():
    # truth: 0 > 1 > 2 (three pairs). Predicted: the same three masks with 0 > 1 only, and 2 > 3 with an unmatched mask.
    drawn = [row_of(0, 1, 2, 3, 4, 5), row_of(0, 1, 2), row_of(0), row_of(9)]
    truth = [record(1, drawn[:3], parents=[-1, 0, 1])]
    scores = evaluate_masks(truth, [record(1, drawn, parents=[-1, 0, -1, 2])])
    assert scores.ancestor_precision == 100  # the pair with the unmatched mask does not count
    assert scores.ancestor_recall == pytest.approx(100 / 3)
    assert scores.ancestor_f1 == pytest.approx(50)
    turned = evaluate_masks(truth, [record(1, drawn[:3], parents=[1, -1, 1])])
    assert turned.ancestor_precision == pytest.approx(50)  # 1 > 2 is right, 1 > 0 is not


def test_ancestors_follow_the_masks_when_scores_reorder_them():
    drawn = [row_of(0, 1, 2, 3, 4, 5), row_of(0, 1, 2), row_of(0)]
    truth = [record(1, drawn, parents=[-1, 0, 1])]
    found = [record(1, drawn[::-1], parents=[1, 2, -1], scores=[0.5, 0.9, 0.1])]
    assert evaluate_masks(truth, found).ancestor_f1 == 100


def test_ancestor_figures_are_none_without_annotation_and_zero_without_prediction():
    flat, nested = [row_of(0, 1)], [row_of(0, 1), row_of(0)]
    assert evaluate_masks([record(1, flat)], [record(1, flat)]).ancestor_f1 is None
    scores = evaluate_masks([record(1, nested, parents=[-1, 0])], [record(1, nested)])
    assert (scores.ancestor_precision, scores.ancestor_recall, scores.ancestor_f1) == (None, 0, 0)


def test_images_without_truth_or_predictions():
    truth = [record(1, [np.eye(4)]), record(2, [np.eye(4)]), nothing(3), nothing(4)]
    found = [record(1, [np.eye(4)]), nothing(2), record(3, [np.eye(4)]), nothing(4)]
    scores = evaluate_masks(truth, found)
    assert scores.AR == 50
    assert scores.per_image == {1: (100, 1), 2: (0, 1), 3: (None, 0), 4: (None, 0)}
    assert scores.masks_per_image == 0.5


def test_without_any_annotation_figures_are_none_not_zero():
    scores = evaluate_masks([nothing(1)], [record(1, [np.eye(4)])])
    assert all(getattr(scores, name) is None for name in FIGURES)
    assert set(scores.recall_per_iou.values()) == {None}


# ---------------------------------------------------------------- image sets


def test_a_missing_image_is_named():
    truth = [nothing(i) for i in range(1, 10)]
    with pytest.raises(
        SohesError, match=r"the predictions lack 2 of 9 images of the ground truth \(images 3 = 3.png, 7 = 7.png\)"
    ):
        evaluate_masks(truth, [nothing(i) for i in range(1, 10) if i not in (3, 7)])
    with pytest.raises(
        SohesError, match=r"the ground truth lacks 8 of 9 .*\(images 2 = 2.png, 3 = .* 6 = 6.png, \.\.\.\)"
    ):
        evaluate_masks(truth[:1], truth)
    with pytest.raises(SohesError, match=r"predictions lack 1 .* and the ground truth lacks 1 "):
        evaluate_masks([nothing(1)], [nothing(2)])


def test_a_duplicate_image_is_named():
    with pytest.raises(SohesError, match="predictions hold image 1 twice"):
        evaluate_masks([nothing(1), nothing(2)], [nothing(1), nothing(1)])
    with pytest.raises(SohesError, match="ground truth holds image 1 twice"):
        evaluate_masks([nothing(1), nothing(1)], [nothing(2), nothing(2)])


def test_no_image_at_all_is_an_error():
    with pytest.raises(SohesError, match="no image to score"):
        evaluate_masks([], [])


def test_predictions_in_another_frame_are_refused():
    with pytest.raises(SohesError, match="image 5 is annotated at 4 x 3 pixels but its predictions have 3 x 4"):
        evaluate_masks([nothing(5, (3, 4))], [nothing(5, (4, 3))])


def test_the_order_of_images_and_masks_changes_nothing():
    random = np.random.default_rng(0)
    truth, found = random_images(random, images=6)
    expected = evaluate_masks(truth, found)
    places = random.permutation(6)
    shuffled = [
        record(r.image_id, masks.decode(r.masks)[o], scores=r.masks.scores[o])
        for r in (found[i] for i in places)
        for o in [random.permutation(len(r.masks))]
    ]
    assert_close(evaluate_masks(truth, shuffled), {name: getattr(expected, name) for name in FIGURES})


def test_records_are_streamed_one_image_at_a_time():
    alive, most = set(), 0

    def watched(side):
        nonlocal most
        for i in range(1, 20):
            alive.add((side, i))
            most = max(most, len(alive))
            yield nothing(i)
            alive.discard((side, i))

    evaluate_masks(watched("truth"), watched("found"))
    assert most == 2


# ---------------------------------------------------------------- parity


def random_images(random, *, images: int, truths: int = 6, found: int = 12, size=(40, 130), ties: bool = False):
    """Rectangles, and predictions: shifted copies of them, exact duplicates and false ones."""

    def rectangles(count: int) -> np.ndarray:
        drawn = np.zeros((count, *size), bool)
        for mask in drawn:
            y, x = random.integers(size[0]), random.integers(size[1])
            mask[y : y + random.integers(1, size[0]), x : x + random.integers(1, size[1])] = True
        return drawn

    pairs = []
    for _ in range(images):
        truth = rectangles(random.integers(0, truths + 1))
        pool = np.concatenate([truth, truth, np.roll(truth, 1, 2), np.roll(truth, 2, 1), rectangles(found)])
        guess = pool[random.permutation(len(pool))[: random.integers(0, found + 1)]]
        pairs.append((truth, guess))
    ids = (random.permutation(images) + 1).tolist()

    def scores(count: int) -> np.ndarray:
        return random.integers(1, 4, count) / 4 if ties else random.random(count)

    truth = [
        record(i, t, sources=[("crowd", "")[int(random.random() > 0.15)] for _ in t])
        for i, (t, _) in zip(ids, pairs, strict=True)
    ]
    return truth, [record(i, f, scores=scores(len(f))) for i, (_, f) in zip(ids, pairs, strict=True)]


def reference(truth, found, *, max_masks: int = 1000, faster: bool = False) -> dict[str, float | None]:
    """AR and AP from the library's arrays, because its summary has AR at 100 masks only."""
    dataset, evaluator = (FasterCOCO, COCOeval_faster) if faster else (COCO, COCOeval)
    annotations, detections = [], []
    for r in truth:
        for rle, area, source in zip(masks.coco_rles(r.masks), masks.areas(r.masks), r.masks.sources, strict=True):
            crowd = int(source == "crowd")
            annotations.append({"segmentation": rle, "area": int(area), "iscrowd": crowd, "image_id": r.image_id})
    for r in found:
        for rle, area, score in zip(masks.coco_rles(r.masks), masks.areas(r.masks), r.masks.scores, strict=True):
            detections.append(
                {"segmentation": rle, "area": int(area), "iscrowd": 0, "score": float(score), "image_id": r.image_id}
            )
    images = [{"id": r.image_id, "height": r.masks.height, "width": r.masks.width} for r in truth]
    sides = []
    for side in (annotations, detections):
        for number, annotation in enumerate(side, start=1):
            annotation |= {"id": number, "category_id": 1}
        sides.append(dataset())
        sides[-1].dataset = {"images": images, "annotations": side, "categories": [{"id": 1}]}
        sides[-1].createIndex()
    return figures_of(evaluator(*sides, "segm"), max_masks=max_masks)


def figures_of(evaluation, *, max_masks: int = 1000) -> dict[str, float | None]:
    evaluation.params.useCats = 0
    evaluation.params.maxDets = [min(k, max_masks) for k in (1, 10, 100)] + [max_masks]
    evaluation.evaluate()
    evaluation.accumulate()
    recall, precision = evaluation.eval["recall"][:, 0], evaluation.eval["precision"][:, :, 0, 0, -1]

    def percent(values):
        return None if (values == -1).all() else 100 * float(values[values > -1].mean())

    return {
        "AR": percent(recall[:, 0, -1]),
        **{f"AR_{name}": percent(recall[:, a, -1]) for a, name in enumerate("SML", start=1)},
        **{f"AR_{cap}": percent(recall[:, 0, m]) for m, cap in enumerate((1, 10, 100))},
        "AP": percent(precision),
        "AP50": percent(precision[0]),
    }


def assert_close(scores, expected) -> None:
    for name, value in expected.items():
        ours = getattr(scores, name)
        same = ours is None if value is None else ours is not None and math.isclose(ours, value, abs_tol=1e-9)
        assert same, f"{name}: {ours} instead of {value}"


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_equal_to_pycocotools_on_random_images(seed, ties):
    truth, found = random_images(np.random.default_rng(seed), images=8, ties=ties)
    assert_close(evaluate_masks(truth, found), reference(truth, found))


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_faster_coco_eval_on_random_images(seed):
    truth, found = random_images(np.random.default_rng(100 + seed), images=8, ties=True)
    assert_close(evaluate_masks(truth, found), reference(truth, found, faster=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans())
def test_equal_to_pycocotools_on_tiny_images_with_many_ties(seed, images, ties):
    truth, found = random_images(np.random.default_rng(seed), images=images, size=(3, 5), ties=ties)
    assert_close(evaluate_masks(truth, found), reference(truth, found))


def annotated(seed: int, *, images: int = 12) -> tuple[dict, list[dict]]:
    """COCO JSON of polygons, run lengths of both kinds and crowds with areas of their own, and results that fit some.

    Sizes lie near 32 x 32 and 96 x 96 pixels, where a polygon's own area and its pixels fall on two sides.
    """
    random, height, width = np.random.default_rng(seed), 200, 260
    content: dict[str, list] = {
        "images": [{"id": k, "file_name": f"{k}.png", "height": height, "width": width} for k in range(1, images + 1)],
        "annotations": [],
        "categories": [{"id": 1}],
    }
    found = []
    for image in content["images"]:
        for place in range(7):
            angles = np.sort(random.uniform(0, 2 * np.pi, 9))
            radius = random.uniform(0.8, 1.3, 9) * random.choice([18.0, 55.0])
            x = random.uniform(20, width - 20) + radius * np.cos(angles)
            y = random.uniform(20, height - 20) + radius * np.sin(angles)
            polygon = np.stack([x, y], 1).ravel().round(2).tolist()
            area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
            drawn = coco_mask.merge(coco_mask.frPyObjects([polygon], height, width))
            pixels = coco_mask.decode(drawn).T.ravel().astype(int)
            places = np.flatnonzero(np.diff(pixels, prepend=0))
            segmentation = [
                [polygon],
                {"size": [height, width], "counts": np.diff(places, prepend=0, append=pixels.size).tolist()},
                {"size": [height, width], "counts": drawn["counts"].decode()},
            ][place % 3]
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": image["id"], "category_id": 1,
                 "iscrowd": int(random.random() < 0.2), "segmentation": segmentation,
                 "area": float(area * random.choice([1, 0.97, 1.04]))}
            )  # fmt: skip
            near = (np.array(polygon) + random.uniform(-4, 4)).tolist()
            rle = coco_mask.merge(coco_mask.frPyObjects([near], height, width))
            found.append(
                {"image_id": image["id"], "category_id": 1, "score": float(random.random()),
                 "segmentation": {"size": [height, width], "counts": rle["counts"].decode()}}
            )  # fmt: skip
    return content, found


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools under numpy 2.4
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools_by_the_areas_that_files_state(seed, tmp_path):
    content, found = annotated(seed)
    (tmp_path / "found.json").write_text(json.dumps(found))
    truth = list(coco.read_content(copy.deepcopy(content), tmp_path / "truth.json"))
    scores = evaluate_masks(truth, read_predictions([tmp_path / "found.json"], truth))
    wanted = COCO()
    wanted.dataset = content
    wanted.createIndex()
    expected = figures_of(COCOeval(wanted, wanted.loadRes(found), "segm"))
    assert_close(scores, expected)
    by_pixels = [dataclasses.replace(r, masks=dataclasses.replace(r.masks, stated_areas=None)) for r in truth]
    other = evaluate_masks(by_pixels, read_predictions([tmp_path / "found.json"], truth))
    assert (other.AR_S, other.AR_M, other.AR_L) != (scores.AR_S, scores.AR_M, scores.AR_L)
    write_shard(tmp_path / "truth.parquet", truth)  # as `pull` keeps it
    kept = evaluate_masks(iter_records(tmp_path / "truth.parquet"), read_predictions([tmp_path / "found.json"], truth))
    assert_close(kept, expected)


def test_equal_to_pycocotools_under_a_small_cap():
    truth, found = random_images(np.random.default_rng(5), images=6, ties=True)
    assert_close(evaluate_masks(truth, found, max_masks=3), reference(truth, found, max_masks=3))


def test_equal_to_pycocotools_on_a_thousand_predictions():
    random = np.random.default_rng(6)
    truth, found = random_images(random, images=2, truths=15, found=1200, ties=True)
    more = [*truth, *(dataclasses.replace(r, image_id=r.image_id + 2) for r in truth)]
    swapped = [*found, *(dataclasses.replace(r, image_id=5 - r.image_id) for r in found)]
    assert_close(evaluate_masks(more, swapped), reference(more, swapped))


@pytest.mark.parametrize(
    ("truth", "found"),
    [
        ([[0, 1, 2, 3]], []),
        ([], [[0, 1]]),
        ([[]], [[]]),  # an empty mask on both sides
        ([[0, 1], [0, 1], [0, 1]], [[0, 1], [0, 1]]),  # duplicate annotations
        ([[0, 1, 2, 3], [0, 1, 2]], [[0, 1, 2, 3], [0, 1, 2, 3]]),
        ([[0, 1]], [[0], [1], [0, 1]]),
    ],
    ids=["nothing found", "nothing annotated", "empty masks", "repeated truth", "second best", "halves"],
)
def test_equal_to_pycocotools_on_adversarial_images(truth, found):
    full = record(2, [row_of(3, 4)])  # pycocotools fails without any annotation
    wanted = [record(1, np.array([row_of(*c) for c in truth]).reshape(-1, 1, 10)), full]
    guess = [record(1, np.array([row_of(*c) for c in found]).reshape(-1, 1, 10)), full]
    assert_close(evaluate_masks(wanted, guess), reference(wanted, guess))


def test_huge_image_ids_are_kept_apart():
    ids = (0, 2**53, 2**53 + 1, 2**62)
    truth = [record(i, [row_of(n)]) for n, i in enumerate(ids)]
    found = [record(i, [row_of(n if n != 2 else 9)]) for n, i in enumerate(ids)]
    scores = evaluate_masks(truth, found)
    assert scores.AR == 75
    assert scores.per_image[2**53 + 1].recall == 0


def test_figures_are_consistent_with_each_other():
    truth, found = random_images(np.random.default_rng(9), images=10)
    scores = evaluate_masks(truth, found)
    assert 0 <= scores.AR_1 <= scores.AR_10 <= scores.AR_100 <= scores.AR <= 100
    curve = list(scores.recall_per_iou.values())
    assert curve == sorted(curve, reverse=True)
    assert scores.AR == pytest.approx(np.mean(curve))
    annotated = [image for image in scores.per_image.values() if image.truths]
    pooled = np.average([image.recall for image in annotated], weights=[image.truths for image in annotated])
    assert scores.AR == pytest.approx(pooled)


# ---------------------------------------------------------------- comparing runs


def test_details_survive_json():
    truth, found = random_images(np.random.default_rng(2), images=5)
    scores = evaluate_masks(truth, found)
    details = json.loads(json.dumps(scores.details()))
    assert per_image_of(details) == scores.per_image
    assert details["AR"] == scores.row()["AR"] == scores.AR
    assert set(scores.row()) == {"AR", "AR_S", "AR_M", "AR_L", "AP"}


def test_the_figures_are_ratios_of_sums_over_images():
    truth, found = random_images(np.random.default_rng(5), images=12)
    scores = evaluate_masks(truth, found)
    assert list(scores.ratios) == list(RATIOS)
    for name, ratio_N2 in scores.ratios.items():
        above, below = ratio_N2.sum(0)
        assert len(ratio_N2) == 12
        assert getattr(scores, name) == (pytest.approx(100 * above / below) if below else None), name


def test_ancestor_sums_count_pairs():
    drawn = [row_of(0, 1, 2, 3), row_of(0, 1), row_of(5, 6)]
    truth = [record(1, drawn, parents=[-1, 0, -1])]
    scores = evaluate_masks(truth, [record(1, drawn, parents=[-1, 0, 0])])
    assert scores.ratios["ancestor_f1"].tolist() == [[2, 3]]  # one right; two predicted and one annotated
    assert scores.ancestor_f1 == pytest.approx(200 / 3)
    flat = evaluate_masks([record(1, drawn)], [record(1, drawn, parents=[-1, 0, 0])])
    assert flat.ratios["ancestor_f1"].tolist() == [[0, 0]]
    assert flat.ancestor_f1 is None


def test_bootstrap_of_a_run_with_itself_is_zero():
    run = {1: ImageRecall(30.0, 4), 2: ImageRecall(60.0, 1), 3: ImageRecall(None, 0)}
    assert paired_bootstrap(run, run, seed=0, draws=50) == (0, 0, 0)


def test_the_bootstrap_difference_is_the_difference_in_pooled_ar():
    truth, found = random_images(np.random.default_rng(3), images=30)
    _, worse = random_images(np.random.default_rng(3), images=30)
    worse = [record(r.image_id, masks.decode(r.masks)[::2], scores=r.masks.scores[::2]) for r in worse]
    a, b = evaluate_masks(truth, found), evaluate_masks(truth, worse)
    difference, low, high = paired_bootstrap(a.per_image, b.per_image, seed=0, draws=500)
    assert difference == pytest.approx(a.AR - b.AR)
    assert 0 < low < difference < high
    assert paired_bootstrap(a.per_image, b.per_image, seed=0, draws=500) == (difference, low, high)
    assert paired_bootstrap(b.per_image, a.per_image, seed=0, draws=500) == pytest.approx((-difference, -high, -low))


def test_the_bootstrap_interval_has_the_theoretical_width():
    random = np.random.default_rng(0)
    gains = random.normal(5, 10, size=400)
    a = {i: ImageRecall(50 + gain, 1) for i, gain in enumerate(gains)}
    b = {i: ImageRecall(50.0, 1) for i in range(400)}
    difference, low, high = paired_bootstrap(a, b, seed=1, draws=2000)
    half = 1.96 * gains.std() / 20
    assert difference - low == pytest.approx(half, rel=0.1)
    assert high - difference == pytest.approx(half, rel=0.1)


def test_the_bootstrap_does_not_depend_on_the_order_of_the_images():
    gains = np.random.default_rng(0).normal(5, 10, size=30)
    a = {i: ImageRecall(50 + gain, 1) for i, gain in enumerate(gains)}
    b = {i: ImageRecall(50.0, 1) for i in a}
    read_back = dict(sorted(a.items(), key=lambda item: str(item[0])))
    assert paired_bootstrap(read_back, b, draws=50) == paired_bootstrap(a, b, draws=50)
    assert paired_bootstrap(b, read_back, draws=50) == paired_bootstrap(b, a, draws=50)


def test_bootstrap_refuses_different_truths():
    with pytest.raises(SohesError, match=r"it differs in images 2, 3"):
        paired_bootstrap(
            {1: ImageRecall(5.0, 1), 2: ImageRecall(5.0, 1)},
            {1: ImageRecall(5.0, 1), 2: ImageRecall(5.0, 2), 3: ImageRecall(None, 0)},
            seed=0,
            draws=5,
        )
    with pytest.raises(SohesError, match="nothing is annotated"):
        paired_bootstrap({1: ImageRecall(None, 0)}, {1: ImageRecall(None, 0)}, seed=0, draws=5)
