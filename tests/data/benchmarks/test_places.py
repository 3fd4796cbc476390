from pathlib import Path

import pytest

from sohes.data.benchmarks.places import name_and_folder
from sohes.errors import SohesError


def test_a_name_and_a_folder_come_out_of_one_word():
    assert name_and_folder("coco=a/b=c") == ("coco", Path("a/b=c"))
    assert name_and_folder("bsds500=~/x") == ("bsds500", Path.home() / "x")


@pytest.mark.parametrize(("text", "such"), [("lvis", "lvis=~/lvis"), ("lvis=", "lvis=~/lvis"), ("=x", "coco=~/coco")])
def test_half_of_it_is_refused_with_an_example(text, such):
    with pytest.raises(SohesError, match=rf"as NAME=DIR, such as {such} \(got {text}\)"):
        name_and_folder(text)
