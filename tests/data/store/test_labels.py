import dataclasses
import errno
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from sohes.data.store.labels import (
    ROWS_PER_GROUP,
    LabelStore,
    export_coco,
    export_sa1b,
    iter_records,
    read_shard,
    write_shard,
)
from sohes.errors import SohesError
from sohes.masks import decode, empty_mask_set, mask_set
from sohes.structures import CROWD, ImageRecord

# pycocotools 2.0.11 decodes in a way that numpy 2.4 warns about.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# A whole, a part of it, a part of the part, and something else.
NESTED = np.zeros((4, 6, 8), bool)
NESTED[0, :, :6] = NESTED[1, 1:5, 1:5] = NESTED[2, 2:4, 2:4] = NESTED[3, 0, 7] = True


def record(image_id: int, scores: tuple[float, ...] = (1, 0.5, 0.25, 0.1)) -> ImageRecord:
    masks = mask_set(
        NESTED, scores=np.array(scores), parents=np.array([-1, 0, 1, -1]), sources=["global", "local", "local", CROWD]
    )
    return ImageRecord(image_id, f"sub/ä-{image_id}.jpg", f"sha256:{image_id}", masks)


def empty(image_id: int) -> ImageRecord:
    return ImageRecord(image_id, "empty.jpg", "sha256:0", empty_mask_set(6, 8))


def assert_same(found: ImageRecord, wanted: ImageRecord) -> None:
    assert (found.image_id, found.file_name, found.digest) == (wanted.image_id, wanted.file_name, wanted.digest)
    assert (found.masks.height, found.masks.width) == (wanted.masks.height, wanted.masks.width)
    assert found.masks.rles == wanted.masks.rles
    assert found.masks.sources == wanted.masks.sources
    np.testing.assert_array_equal(found.masks.scores, wanted.masks.scores)
    np.testing.assert_array_equal(found.masks.parents, wanted.masks.parents)
    assert found.masks.scores.dtype == np.float32
    assert found.masks.parents.dtype == np.int64


def test_a_shard_gives_back_its_records(tmp_path: Path) -> None:
    records = [record(3), empty(1), record(2, (0.9, 0.8, 0.7, 0.6))]
    write_shard(tmp_path / "s.parquet", records)
    for found, wanted in zip(read_shard(tmp_path / "s.parquet"), records, strict=True):
        assert_same(found, wanted)
    np.testing.assert_array_equal(decode(read_shard(tmp_path / "s.parquet")[0].masks), NESTED)


def test_scores_of_other_people_are_rounded_to_32_bits(tmp_path: Path) -> None:
    """As docs/formats.md says."""
    close = np.array([0.5, 0.5 + 1e-9, 0.5, 0.5])
    of_others = dataclasses.replace(record(3), masks=dataclasses.replace(record(3).masks, scores=close))
    write_shard(tmp_path / "s.parquet", [of_others])
    assert read_shard(tmp_path / "s.parquet")[0].masks.scores.tolist() == [0.5] * 4


def test_an_image_that_two_shards_hold_is_not_written_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shard(tmp_path / f"shards/{name}.parquet", [record(3)])
    for write in (export_coco, export_sa1b, lambda shards, out: write_shard(out, iter_records(shards))):
        with pytest.raises(SohesError, match="image id 3 occurs twice"):
            write(tmp_path / "shards", tmp_path / "out")
    assert not (tmp_path / "out").is_file()


