import numpy as np

from sohes.data.benchmarks import lvis
from sohes.masks import decode


def test_file_names_come_out_of_the_urls_and_masks_are_marked(sample):
    first, second = lvis.read_benchmark(sample("lvis"))
    assert (first.image_id, first.file_name) == (139, "val2017/000000000139.jpg")
    assert (second.image_id, second.file_name) == (9, "train2017/000000000009.jpg")
    assert first.masks.sources == ("lvis",)
    assert decode(first.masks)[0].sum() == 24
    np.testing.assert_array_equal(first.masks.parents, [-1])
