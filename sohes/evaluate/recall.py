"""Class-agnostic average recall and precision as in COCO, without its pitfalls (paper 4, appendix B and C).

Equal to pycocotools to the last digits, by size too, but computed image by image, so 5,000 images of 1,000 masks need
little memory. The same matching also gives what pycocotools does not report: recall per image, per level and of
ancestor pairs.

Shape letters besides those of `structures`: D predicted masks by falling score, G annotated masks, A area ranges,
I IoU thresholds, L levels of the hierarchy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sohes.errors import SohesError
from sohes.evaluate.intervals import DRAWS, SEED, paired_interval
from sohes.evaluate.matching import IOU_THRESHOLDS, crowds, match, ranked_overlaps
from sohes.masks import areas
from sohes.masks.forest import forest_ancestors
from sohes.masks.sizes import SIZES
from sohes.structures import ImageRecord

Records = Iterable[ImageRecord]

RECALL_STEPS = np.linspace(0, 1, 101)  # where the precision curve is sampled
AREA_RANGES = np.array([(0, 1e10), *SIZES.values()])  # all, S, M, L; both ends inclusive
CAPS = (1, 10, 100)
LEVELS = ("whole", "part", "subpart")
RATIOS = ("AR", "AR_S", "AR_M", "AR_L", "AR_1", "AR_10", "AR_100", "ancestor_f1")  # of sums over images


class Side(NamedTuple):
    """How one of two sets of records is called, with its verbs."""

    name: str
    holds: str
    lacks: str


TRUTH, PREDICTIONS = Side("ground truth", "holds", "lacks"), Side("predictions", "hold", "lack")
ON_THE_SAME = "score the same images, because missing ones silently change AR"


class ImageRecall(NamedTuple):
    """One image's contribution to AR: recall in percent (None without annotations) and number of annotated masks."""

    recall: float | None
    truths: int


@dataclass(frozen=True)
class Scores:
    """Figures in percent; None if the ground truth has nothing to measure them with.

    AR: up to `max_masks` masks per image, mean over IoU 0.50:0.05:0.95; _S, _M, _L by COCO's areas; AR_1, AR_10, AR_100
    with at most that many masks per image. AR_whole, AR_part, AR_subpart: recall of annotated masks at depth 0, 1 and
    below (None if the annotation has no hierarchy). Ancestor figures: precision and recall of ancestor relations among
    predicted masks that match an annotated mask at IoU 0.5.
    """

    AR: float | None
    AR_S: float | None
    AR_M: float | None
    AR_L: float | None
    AR_1: float | None
    AR_10: float | None
    AR_100: float | None
    AP: float | None
    AP50: float | None
    AR_whole: float | None
    AR_part: float | None
    AR_subpart: float | None
    ancestor_precision: float | None
    ancestor_recall: float | None
    ancestor_f1: float | None
    masks_per_image: float  # at most max_masks per image
    recall_per_iou: Mapping[str, float | None]  # "0.50", "0.55", ...
    per_image: Mapping[int, ImageRecall]
    ratios: Mapping[str, np.ndarray]  # for RATIOS, (images, 2) in the order of `per_image`: see `evaluate.intervals`

    def row(self) -> dict[str, float | None]:
        """The columns of the result tables."""
        return {name: getattr(self, name) for name in ("AR", "AR_S", "AR_M", "AR_L", "AP")}

    def details(self) -> dict[str, object]:
        """All figures, ready for JSON; `per_image_of` reads `per_image` back."""
        figures = {name: value for name, value in vars(self).items() if name not in ("per_image", "ratios")}
        return figures | {
            "recall_per_iou": dict(self.recall_per_iou),
            "per_image": {str(image): found.recall for image, found in self.per_image.items()},
            "truths_per_image": {str(image): found.truths for image, found in self.per_image.items()},
        }


def per_image_of(details: Mapping) -> dict[int, ImageRecall]:
    """The `per_image` of the scores that wrote `details`."""
    truths = details["truths_per_image"]
    return {int(image): ImageRecall(recall, truths[image]) for image, recall in details["per_image"].items()}


