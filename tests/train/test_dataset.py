import errno
import io
import multiprocessing
from contextlib import closing

import numpy as np
import pytest
import torch
from packing import pack_images
from PIL import Image

from sohes import masks
from sohes.data.store.images import ImageStore
from sohes.data.store.labels import LabelStore, write_shard
from sohes.errors import SohesError, TemporaryError
from sohes.masks import forest
from sohes.params import AugmentParams
from sohes.project import Project
from sohes.structures import ImageRecord
from sohes.train import dataset
from sohes.train.dataset import LabelDataset, PairDataset
from sohes.train.loading import load, positions

AUGMENT = AugmentParams(scale_min=0.8, scale_max=1.4, colour_jitter=0.3, greyscale=0.1, blur=0.1, copy_paste=0.5)


def make_project(root, *, count=6, wrong=(), damaged=()):
    """`count` images of 32 x 48 with a root, a part and a second root. wrong: labels of another size."""
    rng = np.random.default_rng(0)
    entries, records = [], []
    for image_id in range(1, count + 1):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 48, 3), np.uint8)).save(file, "PNG")
        entries.append((image_id, f"{image_id}.png", file.getvalue()))
        shown = np.zeros((3, 30 if image_id in wrong else 32, 48), bool)
        shown[0, 2:20, 2:20], shown[1, 4:12, 4:12], shown[2, 4:28, 26:40] = True, True, True
        records.append(ImageRecord(image_id, f"{image_id}.png", "", masks.mask_set(shown, parents=[-1, 0, -1])))
    limits = {"images_per_shard": 100, "max_megapixels": 1, "max_rejected_fraction": 0}
    pack_images(entries, root / "images", apply_exif=False, **limits)
    for image_id in damaged:
        tar = next((root / "images").glob("*.tar"))
        entry = ImageStore(root / "images").entry(image_id)
        data = bytearray(tar.read_bytes())
        data[entry.offset : entry.offset + entry.size] = bytes(entry.size)
        tar.write_bytes(data)
    (root / "labels").mkdir()
    write_shard(root / "labels/shard-00000.parquet", records)


def open_dataset(root, kind=LabelDataset, **changes):
    settings = {
        "image_size": 64,
        "max_targets": 40,
        "augment": AUGMENT,
        "normalisation": ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)),
        "batch_size": 4,
        "seed": 0,
    }
    return kind(ImageStore(root / "images"), LabelStore(root / "labels"), **(settings | changes))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    make_project(root)
    return root


def test_an_epoch_shows_every_image_once_and_epochs_differ(project):
    dataset = open_dataset(project)
    shown = [dataset.sample_for(*divmod(i, 4)).image_id for i in range(12)]
    assert sorted(shown[:6]) == sorted(shown[6:]) == [1, 2, 3, 4, 5, 6]
    assert shown[:6] != shown[6:]


def test_samples_depend_on_their_position_and_the_seed_alone(project):
    one, again = open_dataset(project), open_dataset(project)
    again.sample_for(0, 0)  # what was read before does not matter
    a, b = one.sample_for(3, 2), again.sample_for(3, 2)
    assert np.array_equal(a.shown.image_HW3, b.shown.image_HW3)
    assert np.array_equal(a.shown.masks_NHW, b.shown.masks_NHW)
    other = open_dataset(project, seed=1).sample_for(3, 2)
    assert not np.array_equal(a.shown.image_HW3, other.shown.image_HW3)


def test_phase_3_does_not_begin_with_the_samples_of_phase_2(tmp_path, tiny):
    """The same images, labels and augmentation, and one seed for both."""
    make_project(tmp_path / "data", count=40)
    (tmp_path / "data/labels").rename(tmp_path / "data/pseudo_labels")
    shape = {"image_size": 64, "normalisation": ((0.5,) * 3, (0.25,) * 3), "seed": 0}
    project = Project(tmp_path)
    second = dataset.open_dataset(LabelDataset, project, tiny.instruct, **shape)
    third = dataset.open_dataset(PairDataset, project, tiny.correct, **shape)
    drawn = [[of_phase.sample_for(0, k) for k in range(8)] for of_phase in (second, third)]
    same = [np.array_equal(a.shown.image_HW3, b.shown.image_HW3) for a, b in zip(*drawn, strict=True)]
    assert not any(same)
    assert [sample.image_id for sample in drawn[0]] != [sample.image_id for sample in drawn[1]]


def test_a_batch_has_normalised_images_and_their_forests(project):
    dataset = open_dataset(project, augment=AUGMENT.model_copy(update={"copy_paste": 1.0}))
    samples = [dataset.sample_for(0, k) for k in range(4)]
    batch = dataset.collate(samples).batch.to("cpu")
    assert batch.images_B3HW.shape == (4, 3, 64, 64)
    assert batch.images_B3HW.is_contiguous()
    red = samples[1].shown.image_HW3[5, 6, 0]
    assert batch.images_B3HW[1, 0, 5, 6].item() == pytest.approx((red / 255 - 0.5) / 0.2, abs=1e-4)
    for targets, sample in zip(batch.targets, samples, strict=True):
        assert targets.masks_THW.dtype == targets.ancestors_TT.dtype == torch.bool
        assert len(targets.masks_THW) == len(targets.ancestors_TT) > 0
        assert np.array_equal(targets.ancestors_TT.numpy(), forest.forest_ancestors(sample.shown.parents_N))
    assert any(targets.ancestors_TT.any() for targets in batch.targets)


