from sohes.evaluate import tables


def test_a_row_has_its_phase_and_a_dash_where_nothing_was_measured():
    row = {"phase": "explore", "AR": 12.345, "AR_S": None, "masks_per_image": 7.0, "seconds_per_image": 0.0456}
    assert tables.phase_cells([row]) == [["explore", "12.3", "-", "-", "-", "-", "7.0", "0.046"]]


def test_markdown_aligns_figures_to_the_right():
    assert tables.markdown(["phase", "AR"], [["explore", "1.0"]]) == "| phase | AR |\n|---|---:|\n| explore | 1.0 |\n"
