"""Where photographs come from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sohes.params.section import Fraction, Positive, Scale, Section

NO_PHOTOGRAPHS = "no good on real photographs"  # by these words among its limits, a model's card says so


class ScenesParams(Section):
    """The embedded generator (`sohes.data.scenes.render`)."""

    size: Positive
    """Side of a scene, which is square, in pixels."""
    train: Positive
    """Scenes to learn from."""
    eval: Positive
    """Scenes held out."""


class FolderParams(Section):
    """A folder of photographs, annotated or not."""

    images: Path | None
    """The folder of photographs, searched at every depth."""
    annotations: Path | None
    """COCO or COCO panoptic JSON; null: nothing to score against."""
    eval_fraction: Fraction
    """Share held out from training; 1: use all images for both; 0: none."""


class S3Params(Section):
    """Photographs, or packs of them, under an S3 prefix."""

    uri: str | None
    """The prefix, written s3://bucket/prefix."""
    endpoint_url: str | None
    """The address of a service other than AWS; null: use AWS_ENDPOINT_URL."""
    requester_pays: bool
    """Whether you pay for the transfer, as some buckets ask."""
    eval_fraction: Fraction
    """Share of each pack that is held out, chosen by name."""
    digests: Path | None
    """A file with the packs' digests, as sha256sum writes it."""


class Sa1bParams(Section):
    """SA-1B, from its list of signed links."""

    links: Path | None
    """The list of links: two columns, file_name and cdn_link."""
    packs: Path | None
    """Names of the packs to learn from, one per line; null: all of the list."""
    eval_packs: tuple[str, ...]
    """Names of packs that are held out as a whole."""
    eval_fraction: Fraction
    """Share of the photographs of `packs` that is held out, chosen by name."""
    digests: Path | None
    """A file with the packs' digests, as sha256sum writes it."""


class ArchivesParams(Section):
    """Tars and zips, by https or as files, such as COCO's."""

    images: tuple[str, ...]
    """Links or paths of the archives to learn from."""
    eval: tuple[str, ...]
    """Links or paths of archives that are held out as a whole."""
    annotations: str | None
    """COCO instance JSON for `eval`; a file inside an archive is ARCHIVE#FILE."""
    eval_fraction: Fraction
    """Share of `images` that is held out, chosen by name."""
    digests: Path | None
    """A file with the archives' digests, as sha256sum writes it."""


class PullParams(Section):
    """Which photographs, and which of them are left out."""

    source: Literal["scenes", "folder", "s3", "sa1b", "archives"]
    """Where photographs come from: its section is read."""
    scenes: ScenesParams
    folder: FolderParams
    s3: S3Params
    sa1b: Sa1bParams
    archives: ArchivesParams
    images_per_shard: Positive
    """Photographs packed into one shard; a pack or an archive is always one."""
    max_megapixels: Scale
    """A photograph with more is rejected."""
    annotations_upright: bool
    """Whether masks were drawn on photographs turned by EXIF; read where their size does not tell."""
    max_rejected_fraction: Fraction
    """If a larger share of the photographs is rejected, the stage fails."""

    @property
    def held_out_key(self) -> str:
        """The key that says how many are held out."""
        return "pull.scenes.eval" if self.source == "scenes" else f"pull.{self.source}.eval_fraction"

    @property
    def holds_out(self) -> bool:
        """Whether some are to be held out."""
        section = getattr(self, self.source)
        whole = getattr(section, "eval", ()) or getattr(section, "eval_packs", ())
        return bool(whole) or section.eval_fraction > 0
