import errno
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sohes import cli, masks
from sohes.commands.segment import choose, find_photos, names_in, output_names, run, tree
from sohes.data.scenes.render import render_scene
from sohes.data.sources.folder import read_photograph
from sohes.errors import SohesError
from sohes.evaluate.result import Result
from sohes.model.released import model_file
from sohes.params import Params, load_params
from sohes.project import Project

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture
def photos(tmp_path):
    """One, two of the same stem, one of them in a folder, and one that is no image."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("one.png", "cat.png", "cat.jpg", "deep/cat.png"):
        Image.fromarray(IMAGE).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def segment(tiny_params, tiny_model, tmp_path):
    def call(*what, **options):
        params = Params.model_validate(tiny_params)
        explore = params.explore if options.pop("explore", False) else None
        options = {"model": str(tiny_model), "out": tmp_path / "out", **options}
        written = run(what, evaluate=params.evaluate, explore=explore, root=tmp_path, **options)
        return (file for file, _ in written)

    return call


def test_an_unreadable_photograph_is_named_and_the_others_are_done(segment, photos, capsys):
    written = []
    with pytest.raises(SohesError, match=r"1 of 5 photographs could not be read \(.*broken.jpg\)"):
        written.extend(segment(photos))
    assert sorted(path.name for path in written) == ["cat.jpg.json", "cat.png.json", "deep_cat.png.json", "one.json"]
    assert "broken.jpg" in capsys.readouterr().err
    for path in written:
        found = json.loads(path.read_text())
        assert found["image"]["file_name"] in ("one.png", "cat.png", "cat.jpg", "deep/cat.png")
        assert len(found["annotations"]) > 0
    assert (photos.parent / "out/deep_cat.png.overlay.webp").exists()


@pytest.mark.parametrize(("explore", "ahead"), [(True, 1), (False, 2)])
def test_photographs_are_read_as_they_are_needed_and_have_their_own_results(
    segment, tmp_path, monkeypatch, capsys, explore, ahead
):
    folder = tmp_path / "many"
    folder.mkdir()
    for k in range(12):
        Image.fromarray(IMAGE[:, : 40 + k]).save(folder / f"{k:02}.png")
    broken = {"01.png", "02.png", "07.png", "11.png"}
    for name in broken:
        (folder / name).write_bytes(b"no image")
    read: set[str] = set()
    monkeypatch.setattr(
        "sohes.commands.segment.read_photograph", lambda file: (read.add(file.name), read_photograph(file))[1]
    )
    written = []
    with pytest.raises(SohesError, match="4 of 12 photographs could not be read"):
        written.extend((file, len(read - broken)) for file in segment(folder, explore=explore))
    assert [file.stem for file, _ in written] == ["00", "03", "04", "05", "06", "08", "09", "10"]
    for done, (file, count) in enumerate(written):
        assert count <= done + ahead
        assert json.loads(file.read_text())["image"]["width"] == 40 + int(file.stem)
    assert capsys.readouterr().err.count("cannot be read") == 4


def test_what_a_folder_holds_beside_photographs_is_told_and_hidden_files_do_not_count(segment, photos, capsys):
    for name in ("IMG_1.HEIC", "._one.png", ".cache/icon.png", "notes.txt"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"no image")
    (photos / "broken.jpg").unlink()
    assert len(list(segment(photos))) == 4
    assert "photos: 2 left out, because their names end in none of .jpg, " in capsys.readouterr().err
    with pytest.raises(SohesError, match=r"could not be read .*HEIC"):
        list(segment(photos / "IMG_1.HEIC"))  # what was named is not left out


def test_its_own_results_are_neither_segmented_nor_counted(segment, photos, capsys):
    (photos / "broken.jpg").unlink()
    for _ in range(2):
        assert len(list(segment(photos, out=photos / "deep/out"))) == 4
        assert "left out" not in capsys.readouterr().err


def test_a_photograph_too_long_to_be_shown_does_not_stop_the_others(segment, photos, capsys):
    Image.new("RGB", (70_000, 20)).save(photos / "broken.jpg", format="PNG")
    with pytest.raises(SohesError, match=r"1 of 5 photographs could not be read .*the others are done"):
        list(segment(photos))
    assert "too long: 70000 x 20 pixels" in capsys.readouterr().err


def test_results_that_cannot_be_written_do_not_stop_the_others(segment, photos, capsys):
    (photos.parent / "out/cat.png.json").mkdir(parents=True)  # in the way
    (photos / ("n" * 251 + ".png")).write_bytes((photos / "one.png").read_bytes())
    (photos / ("写" * 83 + ".png")).write_bytes((photos / "one.png").read_bytes())
    written = []
    message = r"1 of 7 .* not be read \(.*broken.jpg\) and 1 of 7 .* not be written \(.*/cat.png\): the others are done"
    with pytest.raises(SohesError, match=message):
        written.extend(segment(photos))
    assert len(written) == 5
    assert "cat.png cannot be written: Is a directory; continuing" in capsys.readouterr().err
    assert len(list((photos.parent / "out").glob("*.overlay.webp"))) == 6


def test_a_disk_that_is_full_for_one_photograph_is_not_full_for_all(segment, photos, monkeypatch):
    original = Result.save

    def save(self, folder, name="photo", **options):
        if name == "one":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, folder, name, **options)

    monkeypatch.setattr(Result, "save", save)
    (photos / "broken.jpg").unlink()
    written = []
    with pytest.raises(SohesError, match=r"1 of 4 photographs could not be written \(.*one.png\)"):
        written.extend(segment(photos))
    assert len(written) == 3


def test_a_folder_for_results_that_cannot_be_one_is_named_before_anything_is_computed(segment, photos):
    with pytest.raises(FileExistsError):
        next(segment(photos, out=photos / "one.png", model="absent.safetensors"))


def test_places_that_cannot_be_looked_into_are_named(segment, photos):
    (photos / "broken.jpg").unlink()
    (photos / "deep/album").symlink_to(photos / "unmounted")
    os.mkfifo(photos / "pipe.jpg")
    with pytest.raises(SohesError, match=r"2 of 6 photographs could not be read \(.*deep/album, .*pipe.jpg\)"):
        list(segment(photos))
    with pytest.raises(SohesError, match=r"1 of 3 photographs could not be read \(.*deep/album\)"):
        list(segment(photos / "**/cat.png"))


def test_masks_for_a_benchmark_lie_in_stored_pixels(segment, photos):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGE).save(photos / "turned.jpg", exif=exif)
    for upright, size in ((True, (56, 40)), (False, (40, 56))):
        (written,) = segment(photos / "turned.jpg", apply_exif=upright)
        image = json.loads(written.read_text())["image"]
        assert (image["height"], image["width"]) == size


def test_phase_one_needs_no_model(segment, photos, tmp_path):
    (written,) = segment(photos / "one.png", explore=True, model="absent.safetensors")
    annotations = json.loads(written.read_text())["annotations"]
    assert annotations
    assert {a["score"] for a in annotations} == {1.0}


def test_without_a_model_the_way_on_is_named(segment, photos):
    with pytest.raises(SohesError, match="or take phase 1, which needs none"):
        next(segment(photos, model="absent.safetensors"))


def test_patterns_folders_and_files_name_each_photograph_once(photos):
    names = [path.name for path in find_photos([f"{photos}/c*", photos, photos / "one.png"])]
    assert names == ["cat.jpg", "cat.png", "broken.jpg", "cat.png", "one.png"]
    for named in (photos, photos / "*.png", photos / "**/*"):
        with pytest.raises(SohesError, match=r"is for the results, but .* lies there: name another folder with --out"):
            find_photos([named], leave_out=photos)
    with pytest.raises(SohesError, match=r"no such photograph: .*absent"):
        find_photos([photos / "absent*.jpg"])


def test_photographs_of_one_name_keep_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [Path(name) for name in ("q/a/1.png", "q/b/1.png", "q/b/2.png")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert names_in(files, [Path("q")]) == ["a/1.png", "b/1.png", "b/2.png"]
    assert names_in(files[:1], [Path("q")]) == ["a/1.png"]
    assert names_in(files, [Path("q/a"), Path("q/b")]) == ["a/1.png", "b/1.png", "2.png"]
    assert names_in(files, files) == ["a/1.png", "b/1.png", "2.png"]
    assert names_in([*files, tmp_path / "1.png"], files) == ["q/a/1.png", "q/b/1.png", "2.png", "1.png"]


def test_no_two_photographs_share_a_name(tmp_path):
    files = [tmp_path / name for name in ("a.jpg", "b/c.jpg", "b/c.png", "d/c.png", "d/C.jpg", "d_C.jpg", "e/f.png")]
    names = output_names(files)
    assert len({name.casefold() for name in names}) == len(files)
    assert (names[0], names[-1]) == ("a", "f")


def test_a_name_does_not_depend_on_the_order(tmp_path):
    files = [tmp_path / name for name in ("a.jpg", "b/c.jpg", "b/c.png", "d/c.png")]
    names = output_names(files)
    assert names == ["a", "c.jpg", "b_c.png", "d_c.png"]
    assert output_names(files[::-1]) == names[::-1]


def test_nor_does_the_number_of_a_name(tmp_path):
    files = [tmp_path / name for name in ("a/b.jpg", "a_b.jpg", "c/b.jpg", "c/a_b.jpg")]
    names = output_names(files)
    assert names == ["a_b.jpg", "a_b.jpg-2", "c_b.jpg", "c_a_b.jpg"]
    assert output_names(files[::-1]) == names[::-1]


def test_a_closer_look_finds_more_and_phase_one_has_none(segment, photos):
    counts = []
    for levels in ((), (1.0,), (0.6,)):
        (path,) = segment(photos / "one.png", levels=levels)
        counts.append(len(json.loads(path.read_text())["annotations"]))
    assert 0 < counts[0] == counts[1] < counts[2]
    with pytest.raises(SohesError, match="leave out --tile"):
        list(segment(photos / "one.png", levels=(0.6,), explore=True))


def test_no_more_than_the_best_masks_and_phase_one_has_no_order(segment, photos):
    def scores(**options):
        (path,) = segment(photos / "one.png", **options)
        return [annotation["score"] for annotation in json.loads(path.read_text())["annotations"]]

    every, few = scores(), scores(max_masks=3)
    assert len(every) > 3
    assert 0 < len(few) <= 3
    assert few == every[: len(few)]
    with pytest.raises(SohesError, match=r"--max-masks 0: max_masks: .* greater than 0 \(got 0\)"):
        list(segment(photos / "one.png", max_masks=0))
    with pytest.raises(SohesError, match="leave out --max-masks"):
        list(segment(photos / "one.png", max_masks=3, explore=True))


def test_phase_one_takes_no_model():
    with pytest.raises(SohesError, match=r"takes no model \(got mine\.safetensors\): leave out --model"):
        choose("mine.safetensors", None, explore=True)


def test_a_closed_standard_output_is_no_matter(segment, photos, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert list(segment(photos / "one.png"))


def test_a_run_that_was_stopped_resumes_with_what_is_left(segment, photos, tmp_path, capsys):
    (photos / "broken.jpg").unlink()
    stopped = segment(photos)
    first = next(stopped)
    stopped.close()
    age, left = (
        first.stat().st_mtime_ns,
        {"cat.jpg.json", "cat.png.json", "deep_cat.png.json", "one.json"} - {first.name},
    )
    assert {path.name for path in segment(photos, resume=True)} == left
    assert "1 of 4 photographs have results in" in capsys.readouterr().err
    assert first.stat().st_mtime_ns == age
    assert not list(segment(photos, resume=True))
    assert len(list(segment(photos))) == 4


@pytest.mark.parametrize("resume", [False, True])
def test_results_are_not_those_of_another_photograph_of_the_name(segment, tmp_path, resume):
    for seed, day in enumerate(("day1", "day2")):
        (tmp_path / day).mkdir()
        Image.fromarray(render_scene(0, size=96, seed=seed).image_HW3).save(tmp_path / day / "a.png")
    (first,) = segment(tmp_path / "day1")
    content = first.read_bytes()
    with pytest.raises(
        SohesError, match=r"a\.json is of another photograph than .*day2/a\.png, .*: name another folder"
    ):
        list(segment(tmp_path / "day2", resume=resume))
    assert first.read_bytes() == content
    assert len(list(segment(tmp_path / "day1", resume=resume))) == (0 if resume else 1)
    first.write_text(json.dumps({**json.loads(content), "image": {"height": 96, "width": 96}}))  # as older ones
    assert len(list(segment(tmp_path / "day2", resume=resume))) == (0 if resume else 1)


def outside(tmp_path, monkeypatch):
    """A fresh folder without a project, and a code that came without a template."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sohes.params.TEMPLATE", Project(folder / "absent"))
    return folder


