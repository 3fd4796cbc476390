import json

import numpy as np
import pytest

from sohes.data.benchmarks import lvis
from sohes.errors import SohesError
from sohes.masks import decode


def test_file_names_come_out_of_the_urls_and_masks_are_marked(sample):
    first, second = lvis.read_benchmark(sample("lvis"))
    assert (first.image_id, first.file_name) == (139, "val2017/000000000139.jpg")
    assert (second.image_id, second.file_name) == (9, "train2017/000000000009.jpg")
    assert first.masks.sources == ("lvis",)
    assert decode(first.masks)[0].sum() == 24
    np.testing.assert_array_equal(first.masks.parents, [-1])


@pytest.mark.parametrize("images", [None, 5, [5], [{"id": 1, "height": 2, "width": 2, "coco_url": 5}]])
def test_images_that_are_none_are_a_sentence(images, tmp_path):
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps({"images": images, "annotations": []}))
    with pytest.raises(SohesError, match=r"lvis_v1_val\.json"):
        list(lvis.read_benchmark(tmp_path))
