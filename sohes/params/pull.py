"""Where photographs come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sohes.params.section import Fraction, Positive, Scale, Section


class ScenesParams(Section):
    """The embedded generator (`sohes.data.scenes.render`)."""

    size: Positive  # pixels, square
    train: Positive  # images
    eval: Positive


class FolderParams(Section):
    """A folder of photographs, annotated or not."""

    images: Path | None
    annotations: Path | None  # COCO or COCO panoptic JSON; None: nothing to score against
    eval_fraction: Fraction  # held out from training; 1: use all images for both (see sources.folder); 0: none


class S3Params(Section):
    """Photographs, or packs of them, under an S3 prefix."""

    uri: str | None  # s3://bucket/prefix
    endpoint_url: str | None  # for services other than AWS; None: use AWS_ENDPOINT_URL
    requester_pays: bool
    eval_fraction: Fraction  # of each pack, by name
    digests: Path | None  # of packs, in the format of sha256sum


class Sa1bParams(Section):
    """SA-1B, from its list of signed links."""

    links: Path | None  # two columns, file_name and cdn_link
    packs: Path | None  # names of the packs to use, one per line; None: all of the list
    eval_fraction: Fraction
    digests: Path | None


class ArchivesParams(Section):
    """Tars and zips, by https or as files, such as COCO's."""

    images: tuple[str, ...]
    eval: tuple[str, ...]  # held out as a whole
    annotations: str | None  # COCO instance JSON for `eval`; a file inside an archive is ARCHIVE#FILE
    eval_fraction: Fraction  # of `images`
    digests: Path | None


class PullParams(Section):
    source: Literal["scenes", "folder", "s3", "sa1b", "archives"]
    scenes: ScenesParams
    folder: FolderParams
    s3: S3Params
    sa1b: Sa1bParams
    archives: ArchivesParams
    images_per_shard: Positive
    max_megapixels: Scale
    annotations_upright: bool  # masks were drawn on photographs turned by EXIF; read where their size does not tell
    max_rejected_fraction: Fraction
