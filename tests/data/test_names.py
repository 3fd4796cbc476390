import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sohes.data.names import Names, found_as, one_ends_with_the_other

THERE = ["Straße/ÄRGER 1.JPG", "a/1.png", "b/1.png", "c/2.png", "50%.png"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("D:\\photos\\Straße\\ärger 1.jpg", "Straße/ÄRGER 1.JPG"),
        ("file:///home/me/%C3%84rger%201.jpg", "Straße/ÄRGER 1.JPG"),
        (unicodedata.normalize("NFD", "ärger 1.JPG"), "Straße/ÄRGER 1.JPG"),
        ("../x/B/1.png", "b/1.png"),
        ("/elsewhere/2.png", "c/2.png"),
        ("50%.png", "50%.png"),
        ("50%25.png", "50%.png"),
        ("1.png", None),  # of two
        ("d/1.png", None),
        ("2.jpg", None),
        ("", None),
        ("/", None),
    ],
)
def test_a_name_is_found_by_its_last_parts(wanted, found):
    assert Names(THERE).find(wanted) == found


def test_no_two_names_get_the_same_file():
    assert found_as(["x/2.png", "y/2.png", "a\\1.png"], THERE) == {"a\\1.png": "a/1.png"}
    assert found_as(["A.png"], ["a.png", "A.PNG"]) == {}


def test_two_paths_that_contradict_each_other():
    assert one_ends_with_the_other("a/1.png", "/home/A/1.png")
    assert one_ends_with_the_other("1.png", "a\\1.png")
    assert not one_ends_with_the_other("a/1.png", "b/1.png")


@given(st.lists(st.text(max_size=8), unique=True, max_size=8), st.text(max_size=8))
def test_any_text_is_a_name(there, wanted):
    assert Names(there).find(wanted) in (None, *there)
    assert set(found_as([wanted], there).values()) <= set(there)
