import errno
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
from PIL import Image

from sohes.data.sources.folder import FolderSource, held_out_keys, list_photographs
from sohes.data.sources.source import Photograph
from sohes.data.store.decode import UnreadableImage
from sohes.errors import SohesError


def photo(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (20, 10), colour).save(path, "PNG")


def folder_of(folder: Path, count: int) -> Path:
    for i in range(count):
        photo(folder / f"{i:03d}.png", i)
    return folder


def names(photographs: tuple[Photograph, ...]) -> list[str]:
    return [photograph.file_name for photograph in photographs]


# ---------------------------------------------------------------- the folder


def test_photographs_are_found_at_any_depth_with_any_suffix(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.jpeg", "sub/a.jpeg", "sub/deep/x.TIFF", "z.webp", ".hidden.png", ".cache/x.png"):
        photo(tmp_path / name, 1)
    (tmp_path / "notes.txt").write_text("not a photograph")
    found = list_photographs(tmp_path)
    assert found.photographs == ["a.jpeg", "b.JPG", "sub/a.jpeg", "sub/deep/x.TIFF", "z.webp"]
    assert (found.unread, found.others) == ([], 1)


def test_circular_links_are_followed_once(tmp_path: Path) -> None:
    photo(tmp_path / "album/sub/a.png", 1)
    photo(tmp_path / "elsewhere/b.png", 2)
    (tmp_path / "album/sub/up").symlink_to(tmp_path / "album")
    (tmp_path / "album/other").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "album/broken.png").symlink_to(tmp_path / "nothing.png")
    found = list_photographs(tmp_path / "album")
    assert found.photographs == ["broken.png", "other/b.png", "sub/a.png"]
    plan = FolderSource(tmp_path / "album", None, 0.5).plan()  # the broken link is planned, to be rejected by name
    assert "broken.png" in names(plan.train)


