import numpy as np
import pytest
import torch

from sohes.losses.ancestor_loss import ancestor_loss, ancestor_targets, pairs_among


def test_the_relation_moves_from_targets_to_their_queries():
    # target 0 (a car) is the ancestor of target 1 (its wheel); query 3 drew the car and query 1 the wheel
    ancestors = torch.tensor([[0, 1], [0, 0]]).bool()
    relation = ancestor_targets(torch.tensor([1, 3]), torch.tensor([1, 0]), ancestors, num_queries=4)
    expected = torch.zeros(4, 4)
    expected[3, 1] = 1
    assert torch.equal(relation, expected)


def test_no_target_leaves_every_pair_at_zero():
    none = torch.zeros(0, dtype=torch.int64)
    relation = ancestor_targets(none, none, torch.zeros(0, 0, dtype=torch.bool), num_queries=3)
    assert torch.equal(relation, torch.zeros(3, 3))


def test_the_mean_is_over_all_pairs():
    relation = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    logits = torch.tensor([[[0.0, np.log(3)], [0.0, 0.0]]], dtype=torch.float32)
    assert ancestor_loss(logits, relation).item() == pytest.approx((3 * np.log(2) - np.log(0.75)) / 4, rel=1e-6)


def test_only_the_considered_pairs_count_if_asked():
    relation = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])
    logits = torch.tensor([[[50.0, np.log(3)], [50.0, 50.0]]], dtype=torch.float32)
    assert ancestor_loss(logits, relation, torch.tensor([1])).item() == pytest.approx(-np.log(0.75), rel=1e-6)


def test_pairs_among_some_queries_are_found_in_all_images_as_a_mask_finds_them():
    queries, matched = torch.tensor([1, 3]), torch.zeros(3, 4, dtype=torch.bool)
    matched[2, queries] = True
    masked = (matched[:, :, None] & matched[:, None]).flatten().nonzero()[:, 0]
    assert torch.equal(pairs_among(queries, 2, num_queries=4), masked)


def test_nothing_considered_is_zero_with_a_gradient_path():
    logits = torch.randn(1, 2, 2, requires_grad=True)
    loss = ancestor_loss(logits, torch.zeros(1, 2, 2), torch.zeros(0, dtype=torch.int64))
    assert loss.item() == 0
    loss.backward()
    assert (logits.grad == 0).all()
