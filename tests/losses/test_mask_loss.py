import numpy as np
import pytest
import torch

from sohes.losses.mask_loss import dice, mask_bce


def test_bce_by_hand():
    # logit 0 costs ln 2 whatever the target; ln 3 means p = 3/4: -ln(3/4) for a target of 1
    logits = torch.tensor([[0.0, 0.0], [np.log(3), np.log(3)]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    expected = (np.log(2) - np.log(0.75)) / 2
    assert mask_bce(logits, targets, num_masks=2).item() == pytest.approx(expected)


def test_bce_is_a_mean_over_points_and_a_sum_over_masks():
    logits, targets = torch.randn(3, 8), torch.rand(3, 8)
    apart = sum(mask_bce(logits[i : i + 1], targets[i : i + 1], num_masks=1) for i in range(3))
    torch.testing.assert_close(mask_bce(logits, targets, num_masks=3) * 3, apart)
    torch.testing.assert_close(mask_bce(logits.repeat(1, 4), targets.repeat(1, 4), num_masks=1), apart)


def test_dice_by_hand():
    # p = 1/2 at four points, two of them in the target: 1 - (2 * 1 + 1) / (2 + 2 + 1)
    targets = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert dice(torch.zeros(1, 4), targets, num_masks=1).item() == pytest.approx(1 - 3 / 5)


def test_dice_is_zero_for_the_mask_itself_and_near_one_for_its_complement():
    targets = (torch.arange(400) % 2)[None].float()
    logits = (targets * 2 - 1) * 50
    assert dice(logits, targets, num_masks=1).item() == pytest.approx(0, abs=1e-6)
    assert dice(-logits, targets, num_masks=1).item() > 0.99


@pytest.mark.parametrize("loss", [mask_bce, dice])
def test_a_mask_counts_its_weight(loss):
    logits, targets = torch.randn(2, 8), torch.rand(2, 8)
    first, second = (loss(logits[i : i + 1], targets[i : i + 1], num_masks=4) for i in range(2))
    torch.testing.assert_close(loss(logits, targets, 4, torch.tensor([0.5, 0])), first / 2)
    torch.testing.assert_close(loss(logits, targets, 4, torch.tensor([1, 3.0])), first + 3 * second)


@pytest.mark.parametrize("loss", [mask_bce, dice])
def test_no_matched_mask_costs_exactly_zero_and_keeps_the_gradient_path(loss):
    head = torch.randn(4, 6, requires_grad=True)
    value = loss(head[:0], torch.zeros(0, 6), num_masks=1)
    assert value.item() == 0
    value.backward()
    assert head.grad is not None
    assert (head.grad == 0).all()
