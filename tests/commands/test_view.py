import numpy as np
import pytest

from sohes import masks
from sohes.commands.view import open_gallery
from sohes.errors import SohesError
from sohes.evaluate.result import Result


@pytest.fixture
def results(tmp_path):
    photo = Result(np.zeros((6, 8, 3), np.uint8), masks.empty_mask_set(6, 8))
    for name in ("a", "b"):
        photo.save(tmp_path / "segmented", name)
    (tmp_path / "segmented/notes.json").write_text("{}")
    return tmp_path / "segmented"


def refuse(photos):
    raise AssertionError(f"nothing is to be segmented (got {photos})")


def test_a_folder_of_results_or_some_of_them(results, tmp_path):
    assert open_gallery([results], root=tmp_path, segment=refuse).names == ["a", "b"]
    assert open_gallery([results / "b.json"], root=tmp_path, segment=refuse).names == ["b"]


def test_photographs_are_segmented_first(results, tmp_path):
    asked = []

    def segment(photos):
        asked.extend(photos)
        return [results / "a.json"]

    assert open_gallery([tmp_path / "cat.jpg"], root=tmp_path, segment=segment).names == ["a"]
    assert asked == [tmp_path / "cat.jpg"]


def test_a_folder_of_photographs_may_hold_json_files_of_its_own(results, tmp_path):
    photos = tmp_path / "takeout"
    photos.mkdir()
    (photos / "cat.jpg.json").write_text("{}")
    assert open_gallery([photos], root=tmp_path, segment=lambda _: [results / "a.json"]).names == ["a"]
    with pytest.raises(SohesError, match=r"no result .* in .*cat\.jpg\.json"):
        open_gallery([photos / "cat.jpg.json"], root=tmp_path, segment=refuse)


def left_out(files):
    """As `segment.run` with a photograph that it cannot read."""
    yield from files
    raise SohesError("1 photograph could not be read (torn.jpg): fix or remove it")


def test_an_unreadable_photograph_is_named_and_the_others_are_shown(results, tmp_path, capsys):
    gallery = open_gallery([tmp_path / "*.jpg"], root=tmp_path, segment=lambda _: left_out([results / "a.json"]))
    assert gallery.names == ["a"]
    assert "torn.jpg" in capsys.readouterr().err
    with pytest.raises(SohesError, match=r"torn\.jpg"):
        open_gallery([tmp_path / "torn.jpg"], root=tmp_path, segment=lambda _: left_out([]))


def test_without_predictions_the_way_on_is_named(tmp_path):
    with pytest.raises(SohesError, match="run `sohes evaluate`"):
        open_gallery([], root=tmp_path, segment=refuse)