def test_in_a_fresh_folder_the_released_model_answers(tmp_path, monkeypatch, capsys):
    folder = outside(tmp_path, monkeypatch)
    Image.fromarray(render_scene(0, size=160, seed=0).image_HW3).save(folder / "photo.jpg")
    chosen = choose(None, None, explore=False)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "note: with the model small, for there is no models/correct.safetensors here"
    assert said[1].startswith("note: limits of small: ")
    assert len(said) == 2
    ((written, _),) = run(["photo.jpg"], **chosen, out=folder / "out", root=folder)
    annotations = json.loads(written.read_text())["annotations"]
    assert annotations
    assert {"score", "parent_id", "segmentation"} <= annotations[0].keys()
    ids = {a["id"] for a in annotations}
    assert all(a["parent_id"] is None or a["parent_id"] in ids for a in annotations)


def test_brackets_in_names_are_themselves_and_in_patterns_a_choice(photos):
    folder = photos / "trip [1-3]"
    folder.mkdir()
    for name in ("a[1].png", "a1.png", "b.png"):
        shutil.copy(photos / "one.png", folder / name)
    assert [file.name for file in find_photos([folder / "a[1].png"])] == ["a[1].png"]
    assert [file.name for file in find_photos([folder / "*.png"])] == ["a1.png", "a[1].png", "b.png"]
    assert [file.name for file in find_photos([folder / "[ab]?.png"])] == ["a1.png"]
    assert [file.name for file in find_photos([photos / "trip*/b.png"])] == ["b.png"]
    assert len(find_photos([photos / "**/*.png"])) == 6


