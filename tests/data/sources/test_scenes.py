import io

import numpy as np
import pytest
from PIL import Image

from sohes.data.scenes.render import EVAL_OFFSET, render_scene
from sohes.data.sources.scenes import ScenesSource
from sohes.data.store.decode import decode_image
from sohes.errors import SohesError
from sohes.masks import encode

SOURCE = ScenesSource(size=64, train=5, held_out=3, seed=0)


def test_training_and_evaluation_have_no_scene_in_common() -> None:
    plan = SOURCE.plan()
    assert [photograph.image_id for photograph in plan.train] == [1, 2, 3, 4, 5]
    assert [photograph.image_id for photograph in plan.held_out] == [EVAL_OFFSET + i for i in (1, 2, 3)]
    assert len({photograph.file_name for photograph in plan.train + plan.held_out}) == 8
    with pytest.raises(SohesError, match="at most 1000000"):
        ScenesSource(size=64, train=EVAL_OFFSET + 1, held_out=1, seed=0).plan()


def test_images_and_truth_are_the_scene() -> None:
    photograph = SOURCE.plan().held_out[1]
    scene = render_scene(EVAL_OFFSET + 1, size=64, seed=0)
    data = SOURCE.read(photograph)
    assert data == SOURCE.read(photograph)
    assert Image.open(io.BytesIO(data)).format == "PNG"
    np.testing.assert_array_equal(decode_image(data, max_megapixels=1, apply_exif=False), scene.image_HW3)
    (record,) = SOURCE.truth([photograph.image_id])
    assert (record.image_id, record.file_name) == (photograph.image_id, photograph.file_name)
    assert record.masks.rles == encode(scene.masks_NHW)
    np.testing.assert_array_equal(record.masks.parents, scene.parents_N)
