from pathlib import Path

import pytest

from sohes.commands.init import MEASURED, how_many


@pytest.mark.parametrize("count", [1, 948, 949])
def test_few_photographs_are_told_the_figures_and_what_to_do_instead(count):
    figures, instead = how_many(count, Path("my photos"))
    assert figures.startswith(f"Photographs here: {count}. Training wants more than 949: ")
    assert "`sohes segment 'my photos'`" in instead
    assert "`sohes label 'my photos'`" in instead


def test_many_photographs_are_trained_on_without_a_word():
    assert how_many(950, Path("photos")) == []


def test_the_figures_are_those_of_the_documentation(repository):
    lines = (repository / "docs/faq.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    told = {row[0]: (float(row[2]), float(row[3])) for row in rows if row and row[0].endswith("9 photographs")}
    told |= {row[0]: (float(row[2]), float(row[3])) for row in rows if row and row[0] == "106 photographs"}
    assert told == {f"{count} photographs": figures for count, figures in MEASURED.items()}
