"""The training data of phases 2 and 3: labelled images, read, augmented and collated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from sohes import masks
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore
from sohes.errors import SohesError, TemporaryError, is_the_machines
from sohes.masks import forest
from sohes.masks.windows import Box
from sohes.params import AugmentParams, CorrectParams, InstructParams, TilesParams
from sohes.project import Project, require
from sohes.structures import Batch, ImageRecord, MaskSet, Movable, Targets
from sohes.train import augment
from sohes.train.augment import Guest, Labelled, View
from sohes.train.bits import Bits
from sohes.train.loading import Loaded, Position, from_epochs, normalised, normalised_tensor, stage_seed
from sohes.train.tiles import NO_TILES, Tiles, cut_tiles
from sohes.work.files import digest_file

PASTED_AREA = (0.002, 0.3)  # of its image: a speck teaches nothing, and a background would cover the whole host
_RECORDS_KEPT = 1024  # in each worker's memory: small data sets are read once; with 170 masks each, 45 MB
_MOST_FAILURES = 64  # images in a row: a data set with so many bad ones has been lost or swapped as a whole
_ORDER, _INITIAL, _PAIR = range(3)  # independent random streams
T = TypeVar("T")
Kind = TypeVar("Kind", bound="LabelDataset")


@dataclass(frozen=True)
class Sample:
    """A strong view and its labels. skipped: `name: reason` of records that could not be used."""

    shown: Labelled
    image_id: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Phase 3's second branch: a weak view for the teacher and a strong one for the student, of one image.

    strong: its masks are only those pasted from another image.  tiles: windows of the weak view for the teacher.
    labels_LSS: bool, the image's own labels in the weak view, of those that the strong one shows; none without
    `keep_labels`. Until the batch is moved they are `Bits`. What is a few pixels wide there loses its outline, but
    only there can labels be compared with all that the teacher sees.
    place: in the step's batch.
    """

    weak_HW3: np.ndarray
    weak: View
    strong: Labelled
    strong_view: View
    labels_LSS: torch.Tensor
    image_id: int
    place: int
    skipped: tuple[str, ...]
    tiles: Tiles = NO_TILES

    @property
    def shown(self) -> Box:
        """The part of the weak view that the strong one shows."""
        return augment.shared_box(self.weak, self.strong_view)


@dataclass(frozen=True)
class PairBatch(Movable):
    """Both branches of phase 3. initial: strong views with the initial labels. weak_B3HW, strong_B3HW: normalised.

    tiles_USS3: uint8, the squares of all pairs' tiles one after another; None without any. normalisation: mean and std.
    """

    initial: Batch
    weak_B3HW: torch.Tensor
    strong_B3HW: torch.Tensor
    pairs: tuple[Pair, ...] = field(default=())
    tiles_USS3: torch.Tensor | None = None
    normalisation: tuple[Sequence[float], Sequence[float]] = ((), ())

    def tiles_U3SS(self, some: slice = slice(None)) -> torch.Tensor | None:
        """Squares of the tiles, normalised where they lie: as bytes they are a quarter as long on their way."""
        return None if self.tiles_USS3 is None else normalised_tensor(self.tiles_USS3[some], *self.normalisation)


