"""What the shards of a store hold together, added up one shard at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sohes.data.store.pack import Packed
from sohes.data.store.rejected import Rejected


def facts_of(done: Packed) -> dict[str, list]:
    """A packed shard as JSON."""
    entries, rejected = (list(map(asdict, rows)) for rows in (done.entries, done.rejected))
    return {"packed": entries, "rejected": rejected, "assumed": done.assumed}


@dataclass
class Tally:
    """Counts of images by split, without their rows. Names are of photographs that EXIF says to turn.

    assumed: whose frame had to be assumed.  turned: only those that turn for the size of their annotations.
    spoilt: the shards with a rejected image.
    """

    packed: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, list[Rejected]] = field(default_factory=dict)
    assumed: set[str] = field(default_factory=set)
    turned: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    packs: list[dict[str, str]] = field(default_factory=list)
    spoilt: list[int] = field(default_factory=list)


def add_up(parts: Iterable[dict[str, Any]], splits: Sequence[str], *, apply_exif: bool) -> Tally:
    """The tally of all shards. parts: of each, `facts_of` every split in it, its `notes`, and its `pack`, if any."""
    found = Tally(rejected={split: [] for split in splits})
    for index, part in enumerate(parts):
        for split in part.keys() & set(splits):
            packed, rejected = part[split]["packed"], part[split]["rejected"]
            found.packed[split] += len(packed)
            found.rejected[split] += [Rejected(**image) for image in rejected]
            found.assumed.update(part[split]["assumed"])
            if not apply_exif:  # else all are, as a rule of the source
                found.turned.update(entry["file_name"] for entry in packed if entry["apply_exif"])
        if any(part.get(split, {}).get("rejected") for split in splits):
            found.spoilt.append(index)
        found.notes += part.get("notes", ())
        found.packs += [part["pack"]] if "pack" in part else []
    found.turned -= found.assumed
    return found
