"""Write the tables of docs/scale.md from infra/docs/scale.yaml: python -m infra.docs.scale"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/scale.md"
NUMBERS = ROOT / "infra/docs/scale.yaml"


def written(page: str, numbers: dict[str, Any]) -> str:
    """The page with each of its tables between its marks. ValueError for a mark that names no table."""

    def table(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ValueError(f"docs/scale.md marks a table {name!r} (there is: {', '.join(TABLES)})")
        return f"<!-- {name}: begin -->\n\n{TABLES[name](numbers)}\n\n<!-- {name}: end -->"

    return re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", table, page, flags=re.DOTALL)


def rates(numbers: dict[str, Any]) -> str:
    """Each rate with its unit, source and date."""
    rows = [
        (
            name,
            f"{rate['value']:,}",
            rate["unit"],
            "yes" if rate["measured"] else "no",
            rate["source"],
            str(rate["date"]),
        )
        for name, rate in numbers["rates"].items()
    ]
    return _table(("rate", "value", "unit", "measured here", "source", "date"), rows)


def storage(numbers: dict[str, Any]) -> str:
    """Bytes, shards and jobs by the number of images."""
    of, work = _values(numbers), numbers["work"]

    together = work["shards_per_job"]

    def shards(images: int) -> int:
        return math.ceil(images / work["images_per_shard"])

    def jobs(images: int) -> int:
        return math.ceil(shards(images) / together)

    rows: list[tuple[str, Callable[[int], str]]] = [
        ("images", lambda n: _bytes(n * of["image_bytes"])),
        ("manifest", lambda n: _bytes(n * of["manifest_bytes"])),
        ("labels of phase 1", lambda n: _bytes(n * of["masks"] * of["label_bytes"])),
        ("bandwidth to pull in a day", lambda n: f"{n * of['image_bytes'] * 8 / 86400 / 1e6:,.0f} Mbit/s"),
        ("reading all images once, to hash them", lambda n: _hours(n * of["image_bytes"] / of["hash_bytes"] / 3600)),
        ("shards", lambda n: f"{shards(n):,}"),
        (f"jobs of {together} shards", lambda n: f"{jobs(n):,}"),
        ("GPU time in which jobs only start, a shard each", lambda n: _hours(shards(n) * of["start_seconds"] / 3600)),
        (f"the same, {together} shards each", lambda n: _hours(jobs(n) * of["start_seconds"] / 3600)),
    ]
    head = ("", *(f"{n:,} images" for n in numbers["images"]))
    return _table(head, [(name, *map(value, numbers["images"])) for name, value in rows])


def compute(numbers: dict[str, Any]) -> str:
    """Time and money of every phase by the number of images and GPUs. Rates are taken to grow with the GPUs."""
    of, work = _values(numbers), numbers["work"]
    phases = [(f"phase 1, {n:,} images", n / of["explore"]) for n in numbers["images"]]
    phases += [(f"phase 1 at the paper's rate, {n:,} images", n / of["explore_paper"]) for n in numbers["images"]]
    phases.append(("phase 2", work["instruct_images"] / of["instruct"]))
    phases.append(("phase 3", work["correct_images"] / of["correct"]))
    rows = [
        (
            name,
            f"{seconds / 3600:,.0f}",
            *(_hours(seconds / 3600 / gpus) for gpus in numbers["gpus"]),
            f"{seconds / 3600 * of['price']:,.0f} USD",
        )
        for name, seconds in phases
    ]
    return _table(("", "GPU hours", *(f"{n} GPU{'s' * (n > 1)}" for n in numbers["gpus"]), "cost"), rows)


TABLES = {"rates": rates, "storage": storage, "compute": compute}


def _values(numbers: dict[str, Any]) -> dict[str, float]:
    return {name: rate["value"] for name, rate in numbers["rates"].items()}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _hours(hours: float) -> str:
    """In the unit that a person would choose."""
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"


def _bytes(number: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e6:,.0f} MB"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), yaml.safe_load(NUMBERS.read_text())))