def test_a_name_that_is_not_utf8_is_not_lost(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    try:
        shutil.copy(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    source = FolderSource(tmp_path, None, 0)
    plan = source.plan()
    assert names(plan.train) == ["\\xff.png", "a.png"]
    with pytest.raises(UnreadableImage, match="its name is not UTF-8, rename it"):
        source.read(plan.train[0])


def test_a_place_that_cannot_be_looked_into_is_rejected_by_name(tmp_path: Path) -> None:
    photo(tmp_path / "a.png", 1)
    (tmp_path / "an album").symlink_to(tmp_path / "an unmounted disk")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "nothing.txt")  # no photograph, wherever it points
    names_251 = "/".join(["n" * 251] * 18)  # deeper than a path may be long: nobody, root included, can open the end
    where, here = tmp_path, Path.cwd()
    try:
        for part in names_251.split("/"):
            os.chdir(where)
            Path(part).mkdir()
            where = Path(part)
    finally:
        os.chdir(here)
    plan = (source := FolderSource(tmp_path, None, 0)).plan()
    album, deep = (p for p in plan.train if p.file_name != "a.png")
    assert (album.file_name, deep.file_name[:251]) == ("an album", "n" * 251)
    assert "1 left out" in plan.notes[0]
    with pytest.raises(UnreadableImage, match="a link to nothing"):
        source.read(album)
    with pytest.raises(UnreadableImage, match="it cannot be read: File name too long"):
        source.read(deep)


def test_a_folder_without_permission_is_rejected_with_the_reason(tmp_path: Path, monkeypatch) -> None:
    folder_of(tmp_path / "open", 2)
    folder_of(tmp_path / "closed", 2)
    forbid(monkeypatch, tmp_path / "closed")
    plan = (source := FolderSource(tmp_path, None, 0)).plan()
    assert names(plan.train) == ["closed", "open/000.png", "open/001.png"]
    with pytest.raises(UnreadableImage, match="it cannot be read: Permission denied"):
        source.read(plan.train[0])
    forbid(monkeypatch, tmp_path)
    with pytest.raises(PermissionError):
        source.plan()


def forbid(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Make a folder unreadable, for root too."""
    for name in ("scandir", "listdir"):
        original = getattr(os, name)

        def refuse(path, original=original):
            if Path(path) == folder:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return original(path)

        monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("annotated", [False, True])
def test_a_pipe_a_socket_and_a_device_are_not_waited_for(tmp_path: Path, annotated: bool) -> None:
    photo(tmp_path / "photos/a.png", 1)
    os.mkfifo(tmp_path / "photos/pipe.jpg")
    (tmp_path / "photos/zeros.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "photos/socket.bmp"))  # an absolute path may be too long for it
    every = ["a.png", "pipe.jpg", "socket.bmp", "zeros.png"]
    file = annotations(tmp_path / "a.json", [listed(i, name) for i, name in enumerate(every)]) if annotated else None
    plan = (source := FolderSource(tmp_path / "photos", file, 0.5)).plan()
    assert sorted(names(plan.train)) == every  # one readable photograph: nothing is held out
    for photograph in plan.train:
        if photograph.file_name != "a.png":
            with pytest.raises(UnreadableImage, match="a pipe, a socket or a device"):
                source.read(photograph)


def test_a_folder_without_photographs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SohesError, match="there are no photographs in"):
        FolderSource(tmp_path, None, 0.1).plan()
    with pytest.raises(SohesError, match="there is no folder of photographs at"):
        FolderSource(tmp_path / "gone", None, 0.1).plan()


def test_files_that_are_not_photographs_are_reported(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    (tmp_path / "a.heic").touch()
    assert "1 left out" in FolderSource(tmp_path, None, 0.5).plan().notes[0]


# ---------------------------------------------------------------- the split


def test_pictures_that_segment_has_drawn_are_no_photographs(tmp_path: Path) -> None:
    mine = ("a.png", "b.photo.jpg", "trip/c.overlay.webp")
    drawn = ("a.json", "a.photo.jpg", "a.overlay.webp", "a.levels.png", "trip/a.json", "trip/a.photo.jpg")
    (tmp_path / "trip").mkdir()
    for name in (*mine, *drawn):
        (tmp_path / name).touch()
    listing = list_photographs(tmp_path)
    assert (listing.photographs, listing.others) == (sorted(mine), len(drawn))


def test_ids_count_in_the_order_of_names_and_the_split_is_disjoint(tmp_path: Path) -> None:
    plan = FolderSource(folder_of(tmp_path, 20), None, 0.1).plan()
    assert plan == FolderSource(tmp_path, None, 0.1).plan()
    assert plan.apply_exif
    assert (len(plan.train), len(plan.held_out)) == (18, 2)
    everything = sorted(plan.train + plan.held_out, key=lambda photograph: photograph.image_id)
    assert [photograph.image_id for photograph in everything] == list(range(1, 21))
    assert names(tuple(everything)) == sorted(names(tuple(everything)))


def test_the_split_follows_the_content_and_not_the_name(tmp_path: Path) -> None:
    before = FolderSource(folder_of(tmp_path, 20), None, 0.2).plan()
    held_out = {(tmp_path / name).read_bytes() for name in names(before.held_out)}
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(f"renamed-{path.name[::-1]}.png"))
    after = FolderSource(tmp_path, None, 0.2).plan()
    assert {(tmp_path / name).read_bytes() for name in names(after.held_out)} == held_out


def test_copies_stay_on_one_side(tmp_path: Path) -> None:
    folder_of(tmp_path, 10)
    folder_of(tmp_path / "copies", 10)
    plan = FolderSource(tmp_path, None, 0.3).plan()
    assert {Path(name).name for name in names(plan.train)}.isdisjoint(Path(name).name for name in names(plan.held_out))
    assert len(plan.held_out) == 6


@pytest.mark.parametrize(
    ("count", "eval_fraction", "train", "held_out"),
    [(2, 0.1, 1, 1), (2, 0.99, 1, 1), (10, 0, 10, 0), (10, 1, 10, 10), (1, 0.1, 1, 1)],
)
def test_small_and_extreme_splits(tmp_path: Path, count: int, eval_fraction: float, train: int, held_out: int) -> None:
    plan = FolderSource(folder_of(tmp_path, count), None, eval_fraction).plan()
    assert (len(plan.train), len(plan.held_out)) == (train, held_out)
    both_sides = [note for note in plan.notes if "both for training and for evaluation" in note]
    assert len(both_sides) == (train + held_out > count)


def test_the_held_out_keys_cover_the_fraction() -> None:
    assert held_out_keys(["d", "a", "c", "b"], 0.5) == {"a", "b"}
    assert held_out_keys(["b", "a", "a", "a"], 0.25) == {"a"}
    assert held_out_keys(["a", None, None, "b"], 0.5) == {"a"}
    assert held_out_keys(["a", "a"], 0.5) == set()
    assert held_out_keys([], 0.5) == set()


def test_a_changed_file_has_another_stamp(tmp_path: Path) -> None:
    source = FolderSource(folder_of(tmp_path, 2), None, 0)
    before = source.plan()
    Image.new("L", (50, 60), 3).save(tmp_path / "001.png")
    after = source.plan()
    assert before.train[0] == after.train[0]
    assert before.train[1] != after.train[1]


# ---------------------------------------------------------------- annotations


def annotations(path: Path, images: list[dict]) -> Path:
    square = {"segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "iscrowd": 0, "category_id": 1}
    content = {
        "images": images,
        "annotations": [square | {"id": i, "image_id": im["id"]} for i, im in enumerate(images)],
    }
    path.write_text(json.dumps(content))
    return path


def listed(image_id: int, file_name: str) -> dict:
    return {"id": image_id, "file_name": file_name, "height": 10, "width": 20}


def test_annotated_photographs_keep_their_ids_and_stored_pixels(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 4)
    file = annotations(tmp_path / "a.json", [listed(900, "003.png"), listed(17, "001.png")])
    source = FolderSource(tmp_path / "photos", file, 0.5)
    plan = source.plan()
    assert not plan.apply_exif
    assert {p.image_id for p in plan.train + plan.held_out} == {900, 17}
    assert plan.train[0].expected_hw == (10, 20)
    assert any("2 photographs are not listed" in note for note in plan.notes)
    (record,) = source.truth([17])
    assert (record.image_id, record.file_name, len(record.masks)) == (17, "001.png", 1)


def test_without_annotations_there_is_no_truth(tmp_path: Path) -> None:
    assert FolderSource(tmp_path, None, 0.5).truth([1]) is None


@pytest.mark.parametrize(
    ("file_name", "reason"),
    [
        ("gone.png", "no such photograph"),
        ("../secret.png", "points outside the folder"),
        ("/etc/passwd", "points outside the folder"),
        ("folder.png", "cannot be read"),
        ("001\0.png", "no such photograph"),
    ],
)
def test_a_listed_photograph_that_cannot_be_read_is_rejected(tmp_path: Path, file_name: str, reason: str) -> None:
    folder_of(tmp_path / "photos", 3)
    (tmp_path / "photos/folder.png").mkdir()
    photo(tmp_path / "secret.png", 9)
    file = annotations(tmp_path / "a.json", [listed(i, f"00{i}.png") for i in range(3)] + [listed(9, file_name)])
    plan = (source := FolderSource(tmp_path / "photos", file, 0.3)).plan()
    # It may be on either side, because /etc/passwd differs between machines.
    bad = next(photograph for photograph in plan.train + plan.held_out if photograph.image_id == 9)
    with pytest.raises(UnreadableImage, match=reason):
        source.read(bad)


def test_names_that_another_tool_has_written_find_their_photographs(tmp_path: Path) -> None:
    on_disk = ["a.png", "Été/b 1.png", "x/c.png", "y/c.png", "y/d.png", "left out.png"]
    for i, name in enumerate(on_disk):
        photo(tmp_path / "photos" / name, i)
    written = ["C:\\me\\A.PNG", "/home/me/\u00e9t\u00e9/b%201.png", "x/c.png", "z/c.png", "./y/d.png"]
    file = annotations(tmp_path / "a.json", [listed(i, name) for i, name in enumerate(written)])
    plan = (source := FolderSource(tmp_path / "photos", file, 0)).plan()
    assert names(plan.train) == written
    read = {p.image_id: p.found_as for p in plan.train}
    # `z/c.png`: `x/c.png` is another's, so `y/c.png` is the only one left.
    assert read == {0: "a.png", 1: "Été/b 1.png", 2: "", 3: "y/c.png", 4: ""}
    assert [source.read(p) for p in plan.train] == [(tmp_path / "photos" / on_disk[i]).read_bytes() for i in range(5)]
    assert "3 photographs have other names than in" in plan.notes[0]
    assert "such as Été/b 1.png, which is taken for /home/me/été/b%201.png" in plan.notes[0]
    assert "1 photographs are not listed" in plan.notes[1]


def test_two_names_never_share_a_photograph(tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 2)
    file = annotations(
        tmp_path / "a.json", [listed(i, name) for i, name in enumerate(("a/000.png", "b/000.png", "001.png"))]
    )
    plan = (source := FolderSource(tmp_path / "photos", file, 0)).plan()
    for photograph in plan.train[:2]:
        with pytest.raises(UnreadableImage, match="no such photograph"):
            source.read(photograph)


def test_real_annotated_photographs(shared_data: Path) -> None:
    folder = shared_data / "coco_panoptic_100"
    source = FolderSource(folder / "images", folder / "panoptic.json", 0.1)
    plan = source.plan()
    assert (len(plan.train), len(plan.held_out), plan.notes) == (90, 10, ())
    truth = {record.image_id: record for record in source.truth([p.image_id for p in plan.held_out])}
    assert truth.keys() == {p.image_id for p in plan.held_out}
    assert all((truth[p.image_id].masks.height, truth[p.image_id].masks.width) == p.expected_hw for p in plan.held_out)
