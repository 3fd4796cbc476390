import sys

import pytest
import torch

from sohes.errors import SohesError
from sohes.model.sampling import SWITCH, compiled_operator, sample_by_grid, sample_levels

SHAPES = [(5, 7), (3, 4), (1, 2)]


def draw(B=3, Q=11, M=2, D=5, P=4, spread=1.6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    S, L = sum(h * w for h, w in SHAPES), len(SHAPES)
    values = torch.randn(B, S, M, D, generator=generator)
    places = (torch.rand(B, Q, M, L, P, 2, generator=generator) - 0.5) * spread + 0.5  # some lie outside
    weights = torch.rand(B, Q, M, L, P, generator=generator)
    return [t.requires_grad_() for t in (values, places, weights)]


def test_one_sample_between_four_cells():
    """A 2 x 2 map, read a quarter of a cell right of and below the first cell's centre."""
    values = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1)
    place = torch.tensor([(0.5 + 0.25) / 2, (0.5 + 0.25) / 2]).view(1, 1, 1, 1, 1, 2)
    sampled = sample_levels(values, [(2, 2)], place, torch.full((1, 1, 1, 1, 1), 2.0))
    assert sampled.item() == pytest.approx(2 * (1 + 0.25 * 1 + 0.25 * 2))


@pytest.mark.parametrize("threads", [1, 2])
def test_loops_and_grid_sample_agree(threads):
    inputs, before = draw(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ours = sample_levels(inputs[0], SHAPES, *inputs[1:])
        theirs = sample_by_grid(inputs[0], SHAPES, *inputs[1:])
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        towards = torch.randn_like(ours)
        for a, b in zip(
            torch.autograd.grad(ours, inputs, towards), torch.autograd.grad(theirs, inputs, towards), strict=True
        ):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_double_precision_goes_through_grid_sample_with_right_gradients():
    inputs = [t.detach().double().requires_grad_() for t in draw(B=1, Q=2, M=1, D=2, P=2, spread=0.9)]
    assert torch.autograd.gradcheck(lambda v, p, w: sample_levels(v, SHAPES, p, w), inputs)


def test_far_outside_is_zero():
    values, _, weights = draw(Q=4)
    far = torch.full((3, 4, 2, 3, 4, 2), 7.0)
    assert not sample_levels(values, SHAPES, far, weights).any()


@pytest.mark.deformable
def test_the_compiled_operator_gives_the_same_sums_and_gradients(monkeypatch):
    pytest.importorskip("torch_ms_deform_attn", reason="the extra `deformable` is not installed")
    inputs = draw()
    expected = sample_by_grid(inputs[0], SHAPES, *inputs[1:])
    monkeypatch.setenv(SWITCH, "compiled")
    sampled = sample_levels(inputs[0], SHAPES, *inputs[1:])
    torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=1e-5)
    towards = torch.randn_like(sampled)
    for a, b in zip(
        torch.autograd.grad(sampled, inputs, towards), torch.autograd.grad(expected, inputs, towards), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_switch_is_one_variable_and_a_missing_package_one_sentence(monkeypatch):
    inputs = draw(B=1, Q=1)
    monkeypatch.setenv(SWITCH, "fast")
    with pytest.raises(SohesError, match=r"`builtin` or `compiled` \(got 'fast'\)"):
        sample_levels(inputs[0], SHAPES, *inputs[1:])
    monkeypatch.setenv(SWITCH, "compiled")
    monkeypatch.setitem(sys.modules, "torch_ms_deform_attn", None)
    compiled_operator.cache_clear()
    with pytest.raises(SohesError, match=r"pip install --no-build-isolation torch-ms-deform-attn"):
        sample_levels(inputs[0], SHAPES, *inputs[1:])
    compiled_operator.cache_clear()
