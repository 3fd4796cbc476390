from pathlib import Path

import pytest

from sohes.data.benchmarks.places import files_of, name_and_folder
from sohes.errors import SohesError


def test_a_name_and_a_folder_come_out_of_one_word():
    assert name_and_folder("coco=a/b=c") == ("coco", Path("a/b=c"))
    assert name_and_folder("bsds500=~/x") == ("bsds500", Path.home() / "x")


@pytest.mark.parametrize(("text", "such"), [("lvis", "lvis=~/lvis"), ("lvis=", "lvis=~/lvis"), ("=x", "coco=~/coco")])
def test_half_of_it_is_refused_with_an_example(text, such):
    with pytest.raises(SohesError, match=rf"as NAME=DIR, such as {such} \(got {text}\)"):
        name_and_folder(text)


def test_files_that_no_reader_opens_are_none_of_a_data_set(tmp_path):
    read = ["annotations/instances_val2017.json", "sa_000000.tar", "val2017/1.JPG", "Annotations_Part/2.mat"]
    for name in (*read, "val2017.zip", "train2017.zip.part", "sa_000001.tar.aria2", "README.md", ".1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(files_of(tmp_path)) == sorted(tmp_path / name for name in read)
    assert files_of(tmp_path / "sa_000000.tar") == [tmp_path / "sa_000000.tar"]
    assert files_of(tmp_path / "absent") == [tmp_path / "absent"]