def test_at_most_max_targets_masks(project):
    quiet = AUGMENT.model_copy(update={"copy_paste": 0.0})
    dataset = open_dataset(project, max_targets=2, augment=quiet)
    assert max(len(dataset.sample_for(0, k).shown.masks_NHW) for k in range(4)) == 2


@pytest.mark.parametrize("max_targets", [1, 2, 3, 4])
def test_what_is_pasted_counts_among_max_targets(project, max_targets):
    pasted = AUGMENT.model_copy(update={"copy_paste": 1.0, "scale_min": 1.0, "scale_max": 1.0})
    everything = open_dataset(project, augment=pasted)
    few = open_dataset(project, max_targets=max_targets, augment=pasted)
    counts = [[len(each.sample_for(step, 0).shown.masks_NHW) for step in range(16)] for each in (everything, few)]
    assert max(counts[0]) > 4
    assert max(counts[1]) == max_targets
    third = open_dataset(project, PairDataset, max_targets=max_targets, augment=pasted)
    assert max(len(third.pair_for(step, 0).strong.masks_NHW) for step in range(16)) == min(max_targets, 2)


@pytest.mark.parametrize("kind", [LabelDataset, PairDataset])
def test_what_is_pasted_comes_from_another_image(project, kind, monkeypatch):
    dataset = open_dataset(project, kind, augment=AUGMENT.model_copy(update={"copy_paste": 1.0}))
    hosts, guests = [], []
    drawn, read = dataset._guest, dataset._read
    monkeypatch.setattr(dataset, "_guest", lambda host, rng: (hosts.append(host), drawn(host, rng))[1])
    monkeypatch.setattr(dataset, "_read", lambda image_id: (guests.append(image_id), read(image_id))[1])
    draw = dataset.pair_for if kind is PairDataset else dataset.sample_for
    pairs = set()
    for step in range(40):
        hosts.clear(), guests.clear()
        sample = draw(step, 0)
        assert hosts == [sample.image_id] == guests[:1]
        pairs.add(tuple(guests))
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in pairs)
    assert {guest for _, guest in pairs} == {1, 2, 3, 4, 5, 6}


def test_what_is_pasted_is_never_drawn_at_the_size_of_its_photograph(project, monkeypatch):
    monkeypatch.setattr(masks, "decode", None)
    pasted = open_dataset(project, augment=AUGMENT.model_copy(update={"copy_paste": 1.0}))
    assert max(len(pasted.sample_for(step, 0).shown.masks_NHW) for step in range(8)) > 3


@pytest.mark.parametrize(("count", "wrong"), [(1, []), (3, [2, 3])])
def test_nothing_is_pasted_where_no_other_image_can_be_read(tmp_path, count, wrong):
    make_project(tmp_path, count=count, wrong=wrong)
    pasted = AUGMENT.model_copy(update={"copy_paste": 1.0})
    samples = [open_dataset(tmp_path, augment=pasted).sample_for(step, 0) for step in range(6)]
    assert {sample.image_id for sample in samples} == {1}
    assert max(len(sample.shown.masks_NHW) for sample in samples) <= 3
    pairs = [open_dataset(tmp_path, PairDataset, augment=pasted).pair_for(step, 0) for step in range(6)]
    assert not any(len(pair.strong.masks_NHW) for pair in pairs)


def test_masks_that_the_view_does_not_show_take_no_ones_place(project):
    quiet = AUGMENT.model_copy(update={"copy_paste": 0.0, "scale_min": 2.5, "scale_max": 2.5})
    everything = open_dataset(project, augment=quiet)
    few = open_dataset(project, max_targets=2, augment=quiet)
    shown = [[len(dataset.sample_for(step, 0).shown.masks_NHW) for step in range(24)] for dataset in (everything, few)]
    assert any(len(few.labels.record(i).masks) > 2 for i in few.image_ids)
    assert shown[1] == [min(count, 2) for count in shown[0]]
    assert max(shown[0]) >= 2


def test_a_bad_record_is_named_and_the_next_one_takes_its_place(tmp_path):
    make_project(tmp_path, wrong=[2], damaged=[5])
    dataset = open_dataset(tmp_path, augment=AUGMENT.model_copy(update={"copy_paste": 0.0}))
    samples = [dataset.sample_for(*divmod(i, 4)) for i in range(6)]
    assert {s.image_id for s in samples} == {1, 3, 4, 6}
    reasons = [reason for s in samples for reason in s.skipped]
    assert any(r.startswith("image 2:") and "30 x 48" in r and "32 x 48" in r for r in reasons)
    assert any(r.startswith("image 5:") for r in reasons)
    assert dataset.collate(samples).skipped == tuple(reasons)


