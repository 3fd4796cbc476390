import pytest
import torch
from torch.nn import functional as F

from sohes.losses.points import (
    EveryCell,
    UncertainPoints,
    area_targets,
    compare,
    most_uncertain,
    random_points,
    sample,
    sample_targets,
)
from sohes.params import LossParams
from sohes.structures import MaskFactors

PARAMS = LossParams(
    class_weight=2,
    matching_class_weight=2,
    queries_per_target=1,
    near_dice=0.7,
    mask_weight=5,
    dice_weight=5,
    ancestor_weight=1,
    no_object_weight=0.1,
    num_points=40,
    oversample_ratio=3,
    importance_fraction=0.75,
    deep_supervision=True,
    matched_only=False,
)


def test_a_point_in_the_middle_of_a_pixel_reads_that_pixel():
    masks = torch.tensor([[[1, 0], [0, 0]], [[0, 1], [1, 0]]]).bool()
    centres = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])  # (x, y), row by row
    assert sample_targets(masks, centres).tolist() == [[1, 0, 0, 0], [0, 1, 1, 0]]
    assert sample_targets(masks, torch.tensor([[0.5, 0.5]])).tolist() == [[0.25], [0.5]]


def test_targets_are_sampled_as_grid_sample_does_the_border_included():
    torch.manual_seed(0)
    masks = torch.rand(3, 13, 17) > 0.5
    points = torch.cat([torch.rand(200, 2), torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.3]])])
    torch.testing.assert_close(sample_targets(masks, points), sample(masks.float(), points), rtol=0, atol=1e-5)


def test_a_cell_holds_the_share_that_the_mask_covers():
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]).bool()
    assert area_targets(mask[None], 2, 2).tolist() == [[1, 0.25, 0.25, 0]]
    assert area_targets(torch.zeros(0, 4, 4, dtype=torch.bool), 2, 2).shape == (0, 4)


def test_shares_of_cells_that_do_not_divide_the_image_stay_in_range():
    cells = area_targets(torch.rand(2, 10, 14) > 0.3, 4, 5)
    assert cells.shape == (2, 20)
    assert 0 <= cells.min() <= cells.max() <= 1


def test_the_uncertain_points_lie_on_the_edge():
    left = torch.full((1, 8, 8), -10.0)
    left[:, :, :4] = 10.0  # the decision boundary is the line x = 0.5
    candidates = random_points(400, device=torch.device("cpu"), generator=torch.Generator().manual_seed(0))
    candidates = 0.1 + 0.8 * candidates  # samples fade to 0 within half a cell of the image's border
    kept = candidates[most_uncertain(sample(left, candidates), 20)[0]]
    assert len(kept) == 20
    dropped_distance = (candidates[:, 0] - 0.5).abs().sort().values[20:].min()
    assert (kept[:, 0] - 0.5).abs().max() <= dropped_distance + 1e-6


def test_points_are_uniform_and_one_seed_gives_one_draw():
    draws = [
        random_points(4000, device=torch.device("cpu"), generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert 0 <= draws[0].min() <= draws[0].max() < 1
    counts, _ = torch.histogramdd(draws[0], bins=[4, 4], range=[0.0, 1.0, 0.0, 1.0])
    assert (counts - 250).abs().max() < 75  # 250 expected, sigma 15


def plain(logits_Qhw: torch.Tensor) -> MaskFactors:
    """Factors whose product is these logits."""
    return MaskFactors(torch.eye(len(logits_Qhw))[None], logits_Qhw[None])


def factors(windows: bool) -> MaskFactors:
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 7, 5), (2, 5, 9, 6), (2, 7, 9), (2, 7, 6)]
    parts = [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]
    return MaskFactors(*parts[: 4 if windows else 2])


