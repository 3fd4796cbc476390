import numpy as np
import pytest

from sohes.explore.label_image import label_image
from sohes.explore.local import Candidates
from sohes.explore.maps import make_extractor
from sohes.explore.merge.tree import unit_features
from sohes.explore.peers import peer_candidates
from sohes.masks import decode
from sohes.masks.stretch import encode_stretched
from sohes.params import load_params
from sohes.structures import MaskSet


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


@pytest.mark.parametrize("method", ["maskcut", "hassod", "divide", "threshold"])
def test_with_normalise_no_method_sees_how_long_a_feature_is(method, params):
    random = np.random.default_rng(0)
    unit = unit_features(random.normal(size=(12, 12, 4)).astype(np.float32))
    unit[3:9, 3:9] = unit[3, 3]
    long = unit * random.choice([0.25, 1, 8], size=(12, 12, 1)).astype(np.float32)
    settings = params.model_copy(update={"method": method, "normalise": True, "theta_merge": (0.5, 0.3, 0.1)})
    of_long, of_unit = (peer_candidates(f, settings, image_hw=(12, 12), size=(12, 12)) for f in (long, unit))
    assert len(of_unit)
    np.testing.assert_array_equal(unpacked(of_long), unpacked(of_unit))


def unpacked(found: Candidates) -> np.ndarray:
    rles, sources = encode_stretched(found.masks, (12, 12)), tuple(found.sources.tolist())
    return decode(MaskSet(12, 12, rles, found.scores, np.full(len(found), -1), sources))
