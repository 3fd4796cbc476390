from sohes.evaluate import tables
from sohes.evaluate.published import BENCHMARKS


def test_a_row_has_its_phase_and_a_dash_where_nothing_was_measured():
    row = {"AR": 12.345, "AR_S": None, "masks_per_image": 7.0, "seconds_per_image": 0.0456}
    assert tables.phase_cells({"explore": row}) == [["explore", "12.3", "-", "-", "-", "-", "7.0", "0.046"]]


def test_markdown_aligns_figures_to_the_right():
    assert tables.markdown(["phase", "AR"], [["explore", "1.0"]]) == "| phase | AR |\n|---|---:|\n| explore | 1.0 |\n"


def test_every_published_row_says_where_it_is_from():
    rows = {row[0]: row for row in tables.published_rows()}
    assert rows["SOHES"][-1] == "SOHES, ICLR 2024, table 1"
    assert rows["UnSAM, 2024"][-1] == "its own paper"
    assert rows["Diffuse2Seg + CutLER, 2026"][6] == "-"
    assert all(len(row) == len(BENCHMARKS) + 2 for row in rows.values())
    assert [row[1] for row in tables.paper_phase_rows()] == ["16.4", "32.6", "33.3"]
    assert all(len(row) == len(tables.COLUMNS) + 2 for row in tables.paper_phase_rows())


def test_costs_add_up():
    cost = {"seconds": 50.0, "processor_seconds": 1800.0, "memory_gib": 1.25, "gpu_memory_gib": None}
    assert tables.cost_rows({"pull": cost, "explore": cost}) == [
        ["pull", "50.0 s", "30 min 00 s", "1.2 GiB", "-"],
        ["explore", "50.0 s", "30 min 00 s", "1.2 GiB", "-"],
        ["all", "1 min 40 s", "1 h 00 min", "", ""],
    ]
    assert tables.cost_rows({}) == []
