import pytest
import torch
from torch import nn

from sohes.params import OptimParams
from sohes.train.optim import make_optimizer, rate_factor, set_rate

PARAMS = OptimParams(
    learning_rate=0.01, backbone_lr_scale=0.1, weight_decay=0.02, warmup_steps=0, clip_norm=0, amp=False
)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        self.backbone.register_parameter("pos_embed", nn.Parameter(torch.zeros(1, 4, 2)))
        self.head = nn.Conv2d(2, 2, 1)
        self.query = nn.Embedding(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_groups_have_their_own_rate_and_decay():
    model = Model()
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, model.backbone, PARAMS)
    found = {
        (group["peak_lr"], group["weight_decay"]): {names[id(p)] for p in group["params"]}
        for group in optimizer.param_groups
    }
    assert found == {
        (0.001, 0.02): {"backbone.0.weight"},
        (0.001, 0.0): {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "backbone.pos_embed"},
        (0.01, 0.02): {"head.weight"},
        (0.01, 0.0): {"head.bias", "query.weight"},
    }


def test_the_rate_warms_up_then_falls_to_nearly_zero():
    factors = [rate_factor(step, steps=100, warmup_steps=9) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[9 + 91 // 2] == pytest.approx(0.5, abs=0.01)
    assert 0 < factors[-1] < 0.001
    assert rate_factor(0, steps=1, warmup_steps=0) == 1.0


def test_set_rate_scales_every_groups_peak():
    model = Model()
    optimizer = make_optimizer(model, model.backbone, PARAMS)
    set_rate(optimizer, 0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.0005, 0.005])
