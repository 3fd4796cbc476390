"""Where photographs come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sohes.params.section import Fraction, Positive, Scale, Section

NO_PHOTOGRAPHS = "no good on real photographs"  # by these words among its limits, a model's card says so


class ScenesParams(Section):
    """The embedded generator (`sohes.data.scenes.render`)."""

    size: Positive  # side of a scene, which is square, in pixels
    train: Positive  # scenes to learn from
    eval: Positive  # scenes held out


class FolderParams(Section):
    """A folder of photographs, annotated or not."""

    images: Path | None  # the folder, searched at every depth
    annotations: Path | None  # COCO or COCO panoptic JSON; None: nothing to score against
    eval_fraction: Fraction  # share held out from training; 1: use all images for both; 0: none


class S3Params(Section):
    """Photographs, or packs of them, under an S3 prefix."""

    uri: str | None  # the prefix, written s3://bucket/prefix
    endpoint_url: str | None  # for services other than AWS; None: use AWS_ENDPOINT_URL
    requester_pays: bool  # you pay for the transfer, as some buckets ask
    eval_fraction: Fraction  # share of each pack that is held out, chosen by name
    digests: Path | None  # a file with the packs' digests, as sha256sum writes it


class Sa1bParams(Section):
    """SA-1B, from its list of signed links."""

    links: Path | None  # the list of links: two columns, file_name and cdn_link
    packs: Path | None  # names of the packs to use, one per line; None: all of the list
    eval_fraction: Fraction  # share of the photographs that is held out, chosen by name
    digests: Path | None  # a file with the packs' digests, as sha256sum writes it


class ArchivesParams(Section):
    """Tars and zips, by https or as files, such as COCO's."""

    images: tuple[str, ...]  # links or paths of the archives to learn from
    eval: tuple[str, ...]  # links or paths of archives that are held out as a whole
    annotations: str | None  # COCO instance JSON for `eval`; a file inside an archive is ARCHIVE#FILE
    eval_fraction: Fraction  # share of `images` that is held out, chosen by name
    digests: Path | None  # a file with the archives' digests, as sha256sum writes it


class PullParams(Section):
    """Which photographs, and which of them are left out."""

    source: Literal["scenes", "folder", "s3", "sa1b", "archives"]  # where photographs come from: its section is read
    scenes: ScenesParams
    folder: FolderParams
    s3: S3Params
    sa1b: Sa1bParams
    archives: ArchivesParams
    images_per_shard: Positive  # photographs packed into one shard; a pack or an archive is always one
    max_megapixels: Scale  # a larger photograph is rejected
    annotations_upright: bool  # masks were drawn on photographs turned by EXIF; read where their size does not tell
    max_rejected_fraction: Fraction  # if a larger share of the photographs is rejected, the stage fails
