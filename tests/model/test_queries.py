import pytest
import torch

from sohes.model.mask_decoder import MaskDecoder
from sohes.model.pixel_decoder import PixelFeatures
from sohes.model.queries import GridQueries


def painted(side=16, dim=32):
    """Mask features of four quarters, each with an orthogonal feature, on a common ground far from zero."""
    features = torch.full((1, dim, side, side), 3.0)
    half = side // 2
    for channel, (y, x) in enumerate([(0, 0), (0, half), (half, 0), (half, half)]):
        features[0, channel, y : y + half, x : x + half] += 1
    return features


def decoder(dim=32, num_queries=21):
    torch.manual_seed(0)
    return MaskDecoder(dim, num_queries=num_queries, queries="grid", num_heads=2, feedforward_dim=32, layers=1)


def pixels(features):
    dim, shapes = features.shape[1], ((2, 2), (4, 4), (8, 8))
    return PixelFeatures(features, tuple(torch.randn(1, h * w, dim) for h, w in shapes), shapes)


def test_places_form_three_grids_each_twice_as_fine():
    queries = GridQueries(84, 32)
    assert torch.equal(queries.level_Q.bincount(), torch.tensor([4, 16, 64]))
    assert queries.places_Q2[:4].tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    assert queries.radius_Q.unique().tolist() == [0.125, 0.25, 0.5]


def test_before_training_a_mask_is_what_looks_like_its_place():
    """The first of the 4 x 4 finest queries stands in the upper left quarter, its window reaches a quarter across."""
    model = decoder()
    logits = model(pixels(painted())).auxiliary[0].mask_logits_BQhw[0, 5].detach()
    assert (logits[:6, :6] > 0).all()  # like its place, and within the window
    assert (logits[:, 8:] < 0).all()  # of another kind
    assert (logits[8:, :] < 0).all()
    assert logits[0, 0] > logits[7, 7] > logits[15, 15]


def test_before_training_a_coarse_query_covers_its_whole_quarter():
    model = decoder(num_queries=84)
    logits = model(pixels(painted())).auxiliary[0].mask_logits_BQhw[0, 0].detach()
    assert (logits[:8, :8] > 0).all()
    assert (logits[8:, 8:] < 0).all()


def test_without_any_likeness_an_entity_is_a_tenth_likely():
    queries = GridQueries(21, 32)
    rows, columns = queries.window_logits(torch.zeros(1, 1, 21, 32), 64, 64)
    centre = (rows[..., 32] + columns[..., 32])[0, 0, 0].sigmoid().item()
    assert centre == pytest.approx(0.1, abs=0.03)


def test_windows_follow_the_head():
    """Head outputs (shift x, shift y, grow x, grow y): the window moves by radii and grows by powers of e."""
    queries = GridQueries(21, 4)
    with torch.no_grad():
        queries.window.bias.copy_(torch.tensor([0.25, 0.0, -2.0, 0.0]))
    _, columns = queries.window_logits(torch.zeros(1, 1, 21, 4), 8, 40)
    peak = columns[0, 0, 0].argmax().item()
    assert abs((peak + 0.5) / 40 - 0.75) < 0.03  # from 0.5, by a quarter of the radius 1
    assert (columns[0, 0, 0] > -0.7).sum() == pytest.approx(40 * 2 * 0.135, abs=2)


def test_scaling_or_shifting_the_mask_features_changes_nothing():
    model = decoder()
    first = model(pixels(painted())).auxiliary[0].mask_logits_BQhw
    again = model(pixels(5 * painted() - 40)).auxiliary[0].mask_logits_BQhw
    torch.testing.assert_close(first, again, atol=1e-3, rtol=1e-3)


def test_embeddings_of_finer_grids_lie_between_those_around_them():
    places, finer = GridQueries(84, 32).places_Q2, GridQueries(21 * 16, 32)
    fitted = GridQueries.for_grids(places.repeat(1, 16), 21 * 16)
    assert fitted.shape == (21 * 16, 32)
    for level in range(3):  # what grows steadily with the place still does, but for the rim
        side = 4 << level
        found, expected = (of[finer.level_Q == level].view(side, side, -1) for of in (fitted[:, :2], finer.places_Q2))
        torch.testing.assert_close(found[1:-1, 1:-1], expected[1:-1, 1:-1])
    assert torch.equal(GridQueries.for_grids(places, 84), places)
