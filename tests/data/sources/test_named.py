from pathlib import Path
from typing import Any

import pytest

from sohes.data.sources.archives import ArchivesSource
from sohes.data.sources.folder import FolderSource
from sohes.data.sources.named import named_source
from sohes.data.sources.s3 import S3Source
from sohes.data.sources.sa1b import Sa1bSource
from sohes.data.sources.scenes import ScenesSource
from sohes.errors import SohesError
from sohes.params import load_params

ROOT = Path("/project")
HOME = Path.home()


@pytest.fixture
def source(repository: Path):
    def source(name: str, **values: Any) -> Any:
        changes = {"seed": 7, "pull.source": name, **{f"pull.{name}.{key}": value for key, value in values.items()}}
        return named_source(load_params(repository / "params.yaml", changes), ROOT)

    return source


def test_paths_start_at_the_project_and_links_stay_as_they_are(source) -> None:
    folder = source("folder", images="photos", annotations="~/truth.json", eval_fraction=0.1)
    assert folder == FolderSource(ROOT / "photos", HOME / "truth.json", 0.1)
    link = "https://example.org/a.zip"
    archives = source("archives", images=[link, "b.tar"], eval=["/srv/c.zip"], annotations="t.zip", digests="sums")
    assert (archives.images, archives.eval) == ((link, "/project/b.tar"), ("/srv/c.zip",))
    assert (archives.annotations, archives.digests) == ("/project/t.zip", ROOT / "sums")
    assert source("archives", images=[link], annotations=link).annotations == link
    sa1b = source("sa1b", links="links.txt", packs="packs.txt", eval_packs=["sa_000020.tar"])
    assert (sa1b.links, sa1b.packs) == (ROOT / "links.txt", ROOT / "packs.txt")
    assert (sa1b.eval_packs, sa1b.digests) == (("sa_000020.tar",), None)


def test_each_source_gets_its_own_numbers(source) -> None:
    assert source("scenes", size=48, train=5, eval=3) == ScenesSource(size=48, train=5, held_out=3, seed=7)
    s3 = source("s3", uri="s3://photos/2024", endpoint_url="http://127.0.0.1:9", requester_pays=True, eval_fraction=0.2)
    assert (s3.uri, s3.endpoint_url, s3.requester_pays, s3.eval_fraction) == (
        "s3://photos/2024",
        "http://127.0.0.1:9",
        True,
        0.2,
    )
    kinds = [source("archives", images=["a.zip"]), source("s3", uri="s3://a"), source("sa1b", links="l")]
    assert [type(kind) for kind in kinds] == [ArchivesSource, S3Source, Sa1bSource]


@pytest.mark.parametrize(("name", "key"), [("folder", "images"), ("s3", "uri"), ("sa1b", "links")])
def test_a_source_without_its_place_is_told_which_key_to_set(source, name: str, key: str) -> None:
    sentence = rf"pull\.source is {name} but pull\.{name}\.{key} is null: name your "
    with pytest.raises(SohesError, match=sentence):
        source(name, **{key: None})