class LabelDataset(Dataset):
    """Strong views of the labelled images, by position: `dataset[step, k]` is sample k of a step's batch.

    A record that cannot be used is named in the sample's `skipped` and the next one in the order takes its place;
    SohesError if none is left, or after _MOST_FAILURES in a row; TemporaryError if the machine cannot read it.
    normalisation: mean and std of RGB in [0, 1], three numbers each.
    tiles: what the teacher of phase 3 sees besides.  keep_labels: as in `CorrectParams`.
    """

    def __init__(
        self,
        images: ImageStore,
        labels: LabelStore,
        *,
        image_size: int,
        max_targets: int,
        augment: AugmentParams,
        normalisation: tuple[Sequence[float], Sequence[float]],
        batch_size: int,
        seed: int,
        tiles: TilesParams | None = None,
        keep_labels: bool = False,
    ) -> None:
        self.tiles, self.keep_labels = tiles, keep_labels
        self.images, self.labels = images, labels
        self.image_size, self.max_targets, self.augmentation = image_size, max_targets, augment
        self.mean, self.std = (tuple(float(v) for v in part) for part in normalisation)
        self.batch_size, self.seed = batch_size, seed
        self.image_ids = labels.image_ids
        self._records: dict[int, ImageRecord] = {}
        if not len(self.image_ids):
            raise SohesError("there are no labelled images to train on: run `sohes explore` first")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, position: Position) -> Sample:
        return self.sample_for(*position)

    def sample_for(self, step: int, k: int) -> Sample:
        """Sample k of the batch of `step`."""
        rng = np.random.default_rng((self.seed, _INITIAL, step, k))
        (record, image), skipped = _first(self._candidates(_INITIAL, step, k), self._read)
        guest, skipped_guests = self._guest(record.image_id, rng)
        view = self._strong_geometry(image, rng)
        chosen = self._chosen(record.masks, view, rng)
        shown = Labelled(view.apply_to_image(image), view.draw(chosen), chosen.parents)
        strong = self._augmented(shown, view, rng, guest)
        return Sample(strong, record.image_id, skipped + skipped_guests)

    def collate(self, samples: Sequence[Sample]) -> Loaded:
        return Loaded(self._batch(samples), tuple(reason for s in samples for reason in s.skipped))

    def _batch(self, samples: Sequence[Sample]) -> Batch:
        return Batch(
            normalised([s.shown.image_HW3 for s in samples], self.mean, self.std),
            tuple(targets_of(s.shown) for s in samples),
            tuple(s.image_id for s in samples),
        )

    def _candidates(self, stream: int, step: int, k: int) -> Iterator[int]:
        """The image of a position, and those that take its place, in turn, if it cannot be used."""
        order = from_epochs(step * self.batch_size + k, len(self), self.seed, _ORDER, stream)
        return (int(self.image_ids[i]) for i in order)

    def _chosen(self, labels: MaskSet, view: View, rng: np.random.Generator) -> MaskSet:
        """At most `max_targets` of the masks whose box the view shows. What is left out counts as no entity."""
        seen = np.flatnonzero(view.shows(masks.boxes_xywh(labels)))
        kept = augment.sample_across_scales(masks.areas(labels)[seen], self.max_targets, rng=rng)
        return forest.select(labels, seen[kept])

    def _strong_geometry(self, image_HW3: np.ndarray, rng: np.random.Generator) -> View:
        low, high = self.augmentation.scale_min, self.augmentation.scale_max
        size = self.image_size
        return augment.strong_geometry(*image_HW3.shape[:2], size=size, scale_min=low, scale_max=high, rng=rng)

    def _augmented(self, shown: Labelled, view: View, rng: np.random.Generator, guest: Guest | None) -> Labelled:
        return augment.augmented(shown, view, self.augmentation, max_targets=self.max_targets, rng=rng, guest=guest)

    def _read(self, image_id: int) -> tuple[ImageRecord, np.ndarray]:
        record, image = self._record(image_id), self.images.read(image_id)
        labelled = (record.masks.height, record.masks.width)
        if image.shape[:2] != labelled:
            raise ValueError(
                f"the labels are for {labelled[0]} x {labelled[1]} pixels, the image has "
                f"{image.shape[0]} x {image.shape[1]}"
            )
        return record, image

    def _record(self, image_id: int) -> ImageRecord:
        if image_id not in self._records:
            if len(self._records) == _RECORDS_KEPT:
                self._records.pop(next(iter(self._records)))
            self._records[image_id] = self.labels.record(image_id)
        return self._records[image_id]

    def _guest(self, host: int, rng: np.random.Generator) -> tuple[Guest | None, tuple[str, ...]]:
        """With probability `copy_paste`: a root of another image, with its descendants."""
        if rng.random() >= self.augmentation.copy_paste:
            return None, ()
        (record, image), skipped = _first(self._others(host, rng), self._read)
        if record.image_id == host:
            return None, skipped
        areas = masks.areas(record.masks)
        low, high = (fraction * image.shape[0] * image.shape[1] for fraction in PASTED_AREA)
        roots = np.flatnonzero((record.masks.parents < 0) & (areas >= low) & (areas <= high))
        if not len(roots):
            return None, skipped
        chosen = forest.select(record.masks, augment.subtree(record.masks.parents, int(rng.choice(roots))))
        return Guest.cut_out(image, chosen), skipped

    def _others(self, host: int, rng: np.random.Generator) -> Iterator[int]:
        """The images from a random one on, the host last: it can be read, also where no other can."""
        count = len(self)
        start = int(rng.integers(count))
        while count > 1 and self.image_ids[start] == host:
            start = int(rng.integers(count))
        in_turn = (int(self.image_ids[(start + i) % count]) for i in range(count))
        return chain((image_id for image_id in in_turn if image_id != host), [host])


