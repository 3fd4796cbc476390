import json

import pytest

from sohes.data.benchmarks import paco
from sohes.errors import SohesError
from sohes.masks import areas


def test_parts_count_and_their_objects_do_not(sample):
    first, second = paco.read_benchmark(sample("paco"))
    assert areas(first.masks).tolist() == [6]
    assert areas(second.masks).tolist() == [2]


@pytest.mark.parametrize("key", ["id", "obj_ann_id"])
def test_a_file_that_does_not_say_what_is_a_part_is_refused(key, sample):
    root = sample("paco")
    path = root / "annotations/paco_lvis_v1_val.json"
    content = json.loads(path.read_text())
    del content["annotations"][0][key]
    path.write_text(json.dumps(content))
    with pytest.raises(SohesError, match="without id or obj_ann_id"):
        list(paco.read_benchmark(root))
