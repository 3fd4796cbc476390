from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sohes import masks
from sohes.evaluate.predict import segment_images
from sohes.masks import forest
from sohes.model.checkpoint import load_checkpoint
from sohes.model.network import AdaptedNetwork
from sohes.params import Params
from sohes.structures import ModelOutput

SIZE = 64
IMAGES = [np.random.default_rng(i).integers(0, 256, hw, np.uint8) for i, hw in enumerate([(61, 83, 3), (40, 27, 3)])]


@pytest.fixture
def settings(tiny_params):
    """The `evaluate` section with levels and other changes."""

    def changed(*levels, **changes):
        params = Params.model_validate(tiny_params).evaluate
        return params.model_copy(update={"tiles": params.tiles.model_copy(update={"levels": levels}), **changes})

    return changed


class Bright(AdaptedNetwork):
    """Finds one mask, what is white in the image, and counts the squares that it sees at once."""

    def __init__(self):
        nn.Module.__init__(self)
        self.params = SimpleNamespace(image_size=SIZE, cascade=SimpleNamespace(theta_cover=0.9))
        self.adapter = SimpleNamespace(
            backbone=SimpleNamespace(normalise=lambda squares: torch.from_numpy(np.stack(squares)))
        )
        self.seen = []

    def forward(self, squares_BSS3):
        self.seen.append(len(squares_BSS3))
        cells = squares_BSS3[..., 0].float().unflatten(1, (-1, 4)).unflatten(3, (-1, 4)).mean((2, 4))
        logits = (cells[:, None] - 128) / 10
        return ModelOutput(torch.tensor([9.0, -9.0]).expand(len(cells), 1, 2), logits, None)


def white(*boxes, height=96, width=128):
    image = np.zeros((height, width, 3), np.uint8)
    for y0, x0, y1, x1 in boxes:
        image[y0:y1, x0:x1] = 255
    return image


def test_the_level_of_the_whole_alone_changes_nothing(settings, tiny_model):
    network, _ = load_checkpoint(tiny_model)
    without, with_it = (list(segment_images(network, IMAGES, settings(*levels), source="x")) for levels in ((), (1.0,)))
    for a, b in zip(without, with_it, strict=True):
        assert len(a) > 3
        assert a.rles == b.rles
        assert a.scores.tobytes() == b.scores.tobytes()
        assert a.parents.tobytes() == b.parents.tobytes()


@pytest.mark.parametrize("refiner", ["none", "guided"])
def test_a_network_end_to_end_on_images_of_odd_sizes(settings, tiny_model, refiner):
    network, _ = load_checkpoint(tiny_model)
    alone = list(segment_images(network, IMAGES, settings(refiner=refiner), source="x"))
    closer = list(segment_images(network, IMAGES, settings(0.6, 0.35, refiner=refiner), source="x"))
    for image, one, more in zip(IMAGES, alone, closer, strict=True):
        assert (more.height, more.width) == image.shape[:2]
        assert len(more) > len(one)
        assert set(more.sources) == {"x"}
        assert masks.areas(more).min() > 0
        forest.forest_ancestors(more.parents)
        assert (np.diff(more.scores) <= 0).all()


def test_a_mask_cut_by_a_window_is_dropped_and_one_at_the_images_border_stays(settings):
    """The windows' inner sides lie at rows 38 and 58 and columns 51 and 77."""
    at_the_border, across = (0, 4, 12, 24), (20, 60, 80, 70)
    rules = settings(0.6, nms_iou=0.4, refiner="none", votes=False)
    (corner,) = segment_images(Bright(), [white(at_the_border)], rules, source="x")
    assert len(corner) == 1  # the whole image and the first window agree
    box = masks.bounding_boxes(masks.decode(corner))[0]
    assert box[0] == 0
    assert box == pytest.approx(at_the_border, abs=3)
    (long,) = segment_images(Bright(), [white(across)], rules, source="x")
    assert len(long) == 1
    assert long.scores[0] > 0.95  # not times 0.9: only the whole image shows all of it


def test_a_window_finds_what_the_whole_image_is_too_coarse_for(settings):
    small = (4, 4, 12, 12)
    image = white(small, height=192, width=256)
    (coarse,) = segment_images(Bright(), [image], settings(refiner="none"), source="x")
    (closer,) = segment_images(Bright(), [image], settings(0.3, refiner="none"), source="x")
    assert len(coarse) == 0  # a quarter of a cell, which is 16 pixels wide here
    assert masks.bounding_boxes(masks.decode(closer))[0] == pytest.approx(small, abs=2)


def test_windows_of_several_images_fill_the_batches(settings):
    network, images = Bright(), [white((4, 4, 30, 30))] * 3
    found = list(segment_images(network, images, settings(0.6, batch_size=4), source="x"))
    assert network.seen == [4, 4, 4, 3]
    assert len(found) == 3
    assert len({one.rles for one in found}) == 1