def evaluate_masks(truth: Records, predictions: Records, *, max_masks: int = 1000) -> Scores:
    """Score the `max_masks` most confident masks of each image against the annotated ones, ignoring classes.

    Annotated masks of source `crowd` need not be found, and masks inside them do not count as wrong. Both sides are
    streamed: if they have the same order, one image is in memory at a time.
    SohesError unless both hold the same images in the same frames.
    """
    return summarise(score_images(truth, predictions, max_masks=max_masks))


def score_images(truth: Records, predictions: Records, *, max_masks: int) -> list[ImageResult]:
    """What each image adds to `evaluate_masks`; some of the images may be scored elsewhere."""
    if max_masks < 1:
        raise ValueError(f"max_masks must be at least 1 (got {max_masks})")
    return [_score_image(wanted, found, max_masks) for wanted, found in paired(truth, predictions)]


def paired_bootstrap(
    per_image_a: Mapping[int, ImageRecall],
    per_image_b: Mapping[int, ImageRecall],
    *,
    seed: int = SEED,
    draws: int = DRAWS,
) -> tuple[float, float, float]:
    """(AR of a minus AR of b, low, high) in percentage points, with a 95 % interval by paired bootstrap over images.

    Both runs use the same draws, so images that are hard for both do not widen the interval.
    SohesError unless both were scored on the same ground truth.
    """
    truths_a, truths_b = ({i: found.truths for i, found in run.items()} for run in (per_image_a, per_image_b))
    if truths_a != truths_b:
        other = sorted(i for i in truths_a.keys() | truths_b.keys() if truths_a.get(i) != truths_b.get(i))
        raise SohesError(f"two runs compare only on the same ground truth: it differs in {_some(other)}")
    images = sorted(i for i, truths in truths_a.items() if truths)  # JSON holds them in another order
    if not images:
        raise SohesError("nothing is annotated in any image, so there is no recall to compare")
    truths_N = np.array([truths_a[i] for i in images], float)
    a_N2, b_N2 = (
        np.stack([np.array([run[i].recall or 0 for i in images]) / 100 * truths_N, truths_N], axis=1)
        for run in (per_image_a, per_image_b)
    )
    found = paired_interval(a_N2, b_N2, seed=seed, draws=draws)
    assert found is not None  # every image has a truth
    return found


def paired(
    truth: Records, predictions: Records, *, sides: tuple[Side, Side] = (TRUTH, PREDICTIONS), remedy: str = ON_THE_SAME
) -> Iterator[tuple[ImageRecord, ImageRecord]]:
    """(truth, prediction) of each image. An image that has come on one side only waits for the other.

    SohesError, which ends with the remedy, for an image that only one side has or that one has twice.
    """
    waiting: tuple[dict[int, ImageRecord], dict[int, ImageRecord]] = ({}, {})
    seen: tuple[set[int], set[int]] = (set(), set())
    for pair in itertools.zip_longest(truth, predictions):
        for side, record in enumerate(pair):
            if record is None:
                continue
            if record.image_id in seen[side]:
                name, holds, _ = sides[side]
                raise SohesError(f"the {name} {holds} image {record.image_id} twice: drop one of the two")
            seen[side].add(record.image_id)
            other = waiting[1 - side].pop(record.image_id, None)
            if other is None:
                waiting[side][record.image_id] = record
            else:
                yield (record, other) if side == 0 else (other, record)
    if waiting[0] or waiting[1]:
        lacking = [
            f"the {sides[1 - side].name} {sides[1 - side].lacks} {len(waiting[side])} of {len(seen[side])} images "
            f"of the {sides[side].name} ({_some(sorted(waiting[side]), waiting[side])})"
            for side in (0, 1)
            if waiting[side]
        ]
        raise SohesError(f"{' and '.join(lacking)}: {remedy}")


def _some(image_ids: list[int], records: Mapping[int, ImageRecord] | None = None) -> str:
    """The first few of many images, with their file names if `records` has them."""
    named = [f"{i} = {records[i].file_name}" if records and records[i].file_name else str(i) for i in image_ids[:5]]
    return ("image " if len(image_ids) == 1 else "images ") + ", ".join(named) + (", ..." if len(image_ids) > 5 else "")


