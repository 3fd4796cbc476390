"""The page on scale is what its script makes of the measured rates."""

import copy
import datetime
import re

import pytest
import yaml

from infra.docs import scale


@pytest.fixture
def numbers() -> dict:
    return yaml.safe_load(scale.NUMBERS.read_text())


def test_the_page_is_what_the_script_writes(numbers):
    page = scale.PAGE.read_text()
    assert scale.written(page, numbers) == page, "run `python -m infra.docs.scale`"
    assert set(re.findall(r"<!-- (\w+): begin -->", page)) == set(scale.TABLES)


def test_every_rate_has_its_unit_source_and_date(numbers):
    for name, rate in numbers["rates"].items():
        assert rate.keys() == {"value", "unit", "measured", "source", "date"}, name
        assert rate["value"] > 0
        assert isinstance(rate["date"], datetime.date)
        assert rate["source"]


def rows(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {name: rest for name, *rest in cells}


def test_the_figures_by_hand(numbers):
    numbers = copy.deepcopy(numbers) | {"images": [36_000], "gpus": [1, 10]}
    numbers["rates"]["explore"]["value"], numbers["rates"]["price"]["value"] = 0.1, 3
    numbers["rates"]["start_seconds"]["value"] = 100
    numbers["rates"]["image_bytes"]["value"] = 1_000_000
    # 36,000 images at 10 s are 360,000 s.
    assert rows(scale.compute(numbers))["phase 1, 36,000 images"] == ["100", "4.2 days", "10.0 h", "300 USD"]
    found = rows(scale.storage(numbers))
    assert (found["images"], found["shards"], found["jobs of 12 shards"]) == (["36.0 GB"], ["36"], ["3"])
    assert found["GPU time in which jobs only start, a shard each"] == ["1.0 h"]
    assert found["the same, 12 shards each"] == ["5 min"]


def test_a_mark_of_no_table_is_an_error(numbers):
    with pytest.raises(ValueError, match="marks a table 'weather'"):
        scale.written("<!-- weather: begin --> <!-- weather: end -->", numbers)
