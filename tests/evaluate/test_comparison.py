import numpy as np

from sohes.evaluate.comparison import comparison_markdown
from sohes.evaluate.recall import evaluate_masks
from sohes.masks import mask_set
from sohes.structures import ImageRecord


def image(image_id: int, found: int, parents: tuple[int, ...] = ()) -> ImageRecord:
    """The first `found` of four squares of 40 x 40 pixels (medium size)."""
    drawn = np.zeros((found, 40, 160), bool)
    for i in range(found):
        drawn[i, :, 40 * i : 40 * i + 40] = True
    masks = mask_set(drawn, scores=np.ones(found), parents=list(parents) or None)
    return ImageRecord(image_id, "", "", masks)


def test_rows_are_followed_by_gains_over_the_row_before():
    truth = [image(i, 4) for i in range(6)]
    runs = {
        "one": evaluate_masks(truth, [image(i, 1) for i in range(6)]),
        "two": evaluate_masks(truth, [image(i, 2) for i in range(6)]),
        "mixed": evaluate_masks(truth, [image(i, 1 + 2 * (i % 2)) for i in range(6)]),
    }
    lines = comparison_markdown(runs).splitlines()
    assert lines[0] == "|  | AR | M | AR@100 | masks/img |"  # nothing small or large and no parents are annotated
    assert lines[2] == "| one | 25.0 (25.0 to 25.0) | 25.0 (25.0 to 25.0) | 25.0 (25.0 to 25.0) | 1.0 |"
    assert lines[5].startswith("| two minus one | **+25.0** (+25.0 to +25.0) |")
    assert lines[6].startswith("| mixed minus two | +0.0 (-")
    assert lines[6].endswith("| +0.0 |")
    assert len(lines) == 7


def test_ancestors_have_a_column_if_they_are_annotated():
    truth = [image(1, 2, parents=(-1, 0))]
    table = comparison_markdown({"all": evaluate_masks(truth, truth)})
    assert "| ancestor F1 |" in table
    assert table.count("100.0 (100.0 to 100.0)") == 4
