import pytest

from sohes.data.sources.source import is_photograph, read_digests
from sohes.errors import SohesError

PACKS = ["2023/photos.zip", "2024/photos.zip", "trip.tar"]


@pytest.fixture
def read(tmp_path):
    def read(*files: str, names: list[str] = PACKS) -> dict[str, str]:
        (tmp_path / "digests").write_text("".join(f"{i:064x}  {file}\n" for i, file in enumerate(files)))
        return {
            name: int(digest.removeprefix("sha256:"), 16)
            for name, digest in read_digests(tmp_path / "digests", names).items()
        }

    return read


def test_a_digest_is_of_the_pack_that_its_path_ends_with(read):
    assert read("/srv/Trip.tar", "./2024/photos.zip", "*bucket/2023/photos.zip", "readme.txt") == {
        "trip.tar": 0,
        "2024/photos.zip": 1,
        "2023/photos.zip": 2,
    }
    assert read("elsewhere/trip.tar", "2025/photos.zip") == {"trip.tar": 0}
    assert read_digests(None, PACKS) == {}
    nested = ["a.zip", "x/a.zip", "y/x/a.zip"]
    assert read("./a.zip", "y/x/a.zip", "x/a.zip", names=nested) == {"a.zip": 0, "y/x/a.zip": 1, "x/a.zip": 2}
    assert read("z/x/a.zip", names=nested[:2]) == {"x/a.zip": 0}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["photos.zip"], r"line 1: photos\.zip may be 2023/photos\.zip or 2024/photos\.zip: write more of its path"),
        (["trip.tar", "a/trip.tar"], r"line 2: trip\.tar has another digest in a line before"),
        (["tripp.tar"], r"has no digest of 2023/photos\.zip or any other pack: fix the key `digests`"),
    ],
)
def test_a_digest_that_would_check_nothing_or_the_wrong_pack_is_an_error(read, files, sentence):
    with pytest.raises(SohesError, match=sentence):
        read(*files)


def test_what_counts_as_a_photograph():
    assert all(map(is_photograph, ("a.jpg", "deep/b.PNG", "/c.tiff", "../d.gif")))
    assert not any(
        map(is_photograph, (".a.jpg", "deep/.b/c.png", "__MACOSX/x/._d.jpg", "__MACOSX/d.jpg", "e.txt", "jpg"))
    )