@dataclass(frozen=True)
class ImageResult:
    """What one image adds: counts, and the bits of its masks that the precision curve is made of."""

    image_id: int
    scores_D: np.ndarray
    right_ID: np.ndarray  # packed bits along D
    wrong_ID: np.ndarray
    truths_A: np.ndarray
    found_AI: np.ndarray
    found_with_caps: np.ndarray  # (caps, I)
    truths_L: np.ndarray
    found_LI: np.ndarray
    relations: np.ndarray  # right, predicted, annotated


def _score_image(truth: ImageRecord, prediction: ImageRecord, max_masks: int) -> ImageResult:
    wanted, found = truth.masks, prediction.masks
    if (wanted.height, wanted.width) != (found.height, found.width):
        raise SohesError(
            f"image {truth.image_id} is annotated at {wanted.width} x {wanted.height} pixels but its predictions have "
            f"{found.width} x {found.height}: put them into the annotation's frame (EXIF rotation? resizing?)"
        )
    crowd_G = crowds(wanted)
    order_D, iou_DG = ranked_overlaps(wanted, found, max_masks)
    ignored_AG = crowd_G | _outside(areas(wanted, stated=True))
    matched_AID = match(iou_DG, ignored_AG, crowd_G, IOU_THRESHOLDS)

    hit_AID = matched_AID >= 0
    ignored_AID = _outside(areas(found)[order_D])[:, None] & ~hit_AID
    if len(wanted):
        of_match = np.take_along_axis(ignored_AG[:, None], matched_AID.clip(0), axis=2)
        ignored_AID |= of_match & hit_AID
    right_AID = hit_AID & ~ignored_AID
    wrong_AID = ~hit_AID & ~ignored_AID

    ancestors_GG = forest_ancestors(wanted.parents)
    level_G = np.where(crowd_G, -1, ancestors_GG.sum(0).clip(max=len(LEVELS) - 1))
    found_IG = np.zeros((len(IOU_THRESHOLDS), len(wanted)), bool)
    for i, (match_D, right_D) in enumerate(zip(matched_AID[0], right_AID[0], strict=True)):
        found_IG[i, match_D[right_D]] = True
    loose_D = np.where(right_AID[0, 0], matched_AID[0, 0], -1)  # at IoU 0.5
    return ImageResult(
        truth.image_id,
        found.scores[order_D],
        np.packbits(right_AID[0], axis=1),
        np.packbits(wrong_AID[0], axis=1),
        (~ignored_AG).sum(1),
        right_AID.sum(2),
        np.stack([right_AID[0, :, :cap].sum(1) for cap in CAPS]),
        np.array([(level_G == level).sum() for level in range(len(LEVELS))]),
        np.stack([found_IG[:, level_G == level].sum(1) for level in range(len(LEVELS))]),
        _relations(forest_ancestors(found.parents)[np.ix_(order_D, order_D)], ancestors_GG, loose_D, crowd_G),
    )


def _outside(areas_N: np.ndarray) -> np.ndarray:
    """(A, N) bool: whether the area is outside the range."""
    return (areas_N < AREA_RANGES[:, :1]) | (areas_N > AREA_RANGES[:, 1:])


def _relations(
    predicted_DD: np.ndarray, annotated_GG: np.ndarray, match_D: np.ndarray, crowd_G: np.ndarray
) -> np.ndarray:
    """Numbers of ancestor pairs: (right, predicted, annotated). match_D: annotated mask of each prediction, or -1."""
    matched = np.flatnonzero(match_D >= 0)
    predicted = predicted_DD[np.ix_(matched, matched)]
    right = predicted & annotated_GG[np.ix_(match_D[matched], match_D[matched])]
    return np.array([right.sum(), predicted.sum(), annotated_GG[~crowd_G][:, ~crowd_G].sum()])