@pytest.mark.parametrize("side", [float("nan"), -0.5, 0.05, 1.5])
def test_a_window_is_a_fraction_of_the_image(segment, photos, side):
    with pytest.raises(SohesError, match=rf"^--tile {side:g}: tiles.levels.0: Input should be .* \(got {side}\)$"):
        list(segment(photos / "one.png", levels=[side]))


def test_a_projects_own_model_and_params_come_first(tiny_model, repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(repository / "params.yaml", tmp_path)
    assert choose(None, None, explore=False)["model"] == "models/correct.safetensors"
    assert capsys.readouterr().err == "note: with the model models/correct.safetensors, this folder's own\n"
    card = tiny_model.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"limits": "it knows cars alone"}))
    assert choose(None, None, explore=False)["model"] == "models/correct.safetensors"
    assert "limits of models/correct.safetensors: it knows cars alone" in capsys.readouterr().err
    assert choose("small", None, explore=False)["evaluate"].nms_iou == 0.8
    ours = load_params(tmp_path / "params.yaml").evaluate
    assert choose("small", tmp_path / "params.yaml", explore=False)["evaluate"] == ours
    assert choose(str(tiny_model), None, explore=False)["evaluate"] == ours
    assert capsys.readouterr().err.count("limits of small") == 2


