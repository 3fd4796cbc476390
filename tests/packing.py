"""Packs a whole store of images at once, as the stage `pull` does shard by shard."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from sohes.data.store.pack import Candidate, pack_shard, shard_name, write_manifest
from sohes.data.store.rejected import check_rejected
from sohes.work.publish import new_folder


def pack_images(
    candidates: Iterable[Candidate],
    folder: Path,
    *,
    images_per_shard: int = 100,
    max_megapixels: float = 1,
    apply_exif: bool = False,
    max_rejected_fraction: float = 0,
) -> None:
    """Pack (image id, file name, bytes) into a new store, which replaces `folder` once it is whole."""
    with new_folder(folder) as temporary:
        packed, rejected, rest = [], [], iter(candidates)
        for index in itertools.count():
            if not (group := list(itertools.islice(rest, images_per_shard))):
                break
            path = temporary / shard_name(index)
            done = pack_shard(group, path, max_megapixels=max_megapixels, apply_exif=apply_exif)
            packed += done.entries
            rejected += done.rejected
        check_rejected(len(packed), rejected, max_rejected_fraction=max_rejected_fraction)
        write_manifest(temporary, packed, rejected)