def summarise(images: Iterable[ImageResult]) -> Scores:
    """The scores of all images together. SohesError if there is none."""
    results = sorted(images, key=lambda result: result.image_id)  # pycocotools breaks ties in this order too
    if not results:
        raise SohesError("there is no image to score: neither the ground truth nor the predictions hold any")
    truths_A, found_AI, found_with_caps, truths_L, found_LI, relations = (
        np.sum([getattr(result, name) for result in results], axis=0)
        for name in ("truths_A", "found_AI", "found_with_caps", "truths_L", "found_LI", "relations")
    )
    truths = int(truths_A[0])
    precision_I = _average_precision(results, truths) if truths else None
    by_area = [_percent(found_I, count) for found_I, count in zip(found_AI, truths_A, strict=True)]
    by_cap = [_percent(found_I, truths) for found_I in found_with_caps]
    by_level: list[float | None] = [None] * len(LEVELS)
    if truths_L[1:].any():
        by_level = [_percent(found_I, count) for found_I, count in zip(found_LI, truths_L, strict=True)]
    right, predicted, annotated = relations
    by_iou = zip(IOU_THRESHOLDS, found_AI[0], strict=True)
    return Scores(
        AR=by_area[0],
        AR_S=by_area[1],
        AR_M=by_area[2],
        AR_L=by_area[3],
        AR_1=by_cap[0],
        AR_10=by_cap[1],
        AR_100=by_cap[2],
        AP=None if precision_I is None else 100 * float(precision_I.mean()),
        AP50=None if precision_I is None else 100 * float(precision_I[0]),
        AR_whole=by_level[0],
        AR_part=by_level[1],
        AR_subpart=by_level[2],
        ancestor_precision=_percent(right, predicted) if annotated else None,
        ancestor_recall=_percent(right, annotated),
        ancestor_f1=_percent(2 * right, predicted + annotated) if annotated else None,
        masks_per_image=sum(len(r.scores_D) for r in results) / len(results),
        recall_per_iou={f"{iou:.2f}": _percent(found, truths) for iou, found in by_iou},
        per_image={
            r.image_id: ImageRecall(_percent(r.found_AI[0], r.truths_A[0]), int(r.truths_A[0])) for r in results
        },
        ratios=_ratios(results),
    )


def _ratios(results: list[ImageResult]) -> dict[str, np.ndarray]:
    """What each image adds to the figures of RATIOS, above and below the line."""
    truths_NA = np.array([r.truths_A for r in results], float)
    found_NA = np.array([r.found_AI.mean(1) for r in results])
    found_with_caps = np.array([r.found_with_caps.mean(1) for r in results])
    right_N, predicted_N, annotated_N = np.array([r.relations for r in results], float).T
    predicted_N = predicted_N * annotated_N.any()  # without annotated relations there is no such figure
    above = [*found_NA.T, *found_with_caps.T, 2 * right_N]
    below = [*truths_NA.T, *[truths_NA[:, 0]] * len(CAPS), predicted_N + annotated_N]
    return {name: np.stack(pair, axis=1) for name, *pair in zip(RATIOS, above, below, strict=True)}


def _percent(found: np.ndarray, of: int) -> float | None:
    return 100 * float(np.mean(found / of)) if of else None


def _average_precision(results: list[ImageResult], truths: int) -> np.ndarray:
    """(I,) mean precision at 101 recalls, the curve made monotone, in [0, 1]."""
    order = np.argsort(-np.concatenate([r.scores_D for r in results]).astype(np.float64), kind="stable")
    precision_I = np.zeros(len(IOU_THRESHOLDS))
    for i in range(len(IOU_THRESHOLDS)):
        right, wrong = (
            np.concatenate([np.unpackbits(getattr(r, name)[i], count=len(r.scores_D)) for r in results])[order].cumsum()
            for name in ("right_ID", "wrong_ID")
        )
        curve = right / (right + wrong + np.spacing(1))
        envelope = np.maximum.accumulate(curve[::-1])[::-1]
        places = np.searchsorted(right / truths, RECALL_STEPS, side="left")
        precision_I[i] = np.append(envelope, 0)[places].mean()  # a recall that is not reached has precision 0
    return precision_I