class Unreadable:
    """Images and labels that fail with one error; `tried` counts the reads."""

    def __init__(self, count, error):
        self.image_ids, self.error, self.tried = list(range(count)), error, 0

    def record(self, image_id):
        return None

    def read(self, image_id):
        self.tried += 1
        raise self.error


def unreadable(count, error, kind=LabelDataset):
    store = Unreadable(count, error)
    return kind(
        store, store, image_size=32, max_targets=10, augment=AUGMENT, normalisation=((0.5,) * 3, (0.2,) * 3),
        batch_size=4, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [LabelDataset, PairDataset])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fails_is_no_fault_of_an_image(kind, workers):
    lost = unreadable(100, OSError(errno.EIO, "Input/output error", "/mnt/images-00000.tar"), kind)
    where = positions(start=0, steps=1, batch_size=4, accumulate=1, rank=0, world_size=1)
    said = r"^image \d+ could not be read \(.*Input/output error.*images-00000.tar.*\): see that its disk is there, .*$"
    with pytest.raises(TemporaryError, match=said) as caught:
        next(load(lost, where, workers=workers))
    assert len(str(caught.value).splitlines()) == 1
    assert lost.images.tried == (0 if workers else 1)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("kind", [LabelDataset, PairDataset])
def test_many_bad_images_in_a_row_end_the_search(kind):
    lost = unreadable(100_000, SohesError("images-00000.tar is missing: run `sohes pull` again"), kind)
    said = r"^64 labelled images in a row cannot be used; the last one: image \d+: images-00000.tar is missing"
    with pytest.raises(SohesError, match=said):
        lost[0, 0]
    assert lost.images.tried == 64


def test_no_good_record_at_all_is_an_error(tmp_path):
    make_project(tmp_path, count=2, wrong=[1, 2])
    with pytest.raises(SohesError, match="none of 2 labelled images"):
        open_dataset(tmp_path).sample_for(0, 0)
    for workers in (0, 1):
        where = positions(start=0, steps=1, batch_size=4, accumulate=1, rank=0, world_size=1)
        with pytest.raises(SohesError, match=r"^none of 2 labelled images can be used; the last one: image [^\n]*$"):
            next(load(open_dataset(tmp_path), where, workers=workers))
    assert multiprocessing.active_children() == []  # one left would keep the process from ending


def test_a_loader_that_is_closed_half_way_leaves_no_worker(project):
    where = positions(start=0, steps=50, batch_size=4, accumulate=1, rank=0, world_size=1)
    with closing(load(open_dataset(project), where, workers=1)) as batches:
        next(batches)
        assert len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []


def test_a_pair_is_two_views_of_one_image(project):
    dataset = open_dataset(project, PairDataset, augment=AUGMENT.model_copy(update={"copy_paste": 0.0}))
    pair = dataset.pair_for(1, 1)
    image = dataset.images.read(pair.image_id)
    assert np.array_equal(pair.weak_HW3, pair.weak.apply_to_image(image))
    assert len(pair.strong.masks_NHW) == 0  # the teacher gives the masks
    assert pair.strong_view.height == 32
    pasted = open_dataset(project, PairDataset, augment=AUGMENT.model_copy(update={"copy_paste": 1.0}))
    assert any(len(pasted.pair_for(0, k).strong.masks_NHW) for k in range(4))


def test_pairs_come_in_another_order_than_the_labelled_samples(project):
    dataset = open_dataset(project, PairDataset)
    both = [(s.image_id, p.image_id) for s, p in (dataset[divmod(i, 4)] for i in range(6))]
    assert sorted(a for a, _ in both) == sorted(b for _, b in both) == [1, 2, 3, 4, 5, 6]
    assert any(a != b for a, b in both)


@pytest.mark.parametrize("kind", [LabelDataset, PairDataset])
def test_workers_load_the_same_batches(project, kind):
    dataset = open_dataset(project, kind, keep_labels=True)

    def batches(workers):
        where = positions(start=0, steps=2, batch_size=4, accumulate=1, rank=0, world_size=1)
        return [loaded.batch.to("cpu") for loaded in load(dataset, where, workers=workers)]

    for here, there in zip(batches(0), batches(2), strict=True):
        if kind is PairDataset:
            assert torch.equal(here.strong_B3HW, there.strong_B3HW)
            assert all(torch.equal(p.labels_LSS, q.labels_LSS) for p, q in zip(here.pairs, there.pairs, strict=True))
            assert any(len(p.labels_LSS) for p in here.pairs)
            assert [p.strong_view for p in here.pairs] == [p.strong_view for p in there.pairs]
            here, there = here.initial, there.initial
        assert torch.equal(here.images_B3HW, there.images_B3HW)
        assert here.image_ids == there.image_ids
        for a, b in zip(here.targets, there.targets, strict=True):
            assert torch.equal(a.masks_THW, b.masks_THW)