def test_num_points_decides_the_comparison():
    masks = [torch.rand(2, 16, 16) > 0.5, torch.rand(0, 16, 16) > 0.5]
    predicted = MaskFactors(torch.randn(2, 3, 4), torch.randn(2, 4, 4, 4))
    dense = compare(predicted, masks, PARAMS.model_copy(update={"num_points": 0}))
    assert isinstance(dense, EveryCell)
    assert dense.matching_TP.shape == (2, 16)
    sampled = compare(predicted, masks, PARAMS)
    assert isinstance(sampled, UncertainPoints)
    assert sampled.matching_TP.shape == (2, 40)
    assert sampled.candidates_TS.shape == (2, 120)
    assert sampled.uniform_TU.shape == (2, 10)


@pytest.mark.parametrize("num_points", [0, 40])
def test_pairs_line_up_predictions_with_their_targets(num_points):
    torch.manual_seed(0)
    masks = F.interpolate((torch.rand(1, 5, 4, 4) > 0.5).float(), size=(16, 16))[0].bool()
    params = PARAMS.model_copy(update={"num_points": num_points})
    predicted = MaskFactors(torch.eye(5).repeat(2, 1, 1), masks.float().repeat(2, 1, 1, 1))  # the masks themselves
    comparison = compare(predicted, [masks[:2], masks[2:]], params)
    chosen = [torch.tensor([1]), torch.tensor([4, 2])]
    logits, targets = comparison.pairs(chosen, chosen)
    torch.testing.assert_close(logits, targets, rtol=0, atol=1e-5)
    assert len(targets) == 3
    torch.testing.assert_close(comparison.matching_logits(1), comparison.matching_TP, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_points", [0, 40])
def test_no_pair_gives_empty_points_with_a_gradient_path(num_points):
    maps = torch.randn(3, 8, 8, requires_grad=True)
    params = PARAMS.model_copy(update={"num_points": num_points})
    comparison = compare(plain(maps), [torch.zeros(0, 32, 32, dtype=torch.bool)], params)
    none = [torch.zeros(0, dtype=torch.int64)]
    logits, targets = comparison.pairs(none, none)
    assert len(logits) == len(targets) == 0
    logits.sum().backward()
    assert (maps.grad == 0).all()


@pytest.mark.parametrize("windows", [False, True])
def test_samples_of_factors_are_samples_of_their_product(windows):
    """Values and gradients, also near the border, where samples fade."""
    predicted, masks = factors(windows), [torch.rand(2, 36, 24) > 0.5, torch.rand(3, 36, 24) > 0.5]
    comparison = compare(predicted, masks, PARAMS, torch.Generator().manual_seed(0))
    assert isinstance(comparison, UncertainPoints)
    leaves = predicted.parts()
    logits_BQhw = predicted.logits_BQhw()
    for image in range(2):
        expected = sample(logits_BQhw[image], comparison.matching_P2)
        torch.testing.assert_close(comparison.matching_logits(image), expected, rtol=1e-5, atol=1e-5)

    queries, targets = [torch.tensor([6, 0])] * 2, [torch.tensor([0, 1]), torch.tensor([4, 2])]
    logits_MP, _ = comparison.pairs(queries, targets)
    of_product = []
    for maps in (logits_BQhw[image, queries[image]] for image in range(2)):
        candidates = sample(maps, comparison.candidates_S2)
        uncertain = candidates.gather(1, most_uncertain(candidates, comparison.important))
        of_product.append(torch.cat([uncertain, sample(maps, comparison.uniform_U2)], 1))
    weight = torch.randn(logits_MP.shape).sort(1).values  # the order of uncertain points is free, so they are sorted
    expected = torch.cat(of_product)
    torch.testing.assert_close(logits_MP.sort(1).values, expected.sort(1).values, rtol=1e-5, atol=1e-5)
    ours = torch.autograd.grad((logits_MP.sort(1).values * weight).sum(), leaves)
    theirs = torch.autograd.grad((expected.sort(1).values * weight).sum(), leaves)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
