"""The source of photographs that `params.yaml` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sohes.data.sources.archives import ArchivesSource
from sohes.data.sources.folder import FolderSource
from sohes.data.sources.s3 import S3Source
from sohes.data.sources.sa1b import Sa1bSource
from sohes.data.sources.scenes import ScenesSource
from sohes.data.sources.source import PackSource, Source
from sohes.errors import SohesError
from sohes.params import Params


def named_source(params: Params, root: Path) -> Source | PackSource:
    """The source that `pull.source` names; relative paths start at the project's folder `root`.

    SohesError if the key that says where its photographs are is null.
    """
    pull = params.pull

    def here(path: Path | None) -> Path | None:
        return None if path is None else root / path.expanduser()

    def absolute(link: str) -> str:
        return link if "://" in link else str(here(Path(link)))

    def given(value: Any, key: str, what: str) -> Any:
        if value is None:
            raise SohesError(f"pull.source is {pull.source} but pull.{pull.source}.{key} is null: name {what} there")
        return value

    if pull.source == "scenes":
        return ScenesSource(size=pull.scenes.size, train=pull.scenes.train, held_out=pull.scenes.eval, seed=params.seed)
    if pull.source == "s3":
        s3, uri = pull.s3, given(pull.s3.uri, "uri", "your s3://bucket/prefix")
        packed, digests = pull.images_per_shard, here(s3.digests)
        return S3Source(uri, s3.endpoint_url, s3.requester_pays, s3.eval_fraction, packed, digests)
    if pull.source == "sa1b":
        sa1b, links = pull.sa1b, given(here(pull.sa1b.links), "links", "your list of links")
        return Sa1bSource(links, here(sa1b.packs), sa1b.eval_packs, sa1b.eval_fraction, here(sa1b.digests))
    if pull.source == "archives":
        many = pull.archives
        truth = None if many.annotations is None else absolute(many.annotations)
        images, held_out = tuple(map(absolute, many.images)), tuple(map(absolute, many.eval))
        return ArchivesSource(images, held_out, truth, many.eval_fraction, here(many.digests))
    images_folder = given(here(pull.folder.images), "images", "your folder of photographs")
    return FolderSource(images_folder, here(pull.folder.annotations), pull.folder.eval_fraction)
