import numpy as np

from sohes.evaluate.methods import METHODS, Remembering, compare_settings
from sohes.explore.maps import make_extractor
from sohes.masks import mask_set
from sohes.params import load_params
from sohes.structures import ImageRecord


def test_every_method_gets_the_same_photographs_and_has_scores_and_seconds(repository, tmp_path):
    params = load_params(repository / "params.yaml").explore.model_copy(update={"image_size": 64})
    photographs = []
    for i in (1, 2):
        image = np.full((48, 60, 3), (40, 90, 200), np.uint8)
        thing = np.zeros((48, 60), bool)
        thing[8:24, 8 * i : 8 * i + 24] = True
        image[thing] = (210, 60, 40)
        photographs.append((ImageRecord(i, f"{i}.png", "", mask_set(thing[None])), image))
    extract = make_extractor(params, tmp_path)
    settings = {name: (extract, params.model_copy(update={"method": name})) for name in METHODS}
    results = compare_settings(iter(photographs), settings)
    assert tuple(results) == METHODS
    for outcome in results.values():
        assert set(outcome.scores.per_image) == {1, 2}
        assert outcome.cpu_seconds > 0
        assert [record.image_id for record in outcome.records] == [1, 2]
    assert results["sohes"].scores.AR > 50


def test_features_of_the_same_pixels_are_computed_once_and_counted_each_time():
    asked = []

    def extract(images):
        asked.append(len(images))
        sum(range(100_000))
        return [image.astype(np.float32) for image in images]

    remembering = Remembering(extract)
    image, other = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    first = remembering([image, other])
    assert remembering.saved_seconds == 0
    np.testing.assert_array_equal(remembering([image, other])[1], first[1])
    assert asked == [2]
    assert remembering.saved_seconds > 0
    remembering([other, image])
    remembering.forget()
    remembering([image, other])
    assert asked == [2, 2, 2]
    assert remembering([]) == []


def test_images_of_equal_bytes_but_another_shape_are_not_confused():
    remembering = Remembering(lambda images: [image.astype(np.float32) for image in images])
    assert len(remembering([np.zeros((16, 16, 3), np.uint8)])) == 1
    assert len(remembering([np.zeros((8, 8, 3), np.uint8)] * 4)) == 4
