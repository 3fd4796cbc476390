import re

from sohes.evaluate import plots


def test_the_chosen_thresholds_are_marked_on_the_curve_of_figure_8():
    svg = plots.masks_per_threshold([0.1, 0.5, 0.9], [1, 20, 300], chosen=[0.6, 0.5])
    assert svg.startswith("<svg")
    assert "used by this profile" in svg
    assert len(re.findall("stroke-dasharray: 2.96", svg)) == 3  # two lines and the legend's


def test_a_plot_is_the_same_bytes_twice():
    drawn = [plots.masks_per_threshold([0.1, 0.9], [1, 9], chosen=[0.6]) for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_what_was_not_measured_has_no_bar():
    rows = {"explore": {"AR": 12.3, "AR_S": None, "AR_M": 0.0}, "correct": {"AR": 20.1, "AR_S": None, "AR_M": 4.5}}
    words = re.findall(">([^<>]+)</text>", plots.recall_by_size(rows))
    assert [word for word in words if re.fullmatch(r"\d+\.\d", word)] == ["12.3", "0.0", "20.1", "4.5"]
    assert {"AR_S", "AR_L"} <= set(words)
