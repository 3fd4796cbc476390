import numpy as np

from sohes.evaluate.methods import METHODS, compare_methods
from sohes.explore.label_image import make_extractor
from sohes.masks import mask_set
from sohes.params import load_params
from sohes.structures import ImageRecord


def test_all_methods_see_the_same_photographs_and_each_gets_scores_and_seconds(repository, tmp_path):
    params = load_params(repository / "params.yaml").explore.model_copy(update={"image_size": 64})
    photographs = []
    for i in (1, 2):
        image = np.full((48, 60, 3), (40, 90, 200), np.uint8)
        thing = np.zeros((48, 60), bool)
        thing[8:24, 8 * i : 8 * i + 24] = True
        image[thing] = (210, 60, 40)
        photographs.append((ImageRecord(i, f"{i}.png", "", mask_set(thing[None])), image))
    results = compare_methods(iter(photographs), make_extractor(params, tmp_path), params)
    assert tuple(results) == METHODS
    for scores, seconds in results.values():
        assert set(scores.per_image) == {1, 2}
        assert seconds > 0
    assert results["sohes"][0].AR > 50
