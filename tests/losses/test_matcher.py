import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from sohes.losses.matcher import assign, matching_cost, resemblance

WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0}


def match(*inputs):
    return assign(matching_cost(*inputs, **WEIGHTS).numpy())


def test_each_query_finds_the_target_that_it_drew():
    target_TP = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    mask_QP = torch.tensor([[-9.0, -9, 9, 9], [-9, -9, -9, -9], [9, 9, -9, -9]])
    queries, targets = match(torch.zeros(3, 2), mask_QP, target_TP)
    assert queries.tolist() == [0, 2]
    assert targets.tolist() == [1, 0]


def test_among_equal_masks_the_likelier_entity_wins():
    class_logits = torch.tensor([[0.0, 5.0], [5.0, 0.0]])
    queries, targets = match(class_logits, torch.ones(2, 4), torch.ones(1, 4))
    assert (queries.tolist(), targets.tolist()) == ([1], [0])


def test_cost_by_hand():
    # one point, logit 0: p = 1/2, BCE = ln 2 either way; dice = 1 - (2 p t + 1) / (p + t + 1)
    cost = matching_cost(torch.zeros(1, 2), torch.zeros(1, 1), torch.tensor([[1.0], [0.0]]), **WEIGHTS)
    bce = np.log(2)
    expected = [[5 * bce + 5 * (1 - 2 / 2.5) - 2 * 0.5, 5 * bce + 5 * (1 - 1 / 1.5) - 2 * 0.5]]
    np.testing.assert_allclose(cost, expected, rtol=1e-6)


def test_cost_equals_the_losses_of_every_pair():
    torch.manual_seed(0)
    logits, target = torch.randn(4, 50) * 20, torch.rand(3, 50)
    weights = {"class_weight": 0.0, "mask_weight": 1.0, "dice_weight": 0.0}
    cost = matching_cost(torch.randn(4, 2), logits, target, **weights)
    for q in range(4):
        for t in range(3):
            expected = F.binary_cross_entropy_with_logits(logits[q], target[t])
            torch.testing.assert_close(cost[q, t], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("num_queries", "num_targets"), [(5, 0), (3, 7), (6, 6), (1, 1)])
def test_as_many_pairs_as_the_smaller_side_each_used_once(num_queries, num_targets):
    torch.manual_seed(1)
    queries, targets = match(torch.randn(num_queries, 2), torch.randn(num_queries, 9), torch.rand(num_targets, 9) > 0.5)
    pairs = min(num_queries, num_targets)
    assert len(queries) == len(targets) == len(set(queries.tolist())) == len(set(targets.tolist())) == pairs
    assert queries.dtype == targets.dtype == np.int64
    assert queries.tolist() == sorted(queries.tolist())


def test_assignment_is_the_cheapest():
    cost = np.random.default_rng(0).normal(size=(12, 7)).astype(np.float32)
    queries, targets = assign(cost)
    assert cost[queries, targets].sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum())


def test_a_diverged_query_is_matched_last_instead_of_stopping_the_run():
    mask_QP = torch.stack([torch.full((4,), float("nan")), torch.zeros(4)])
    queries, _ = match(torch.zeros(2, 2), mask_QP, torch.ones(1, 4))
    assert queries.tolist() == [1]


def test_half_precision_logits_are_matched_in_float32():
    mask_QP = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], dtype=torch.bfloat16)
    cost = matching_cost(torch.zeros(2, 2, dtype=torch.bfloat16), mask_QP, torch.eye(2), **WEIGHTS)
    assert cost.dtype == torch.float32
    assert cost.isfinite().all()


def test_resemblance_by_hand():
    target_TP = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0.5], [0, 0, 0, 0]])
    mask_QP = torch.tensor([[99.0, 99, -99, -99], [0, 0, 0, 0], [-99, -99, -99, 99], [-99, -99, 99, 0]])
    dice_Q, target_Q = resemblance(mask_QP, target_TP)
    # p = 1/2 everywhere: 2 * 1 / (1 + 2) with the first, 2 * 0.75 / (1 + 1.25) with the second
    np.testing.assert_allclose(dice_Q, [1, 2 / 3, 2 * 0.5 / (1 + 1.25), 1], rtol=1e-6)
    assert target_Q[[0, 2, 3]].tolist() == [0, 1, 1]


def test_nothing_resembles_a_target_without_points():
    dice_Q, _ = resemblance(torch.full((2, 4), -200.0), torch.zeros(1, 4))
    assert dice_Q.tolist() == [0, 0]


def test_nothing_resembles_a_target_if_there_is_none():
    assert resemblance(torch.ones(2, 4), torch.zeros(0, 4)).tolist() == [[0, 0], [0, 0]]