def test_a_projects_own_model_of_drawn_scenes_is_not_taken_for_photographs(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    card, limits = (
        tiny_model.with_suffix(".json"),
        "drawn by hand; no good on real photographs",
    )
    card.write_text(json.dumps(json.loads(card.read_text()) | {"limits": limits}))
    assert choose(None, None, explore=False)["model"] == str(model_file("small"))
    why, small = capsys.readouterr().err.splitlines()
    own = "models/correct.safetensors"
    assert why.startswith(f"note: with the model small, for {own} is no good on real photographs, says its card")
    assert small.startswith("note: limits of small: ")
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    assert choose(own, None, explore=False)["model"] == own  # asked for
    assert capsys.readouterr().err == f"note: limits of {own}: {limits}\n"


def test_a_registered_model_warns_too(tiny_model, repository, monkeypatch, capsys):
    card = tiny_model.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"limits": "never saw the sea"}))
    monkeypatch.setattr("sohes.tracking.named.registered_model", lambda name, root: tiny_model)
    assert choose("mlflow:/sohes@champion", repository / "params.yaml", explore=False)["model"] == str(tiny_model)
    assert capsys.readouterr().err == "note: limits of mlflow:/sohes@champion: never saw the sea\n"


def test_the_command_ends_with_counts_and_where_to_look_though_one_photograph_is_broken(
    photos, tiny_model, tmp_path, monkeypatch, repository
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(repository / "params.yaml", tmp_path)
    done = CliRunner().invoke(cli.app, ["segment", "photos", "--out", "the masks", "--print", "--format", "png"])
    assert isinstance(done.exception, SohesError)
    files = sorted(Path("the masks").glob("*.json"))
    assert len(files) == 4
    assert len(list(Path("the masks").glob("*.overlay.png"))) == 4
    found = [a for file in files for a in json.loads(file.read_text())["annotations"]]
    whole = sum(a["parent_id"] is None for a in found)
    lines = done.stdout.splitlines()
    words = f"{len(found)} masks in 4 photographs, {whole} whole and {len(found) - whole} parts"
    assert lines[-1] == f"{words}: sohes view 'the masks'"
    assert sum(line.startswith("wrote the masks/") for line in lines) == 4
    assert sum("strongest of" in line for line in lines) == 4


def test_the_tree_has_the_strongest_masks_below_their_nearest_shown_ancestors():
    drawn = np.zeros((14, 10, 20), bool)
    drawn[0, 1:] = True
    for k, mask in enumerate(drawn):
        mask[:, k] = True
    scores = np.linspace(0.99, 0.5, 14)
    scores[[1, 3, 5]] = 0.1  # hidden: 3 and 1 lie between a part and its whole
    parents = np.array([-1, 0, 1, 2, 3, 0, 0, -1, 7, 7, 7, 7, 7, 7])
    found = masks.mask_set(drawn, scores=scores, parents=parents)
    shown = tree(Result(np.zeros((10, 20, 3), np.uint8), found))
    assert shown.label == "the 11 strongest of 14 masks: score, area, box"
    number = lambda node: int(node.label.split(":")[0])  # noqa: E731
    assert [number(node) for node in shown.children] == [1, 8]
    first, second = shown.children
    assert first.label == "1: 0.99  90.5%  0 0 20 10"
    assert [number(node) for node in first.children] == [3, 7]
    assert [number(node) for node in first.children[0].children] == [5]
    assert [number(node) for node in second.children] == [9, 10, 11, 12, 13, 14]


def test_names_go_where_standard_output_goes_though_errors_go_to_a_terminal(segment, photos, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, any stream is a terminal then
    for file in segment(photos / "one.png"):
        print(f"wrote {file}")
    told = capsys.readouterr()
    assert told.out == f"wrote {file}\n"
    assert "segment" in told.err  # the progress bar


def test_what_a_model_warns_of_is_told_in_one_line(tiny_model, repository, capsys):
    card = tiny_model.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"limits": "only drawn scenes"}))
    choose(str(tiny_model), repository / "params.yaml", explore=False)
    assert capsys.readouterr().err == f"note: limits of {tiny_model}: only drawn scenes\n"
