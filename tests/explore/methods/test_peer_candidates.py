import numpy as np
import pytest

from sohes.explore.label_image import label_image
from sohes.explore.maps import make_extractor
from sohes.explore.peers import peer_candidates
from sohes.masks import decode
from sohes.params import load_params


@pytest.fixture(scope="module")
def params(repository):
    return load_params(repository / "params.yaml").explore.model_copy(update={"image_size": 64})


def photograph() -> np.ndarray:
    image = np.full((48, 60, 3), (40, 90, 200), np.uint8)
    image[10:30, 12:40] = (210, 60, 40)
    return image


@pytest.mark.parametrize("method", ["maskcut", "hassod", "divide", "threshold"])
def test_every_method_finds_the_plain_object_through_the_same_steps(method, params, tmp_path):
    settings = params.model_copy(update={"method": method})
    found = label_image(photograph(), make_extractor(settings, tmp_path), settings)
    drawn = decode(found)
    thing = np.zeros((48, 60), bool)
    thing[10:30, 12:40] = True
    best = max((mask & thing).sum() / (mask | thing).sum() for mask in drawn)
    assert best > 0.7
    assert set(found.sources) == {method}


def test_a_method_that_is_none_is_refused(params):
    with pytest.raises(ValueError, match="got 'sohes'"):
        peer_candidates(np.zeros((4, 4, 3), np.float32), params, image_hw=(8, 8), size=(8, 8))
