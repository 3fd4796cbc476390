"""Adan (paper appendix A) with a warm-up and a cosine; these, like weight decay and clipping, are ours."""

from __future__ import annotations

import math

import torch
from timm.optim import Adan
from torch import nn

from sohes.params import OptimParams, ProbeOptimParams, RateParams


def make_optimizer(model: nn.Module, backbone: nn.Module, params: OptimParams | ProbeOptimParams) -> Adan:
    """Adan in up to four groups: `backbone`, a part of the model, at `backbone_lr_scale` of the rate; no weight decay
    of norms, biases and embeddings. Each group keeps its peak rate as `peak_lr`."""
    in_backbone = {id(p) for p in backbone.parameters()}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # a matrix of a linear layer, a convolution or an attention is called *weight; free tensors are embeddings
            decays = parameter.ndim > 1 and name.endswith("weight") and id(parameter) not in embeddings
            groups.setdefault((id(parameter) in in_backbone, decays), []).append(parameter)
    return Adan(
        [
            {
                "params": members,
                "peak_lr": params.learning_rate * (params.backbone_lr_scale if of_backbone else 1.0),
                "weight_decay": params.weight_decay if decays else 0.0,
            }
            for (of_backbone, decays), members in sorted(groups.items())
        ],
        lr=params.learning_rate,
    )


def make_adamw(network: nn.Module, params: RateParams) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases, norms and single tokens. In one kernel on a GPU."""
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.squeeze().ndim > 1]
    vectors = [p for p in trained if p.squeeze().ndim <= 1]
    rate = {"peak_lr": params.learning_rate}
    groups = [
        {"params": matrices, "weight_decay": params.weight_decay, **rate},
        {"params": vectors, "weight_decay": 0.0, **rate},
    ]
    return torch.optim.AdamW(groups, lr=params.learning_rate, fused=trained[0].is_cuda or None)


def rate_factor(step: int, *, steps: int, warmup_steps: int) -> float:
    """Factor on the peak rate at `step` in [0, steps): a linear warm-up, then half a cosine that ends near 0."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, steps - warmup_steps)))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Every group's learning rate: `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
