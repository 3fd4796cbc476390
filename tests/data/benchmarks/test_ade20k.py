import pytest
from PIL import Image

from sohes.data.benchmarks import ade20k, layout
from sohes.errors import SohesError
from sohes.masks import areas
from sohes.work.walk import walk


def test_the_challenge_has_an_entity_for_every_instance(sample):
    first, _ = ade20k.read_benchmark(sample("ade20k"))
    assert (first.image_id, first.file_name) == (1, "ADE_val_00000001.jpg")
    assert areas(first.masks).tolist() == [22, 2]  # the row of a category without an instance is nobody's
    assert first.masks.parents.tolist() == [-1, -1]


def test_the_release_has_parts_of_parts_and_counts_what_is_seen(sample):
    first, _ = ade20k.read_benchmark(sample("ade20k_release"))
    assert areas(first.masks).tolist() == [24, 2, 6]
    assert first.masks.parents.tolist() == [-1, 2, 0]  # the hidden fourth is dropped


def test_a_folder_inside_or_above_is_understood_and_two_sets_are_not(sample):
    root = sample("ade20k")
    assert len(list(ade20k.read_benchmark(root / "ADEChallengeData2016"))) == 2
    sample("ade20k_release").joinpath("ADE20K_2021_17_01").rename(root / "ADE20K_2021_17_01")
    with pytest.raises(SohesError, match="holds both kinds of ADE20K"):
        ade20k.read_benchmark(root)


def test_a_lost_instance_and_one_of_another_size_are_named(sample):
    root = sample("ade20k_release")
    lost = next(root.rglob("i_004.png"))
    lost.unlink()
    with pytest.raises(SohesError, match=r"names the instance .*i_004\.png, which is not there"):
        list(ade20k.read_benchmark(root))
    Image.new("L", (3, 3)).save(lost)
    with pytest.raises(SohesError, match=r"i_004\.png is .* its image 8 x 6"):
        list(ade20k.read_benchmark(root))


def test_a_grey_png_is_no_instance_png(sample):
    root = sample("ade20k")
    Image.new("L", (8, 6)).save(next(root.rglob("*.png")))
    with pytest.raises(SohesError, match="is no instance PNG"):
        list(ade20k.read_benchmark(root))


def test_the_release_is_walked_once_for_all_photographs(sample, monkeypatch):
    walks = []
    monkeypatch.setattr(layout, "walk", lambda folder: walks.append(folder) or walk(folder))
    root = sample("ade20k_release")
    for number in (1, 2, 1):
        assert ade20k.read_image(root, f"ADE_val_0000000{number}.jpg")[:2] == b"\xff\xd8"
    assert len(walks) == 1
