"""B images, Q queries; maps of 8 x 8."""

from __future__ import annotations

import pytest
import torch

from sohes.losses.hold import hold_loss
from sohes.structures import MaskFactors, ModelOutput

FREE = torch.tensor([[True, False, True, True], [False, True, True, False]])


def drawn(seed: int, *, factors: bool = False) -> ModelOutput:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw).requires_grad_()

    masks = normal(2, 4, 8, 8)
    if factors:
        masks = MaskFactors(normal(2, 4, 3), normal(2, 3, 8, 8), normal(2, 4, 8), normal(2, 4, 8))
    return ModelOutput(normal(2, 4, 2), masks, None)


def test_by_hand() -> None:
    """A teacher who is sure of a full mask; the student is undecided everywhere."""
    teacher = ModelOutput(torch.tensor([[[20.0, -20.0]]]), torch.full((1, 1, 4, 4), 20.0), None)
    student = ModelOutput(torch.zeros(1, 1, 2), torch.zeros(1, 1, 4, 4), None)
    dice = 1 - 2 * 0.5 / (0.25 + 1)
    loss = hold_loss(student, teacher, torch.tensor([[True]]))
    assert loss.item() == pytest.approx(torch.log(torch.tensor(2.0)).item() + dice, abs=1e-5)
    unsure = ModelOutput(torch.zeros(1, 1, 2), teacher.masks, None)
    assert hold_loss(student, unsure, torch.tensor([[True]])).item() == pytest.approx(loss.item() / 2)


@pytest.mark.parametrize("factors", [False, True])
def test_only_free_queries_are_held_and_nothing_pulls_at_those_that_agree(factors: bool) -> None:
    student, teacher = drawn(0, factors=factors), drawn(1, factors=factors)
    logits = student.mask_logits_BQhw.detach().requires_grad_()
    own = ModelOutput(student.class_logits_BQ2, logits, None)
    (gradient,) = torch.autograd.grad(hold_loss(own, teacher, FREE), logits)
    assert torch.equal(gradient.abs().sum((2, 3)) > 0, FREE)
    (none,) = torch.autograd.grad(hold_loss(own, student, FREE), logits)
    assert none.abs().max() < 1e-6


def test_factors_are_pooled_as_their_product_is() -> None:
    student, teacher = drawn(0, factors=True), drawn(1, factors=True)
    products = [ModelOutput(of.class_logits_BQ2, of.mask_logits_BQhw, None) for of in (student, teacher)]
    assert hold_loss(student, teacher, FREE).item() == pytest.approx(hold_loss(*products, FREE).item(), rel=1e-5)


def test_a_step_brings_the_student_closer() -> None:
    student, teacher = drawn(0), drawn(1)
    before = hold_loss(student, teacher, FREE)
    (gradient,) = torch.autograd.grad(before, student.masks)
    after = hold_loss(ModelOutput(student.class_logits_BQ2, student.masks - gradient, None), teacher, FREE)
    assert after < before
