import json

import pytest

from sohes.data.store.rejected import Rejected, check_rejected, write_rejected
from sohes.errors import SohesError

FOUR = [Rejected(f"{name}.jpg", "too odd") for name in "abcd"]


def test_a_line_of_json_per_image(tmp_path):
    write_rejected(tmp_path / "rejected.jsonl", [Rejected("ä.jpg", "damaged")])
    assert json.loads((tmp_path / "rejected.jsonl").read_text("utf-8")) == {"file_name": "ä.jpg", "reason": "damaged"}
    write_rejected(tmp_path / "rejected.jsonl", [])
    assert (tmp_path / "rejected.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("kept", "rejected", "stage", "sentence"),
    [
        (0, [], "pull", "the source has no images"),
        (0, FOUR, "pull", r"none of 4 images can be used: .*a\.jpg: too odd; b\.jpg: too odd; c\.jpg: too odd$"),
        (0, FOUR, "explore", "none of 4 images could be labelled"),
        (3, FOUR, "explore", r"4 of 7 images could not be labelled, more than explore\.max_rejected_fraction \(0\.5\)"),
        (3, FOUR, "pull", r"4 of 7 images cannot be used, more than pull\.max_rejected_fraction \(0\.5\)"),
    ],
)
def test_too_many_rejected_images_stop_a_stage(kept, rejected, stage, sentence):
    limit = 1 if not kept else 0.5
    with pytest.raises(SohesError, match=sentence):
        check_rejected(kept, rejected, max_rejected_fraction=limit, stage=stage)


def test_as_many_as_allowed_pass():
    check_rejected(4, FOUR, max_rejected_fraction=0.5)