def test_rows_read_well_without_this_program(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.parquet", [record(3)])
    row = pq.read_table(tmp_path / "s.parquet").to_pylist()[0]
    assert list(row) == ["image_id", "file_name", "height", "width", "digest", "masks"]
    assert row["masks"][1]["area"] == 16
    assert row["masks"][1]["bbox_xywh"] == [1, 1, 4, 4]
    assert [mask["id"] for mask in row["masks"]] == [0, 1, 2, 3]
    assert [mask["parent"] for mask in row["masks"]] == [-1, 0, 1, -1]
    assert [mask["level"] for mask in row["masks"]] == [0, 1, 2, 0]


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_shard(tmp_path / name, (record(i) for i in range(40)))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    write_shard(tmp_path / "two", (record(i, (1, 1, 1, 1)) for i in range(40)))
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()


def test_a_store_reads_single_records_out_of_many_shards(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permutation(5 * ROWS_PER_GROUP).tolist()
    write_shard(tmp_path / "shard-00001.parquet", [record(i) for i in ids[50:]])
    write_shard(tmp_path / "shard-00000.parquet", [empty(i) if i % 7 == 0 else record(i) for i in ids[:50]])
    (tmp_path / ".shard-00002.0123.parquet").write_bytes(b"left behind by a killed writer")
    store = pickle.loads(pickle.dumps(LabelStore(tmp_path)))
    assert len(store) == len(ids)
    assert store.image_ids.tolist() == ids
    assert [found.image_id for found in iter_records(tmp_path)] == ids
    for image_id in (ids[0], ids[49], ids[50], ids[-1], ids[0], 7):
        wanted = empty(image_id) if image_id % 7 == 0 and image_id in ids[:50] else record(image_id)
        assert_same(store.record(image_id), wanted)
    with pytest.raises(SohesError, match="no labels for image 999"):
        store.record(999)


def test_row_groups_of_any_size_are_found_in_any_shard(tmp_path: Path) -> None:
    ids = [30, 4, 17, 9, 22, 1, 8, 60, 2]
    for name, some, rows in (("a", ids[:4], 3), ("b", [], 1), ("c", ids[4:], 2)):
        path = tmp_path / f"{name}.parquet"
        write_shard(path, [record(i) for i in some])
        pq.write_table(pq.read_table(path), path, row_group_size=rows)
    store = LabelStore(tmp_path)
    assert store.image_ids.tolist() == ids
    assert [store.record(i).image_id for i in (*ids, *reversed(ids))] == [*ids, *reversed(ids)]
    assert 17 in store
    assert 3 not in store


def test_one_record_costs_one_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path / "s.parquet", [record(i) for i in range(4 * ROWS_PER_GROUP)])
    store = LabelStore(tmp_path)
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counting(self: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    for image_id in range(ROWS_PER_GROUP, 2 * ROWS_PER_GROUP):
        store.record(image_id)
    assert read == [1]


def interrupted(method, argument, interruption):
    """What the method gives if another thread does `interruption` before each of its lines."""

    def trace(frame, event, _):
        if frame.f_code is not method.__code__:
            return None
        if event == "line":
            interruption()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # is off while `trace` itself runs
    try:
        return method(argument)
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("kept", [0, ROWS_PER_GROUP])
def test_a_thread_gets_its_own_image_whatever_others_ask_for_meanwhile(tmp_path: Path, kept: int) -> None:
    write_shard(tmp_path / "s.parquet", [record(i) for i in range(2 * ROWS_PER_GROUP)])
    store = LabelStore(tmp_path)
    store.record(kept)
    assert interrupted(store.record, 0, lambda: store.record(ROWS_PER_GROUP)).image_id == 0


class IdsDataset:
    def __init__(self, store: LabelStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> int:
        return self.store.record(self.store.image_ids[index]).image_id


def test_a_store_works_in_loader_workers(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.parquet", [record(i) for i in range(40)])
    store = LabelStore(tmp_path)
    store.record(3)  # the parent has read already when it forks
    loader = DataLoader(IdsDataset(store), batch_size=8, num_workers=2)  # type: ignore[arg-type]
    assert [int(i) for batch in loader for i in batch] == list(range(40))


def test_what_is_not_a_shard_of_this_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SohesError, match="no label shards"):
        LabelStore(tmp_path)
    path = tmp_path / "s.parquet"
    path.write_bytes(b"nonsense")
    with pytest.raises(SohesError, match="cannot be read as a label shard"):
        read_shard(path)
    pq.write_table(pa.table({"image_id": [1]}), path)
    with pytest.raises(SohesError, match="schema version none"):
        read_shard(path)
    pq.write_table(pa.table({"image_id": [1]}).replace_schema_metadata({"sohes_labels": "99"}), path)
    with pytest.raises(SohesError, match="schema version 99 but this program reads version 1"):
        LabelStore(tmp_path)


def rewritten(path: Path, change) -> None:
    """The shard with its only row changed, as another program may have written it."""
    table = pq.read_table(path)
    (row,) = table.to_pylist()
    change(row)
    pq.write_table(pa.Table.from_pylist([row], table.schema), path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row["masks"][1].update(rle="02"), "do not fill its size 6 x 8"),
        (lambda row: row["masks"][1].update(rle="b'04'"), "hold letters that run lengths do not have"),
        (lambda row: row["masks"][1].update(rle="hélas"), "hold letters"),
        (lambda row: row["masks"][1].update(rle=None), "a value is missing"),
        (lambda row: row["masks"][2].update(score=float("nan")), "a score is no finite number"),
        (lambda row: row["masks"][2].update(parent=9), r"parents must lie in \[-1, 4\)"),
        (lambda row: row["masks"][0].update(parent=2), "cycle"),
        (lambda row: row.update(height=-6), "height and width"),
        (lambda row: row.update(width=2**31 - 1, height=2**31 - 1), "height and width"),
        (lambda row: row.update(width=9), "do not fill its size 6 x 9"),
        (lambda row: row.update(file_name=None), "a value is missing"),
    ],
)
def test_masks_that_another_program_wrote_pass_the_gate(tmp_path: Path, change, words: str) -> None:
    write_shard(tmp_path / "s.parquet", [record(3)])
    rewritten(tmp_path / "s.parquet", lambda row: None)
    assert_same(read_shard(tmp_path / "s.parquet")[0], record(3))
    rewritten(tmp_path / "s.parquet", change)
    for read in (read_shard, lambda path: LabelStore(path.parent).record(3)):
        with pytest.raises(SohesError, match=rf"s\.parquet: the masks of .* \(image 3\) cannot be read: .*{words}"):
            read(tmp_path / "s.parquet")


def test_a_row_without_an_id_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "s.parquet", [record(3)])
    rewritten(tmp_path / "s.parquet", lambda row: row.update(image_id=None))
    with pytest.raises(SohesError, match=r"s\.parquet .*an image has no id\): write it again"):
        LabelStore(tmp_path)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_shard(path, [record(3)])
    path.write_bytes(path.read_bytes().replace(b"image_id", b"\x80" * 8))
    for read in (read_shard, lambda path: LabelStore(path.parent)):
        with pytest.raises(SohesError, match=r"s\.parquet .*write it again"):
            read(path)