class PairDataset(LabelDataset):
    """Phase 3: `dataset[step, k]` is a sample with its initial labels, and a weak and a strong view of another image.

    The second image comes from its own shuffled order, so that both branches see every image.
    """

    def __getitem__(self, position: Position) -> tuple[Sample, Pair]:  # type: ignore[override]
        return self.sample_for(*position), self.pair_for(*position)

    def pair_for(self, step: int, k: int) -> Pair:
        """Image k of the second branch of `step`."""
        rng = np.random.default_rng((self.seed, _PAIR, step, k))
        (record, image), skipped = _first(self._candidates(_PAIR, step, k), self._read)
        weak = augment.weak_view(*image.shape[:2], size=self.image_size, rng=rng)
        strong = self._strong_geometry(image, rng)
        guest, skipped_guests = self._guest(record.image_id, rng)
        no_masks = Labelled(strong.apply_to_image(image), np.zeros((0, *strong.canvas_hw), bool), np.zeros(0, np.int64))
        pasted = self._augmented(no_masks, strong, rng, guest)
        tiles = NO_TILES if self.tiles is None else cut_tiles(image, weak, augment.shared_box(weak, strong), self.tiles)
        labels = self._chosen(record.masks, strong, rng) if self.keep_labels else masks.empty_mask_set(*image.shape[:2])
        return Pair(
            weak.apply_to_image(image),
            weak,
            pasted,
            strong,
            Bits.of(weak.draw(labels)),  # type: ignore[arg-type]
            record.image_id,
            k,
            skipped + skipped_guests,
            tiles,
        )

    def collate(self, samples: Sequence[tuple[Sample, Pair]]) -> Loaded:  # type: ignore[override]
        initial, pairs = zip(*samples, strict=True)
        squares = [square for pair in pairs for square in pair.tiles.squares]
        batch = PairBatch(
            self._batch(initial),
            normalised([p.weak_HW3 for p in pairs], self.mean, self.std),
            normalised([p.strong.image_HW3 for p in pairs], self.mean, self.std),
            tuple(replace(p, tiles=replace(p.tiles, squares=())) for p in pairs),  # a worker sends the squares once
            torch.from_numpy(np.stack(squares)) if squares else None,
            (self.mean, self.std),
        )
        return Loaded(batch, tuple(reason for s in (*initial, *pairs) for reason in s.skipped))


def targets_of(shown: Labelled) -> Targets:
    """A labelled square as the target of the network, its masks packed until it is moved to a device."""
    ancestors = forest.forest_ancestors(shown.parents_N)
    return Targets(Bits.of(shown.masks_NHW), torch.from_numpy(ancestors))  # type: ignore[arg-type]


def _first(candidates: Iterator[int], read: Callable[[int], T]) -> tuple[T, tuple[str, ...]]:
    """The first candidate that `read` can read, read, and the reasons why those before it cannot be."""
    skipped: list[str] = []
    for image_id in candidates:
        try:
            return read(image_id), tuple(skipped)
        except (SohesError, OSError, ValueError, KeyError) as error:
            if is_the_machines(error):
                raise TemporaryError(
                    f"image {image_id} could not be read ({' '.join(str(error).split())}): see that its disk is there, "
                    "and run the same command again, which continues from the last checkpoint"
                ) from error
            skipped.append(f"image {image_id}: {error}")
        if len(skipped) == _MOST_FAILURES:
            raise SohesError(
                f"{len(skipped)} labelled images in a row cannot be used; the last one: {skipped[-1]}; see that images "
                "and labels are where they were and belong together"
            )
    raise SohesError(f"none of {len(skipped)} labelled images can be used; the last one: {skipped[-1]}")


# ---------------------------------------------------------------- in a project


def open_dataset(
    kind: type[Kind],
    project: Project,
    section: InstructParams | CorrectParams,
    *,
    image_size: int,
    normalisation: tuple[Sequence[float], Sequence[float]],
    seed: int,
) -> Kind:
    """The labelled training images of a project, as the section's phase draws them with the seed of the params.

    SohesError if it has no images or no labels.
    """
    manifest, labels = _inputs(project)
    correct = section if isinstance(section, CorrectParams) else None
    return kind(
        ImageStore(manifest.parent),
        LabelStore(labels),
        image_size=image_size,
        max_targets=section.max_targets,
        augment=section.augment,
        normalisation=normalisation,
        batch_size=section.batch_size,
        seed=stage_seed(seed, "correct" if correct else "instruct"),
        tiles=correct.tiles if correct else None,
        keep_labels=correct.keep_labels if correct else False,
    )


def input_digests(project: Project, start: str) -> dict[str, str]:
    """Digests of what training reads: images, pseudo-labels, and the model `start`. SohesError if one is missing."""
    manifest, labels = _inputs(project)
    model = require(project.model(start), "backbone" if start == "backbone" else "model", start)
    shards = hashlib.sha256()
    for shard in sorted(labels.glob("*.parquet")):
        shards.update(f"{shard.name} {digest_file(shard)}\n".encode())
    return {"images": digest_file(manifest), "labels": f"sha256:{shards.hexdigest()}", start: digest_file(model)}


def _inputs(project: Project) -> tuple[Path, Path]:
    """The manifest of the training images, and the folder of their labels."""
    manifest = require(project.images_manifest, "images", "pull")
    return manifest, require(project.pseudo_labels, "pseudo-labels", "explore")
