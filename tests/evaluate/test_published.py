import pytest

from sohes.data.benchmarks.catalogue import BENCHMARKS
from sohes.evaluate import published


def test_every_published_benchmark_is_one_that_can_be_scored():
    assert set(published.BENCHMARKS) <= set(BENCHMARKS)
    assert {len(figures) for figures in published.PUBLISHED_AR.values()} == {len(published.BENCHMARKS)}


def test_the_two_tables_of_the_paper_agree_on_ar():
    table_1 = {
        "SAM (supervised)": (49.6, 46.1, 45.8, 45.9, 60.8, 28.3, 18.1),
        "FreeSOLO": (11.6, 5.9, 7.3, 8.0, 2.2, 13.8, 2.4),
        "CutLER": (28.1, 20.2, 26.3, 23.1, 17.0, 28.7, 8.9),
        "HASSOD": (28.3, 22.5, 27.8, 26.2, 26.0, 32.6, 11.4),
        "SOHES": (30.5, 29.1, 31.1, 33.5, 33.3, 36.0, 17.1),
    }
    assert {method: published.PUBLISHED_AR[method] for method in table_1} == table_1


def test_rows_name_their_source_and_leave_out_what_nobody_gives():
    rows = {row.method: row for row in published.published_on("sa1b")}
    assert (rows["SOHES"].AP, rows["SOHES"].AR_S, rows["SOHES"].AR_L) == (12.9, 8.6, 42.0)
    assert rows["SOHES"].source.endswith("table 4")
    assert rows["MoSA, 2026"].AR_S is None
    parts = {row.method: row for row in published.published_on("partimagenet")}
    assert parts["SOHES"].source.endswith("table 5")
    assert "Diffuse2Seg + CutLER, 2026" not in parts


@pytest.mark.parametrize("name", ["coco_panoptic", "pascal_part", "bsds500"])
def test_what_the_papers_do_not_use_has_no_row(name):
    assert published.published_on(name) == []