@pytest.mark.parametrize("when", ["opened", "read"])
def test_a_disk_that_fails_is_no_damage_of_a_shard(tmp_path: Path, monkeypatch, when) -> None:
    write_shard(tmp_path / "s.parquet", [record(3)])
    store = LabelStore(tmp_path)
    failing = OSError(errno.EIO, "Error reading bytes from file. Detail: [errno 5] Input/output error")

    def fail(*_, **__):
        raise failing

    monkeypatch.setattr(*((pq, "ParquetFile") if when == "opened" else (pq.ParquetFile, "read_row_group")), fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        store.record(3)
    assert caught.value is failing


def test_other_columns_and_torn_groups_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    write_shard(path, [record(3)])
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["masks"]).replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(SohesError, match="its columns are others"):
        read_shard(path)
    write_shard(path, [record(i) for i in range(40)])
    data = bytearray(path.read_bytes())
    data[200:400] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(SohesError, match="cannot be read as a label shard"):
        read_shard(path)


def test_stated_areas_are_kept_and_leave_other_shards_as_they_were(tmp_path: Path) -> None:
    stated = dataclasses.replace(record(3).masks, stated_areas=np.array([24.5, np.nan, 0, 7]))
    bare = dataclasses.replace(empty(4).masks, stated_areas=np.zeros(0))
    path = tmp_path / "s.parquet"
    write_shard(path, [dataclasses.replace(record(3), masks=stated), dataclasses.replace(empty(4), masks=bare)])
    found = read_shard(path)
    np.testing.assert_array_equal(found[0].masks.stated_areas, stated.stated_areas)
    assert len(found[1].masks.stated_areas) == 0
    write_shard(path, [record(3)])
    assert read_shard(path)[0].masks.stated_areas is None
    assert "stated_area" not in pq.read_table(path).to_pylist()[0]["masks"][0]


def test_an_image_in_two_shards_is_an_error(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", [record(1)])
    write_shard(tmp_path / "b.parquet", [record(2), record(1)])
    with pytest.raises(SohesError, match="holds image 1 twice"):
        LabelStore(tmp_path)


def test_an_error_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_after_one():
        yield record(1)
        raise RuntimeError("the worker's own trouble")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "s.parquet", fails_after_one())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path / "s.parquet", [record(1)])
    assert list(tmp_path.iterdir()) == []


def test_export_to_coco_is_read_by_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_shard(tmp_path / "labels/s.parquet", [record(3), empty(5), record(4)])
    export_coco(tmp_path / "labels", tmp_path / "coco.json")
    coco = COCO(str(tmp_path / "coco.json"))
    assert coco.getImgIds() == [3, 5, 4]
    assert sorted(coco.getAnnIds()) == list(range(1, 9))
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[4]))
    assert [a["parent"] for a in annotations] == [None, 5, 6, None]
    assert [a["iscrowd"] for a in annotations] == [0, 0, 0, 1]
    np.testing.assert_array_equal(coco.annToMask(annotations[1]), NESTED[1])
    export_coco([record(3), empty(5), record(4)], tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "coco.json").read_bytes()
    export_coco([], tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text())["images"] == []


def test_export_to_sa1b_is_one_file_per_image(tmp_path: Path) -> None:
    export_sa1b([record(3), empty(5)], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sa_3.json", "sa_5.json"]
    content = json.loads((tmp_path / "out/sa_3.json").read_text())
    assert content["image"] == {"image_id": 3, "file_name": "sub/ä-3.jpg", "height": 6, "width": 8}
    second = content["annotations"][1]
    assert (second["id"], second["parent"], second["area"], second["predicted_iou"]) == (2, 1, 16, 0.5)
    assert second["segmentation"]["size"] == [6, 8]
