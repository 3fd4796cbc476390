import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sohes.data.sources.archives import ArchivesSource
from sohes.data.sources.source import IDS_PER_PACK, Pack
from sohes.data.sources.transfer import Patience
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError

HASTY = Patience(attempts=3, first_wait=0.01, longest_wait=0.02, timeout=2)


def photo(value: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((10, 20, 3), value % 256, np.uint8)).save(data, "JPEG")
    return data.getvalue()


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.fixture
def coco_zips(web: SimpleNamespace) -> SimpleNamespace:
    """COCO's layout in miniature: train, val, and a separate zip of annotations."""
    write_zip(web.folder / "train2017.zip", {f"train2017/{i:012d}.jpg": photo(i) for i in range(1, 11)})
    write_zip(web.folder / "val2017.zip", {f"val2017/{i:012d}.jpg": photo(i) for i in (139, 285, 632)})
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "height": 10, "width": 20} for i in (139, 285, 724)]
    square = {"id": 1, "image_id": 139, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "iscrowd": 0}
    content = json.dumps({"images": images, "annotations": [square]}).encode()
    write_zip(web.folder / "annotations.zip", {"annotations/instances_val2017.json": content, "captions.json": b""})
    return web


def source_of(web: SimpleNamespace, **values: object) -> ArchivesSource:
    fields = {
        "images": (f"{web.url}/train2017.zip",),
        "eval": (f"{web.url}/val2017.zip",),
        "annotations": f"{web.url}/annotations.zip#annotations/instances_val2017.json",
        "eval_fraction": 0.0,
        "digests": None,
        "patience": HASTY,
    }
    return ArchivesSource(**(fields | values))


def everything(source: ArchivesSource, folder: Path) -> dict[bool, list]:
    found: dict[bool, list] = {False: [], True: []}
    for pack in source.plan().packs:
        source.fetch(pack, folder / pack.name)
        for held_out in found:
            found[held_out] += list(source.members(pack, folder / pack.name, held_out=held_out))
    return found


def test_annotated_photographs_keep_their_ids_and_the_others_are_numbered(coco_zips, tmp_path):
    found = everything(source_of(coco_zips), tmp_path)
    assert [m.image_id for m in found[False]] == list(range(1, 11))
    assert {m.truth for m in found[False]} == {None}
    evaluation = {m.image_id: m for m in found[True]}
    assert list(evaluation) == [139, 285, 724]
    assert len(evaluation[139].truth) == 1
    assert len(evaluation[285].truth) == 0
    assert evaluation[139].data == photo(139)
    assert isinstance(evaluation[724].data, UnreadableImage)
    assert evaluation[724].data.reason == "annotated, but not in val2017.zip"


def test_names_of_another_tool_are_found_in_the_archive(web, tmp_path):
    files = {"val/a/1.jpg": photo(1), "val/b/1.jpg": photo(2), "val/c/2.JPG": photo(3), "val/d/4.jpg": photo(4)}
    write_zip(web.folder / "val2017.zip", files)
    names = ["D:\\val\\b\\1.jpg", "A/1.jpg", "2.jpg", "x/4.jpg"]
    images = [{"id": i, "file_name": name, "height": 10, "width": 20} for i, name in enumerate(names)]
    (web.folder / "a.json").write_text(json.dumps({"images": images, "annotations": []}))
    source = source_of(web, images=(), eval=(f"{web.url}/val2017.zip",), annotations=f"{web.url}/a.json")
    pack = Pack(0, "val2017.zip", held_out=True)
    source.fetch(pack, tmp_path)
    found = {m.image_id: m.data for m in source.members(pack, tmp_path, held_out=True)}
    assert [found[i] for i in range(3)] == [photo(2), photo(1), photo(3)]
    assert found[3].reason == "annotated, but not in val2017.zip"  # d/4.jpg is another than x/4.jpg


def test_without_annotations_a_fraction_is_held_out_and_ids_do_not_depend_on_it(coco_zips, tmp_path):
    found = everything(source_of(coco_zips, annotations=None, eval=(), eval_fraction=0.5), tmp_path)
    assert found[True]
    ids = {m.file_name: m.image_id for m in found[False] + found[True]}
    assert ids == {f"train2017.zip/train2017/{i:012d}.jpg": i for i in range(1, 11)}
    second = everything(source_of(coco_zips, annotations=None), tmp_path)[True]
    assert [m.image_id for m in second] == [IDS_PER_PACK + i for i in (1, 2, 3)]


def test_local_files_work_too(coco_zips, tmp_path):
    local = source_of(coco_zips, images=(str(coco_zips.folder / "train2017.zip"),), eval=(), annotations=None)
    assert len(everything(local, tmp_path)[False]) == 10
    before = local.plan()
    write_zip(coco_zips.folder / "train2017.zip", {"x.jpg": photo(1)})
    assert local.plan() != before
    assert coco_zips.faults.paths == []


def test_digests_are_checked(coco_zips, tmp_path):
    (tmp_path / "digests").write_text(f"{'0' * 64}  train2017.zip\n")
    with pytest.raises(SohesError, match=r"train2017\.zip has the digest .*, but .* was expected, twice"):
        everything(source_of(coco_zips, digests=tmp_path / "digests"), tmp_path)
    (tmp_path / "digests").write_text("not a digest\n")
    with pytest.raises(SohesError, match="line 1: expected 64 hexadecimal digits"):
        everything(source_of(coco_zips, digests=tmp_path / "digests"), tmp_path)


def test_names_in_paths_are_as_they_are_written(tmp_path):
    for name in ("trip#1.zip", "trip?2.zip", "50%25.zip"):
        write_zip(tmp_path / name, {"a/1.jpg": photo(1), "__MACOSX/a/._1.jpg": b"twin", ".trash/2.jpg": b"hidden"})
    images = [{"id": 7, "file_name": "1.jpg", "height": 10, "width": 20}]
    (tmp_path / "truth#2.json").write_text(json.dumps({"images": images, "annotations": []}))
    write_zip(tmp_path / "truth#1.zip", {"in#side.json": (tmp_path / "truth#2.json").read_bytes()})
    here = {"images": tuple(str(tmp_path / name) for name in ("trip#1.zip", "trip?2.zip")), "digests": None}
    for annotations in ("truth#2.json", "truth#1.zip#in#side.json"):
        held_out = {"eval": (str(tmp_path / "50%25.zip"),), "annotations": str(tmp_path / annotations)}
        found = everything(ArchivesSource(**here, **held_out, eval_fraction=0.0), tmp_path / f"to-{annotations}")
        names = [member.file_name for member in found[False]]
        assert names == ["trip#1.zip/a/1.jpg", "trip?2.zip/a/1.jpg"]  # apart, though they share one
        assert [member.image_id for member in found[True]] == [7]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"images": ()}, "images is empty"),
        ({"images": ("https://a/x.zip", "https://b/x.zip")}, r"two archives .* are called x\.zip"),
        ({"images": ("https://a/",)}, "names no file"),
    ],
)
def test_a_bad_list_of_archives_is_reported(coco_zips, values, sentence):
    with pytest.raises(SohesError, match=sentence):
        source_of(coco_zips, **values).plan()


def test_missing_annotations_are_named(coco_zips, tmp_path):
    source = source_of(coco_zips, annotations=f"{coco_zips.url}/annotations.zip#nowhere.json")
    with pytest.raises(SohesError, match=r"cannot read nowhere\.json in annotations\.zip"):
        everything(source, tmp_path)
