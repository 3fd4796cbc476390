from __future__ import annotations

from pathlib import Path

import pytest

from sohes.data.exchange.places import Places
from sohes.errors import SohesError


def test_a_photograph_takes_its_path_with_another_suffix() -> None:
    places = Places(Path("out"), ".txt")
    assert [places.take(name) for name in ("trip/a.b.jpg", "trip\\c.png", "a.b.jpg")] == [
        Path("out/trip/a.b.txt"), Path("out/trip/c.txt"), Path("out/a.b.txt"),
    ]  # fmt: skip


@pytest.mark.parametrize("other", ["x/A.png", "x\\a.JPG", "x/a.jpg"])
def test_no_file_is_taken_twice(other: str) -> None:
    places = Places(Path("out"), ".txt")
    places.take("x/a.jpg")
    with pytest.raises(SohesError, match=r"x/a\.jpg and .* would share out/x/.*: rename one, or take coco"):
        places.take(other)
