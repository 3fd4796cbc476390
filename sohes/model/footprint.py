"""The memory of a training step, counted on the meta device, where tensors have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sohes.backbone.vit import Backbone
from sohes.model.build import Network, build_network
from sohes.model.checkpoint import untrained_vit
from sohes.model.network import Segmenter
from sohes.model.released import vit_of_start
from sohes.params import CorrectParams, InstructParams, LossParams, ModelParams, Params

OPTIMIZER_FLOATS = 4  # Adan's per weight: three averages and the last gradient
LOSS_FLOATS = 10  # of the criterion per sampled point of a mask that learns: 7 kept for the backward pass, 3 on the way
_BF16 = (F.linear, F.conv2d, F.conv_transpose2d, torch.matmul, Tensor.matmul, Tensor.__matmul__)
_FLOAT32 = (F.layer_norm, F.group_norm, F.softmax, Tensor.softmax, F.softplus)


@dataclass(frozen=True)
class Footprint:
    """Bytes on one device, and the number of weights.

    state: weights, gradients, optimizer, moving average.  activations: what one part of a batch keeps for its backward
    pass, loss included; `images` of them at once.
    """

    parameters: int
    state: int
    activations: int
    images: int

    @property
    def total(self) -> int:
        return self.state + self.activations


def training_footprint(params: Params, phase: InstructParams | CorrectParams, *, processes: int = 1) -> Footprint:
    """The peak of one of `processes` in a step of `phase`. ValueError if its part of the batch is not whole images.

    It is the student's: the teacher of phase 3 keeps nothing for a backward pass and never sees more squares at once.
    """
    parts = phase.accumulate * processes
    if phase.batch_size % parts:
        raise ValueError(f"{parts} equal parts of a batch must be whole images (got {phase.batch_size} images)")
    branches = 2 if isinstance(phase, CorrectParams) else 1
    images = phase.batch_size // parts * branches
    if params.model.head == "detectron2-cascade":  # the same layers
        params = params.model_copy(update={"model": params.model.model_copy(update={"head": "cascade"})})
    with torch.device("meta"):
        network = build(params)
        if phase.optim.backbone_lr_scale == 0:
            network.backbone.freeze()
        per_image = activation_bytes(network, amp=phase.optim.amp)
    per_image += _loss_bytes(params.model, params.loss, phase.max_targets)
    parameters = sum(p.numel() for p in network.parameters())
    averaged = isinstance(phase, CorrectParams) or phase.ema > 0
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)  # the others are kept once
    state = 4 * (parameters + learning * (1 + OPTIMIZER_FLOATS + int(averaged)))
    return Footprint(parameters, state, images * per_image, images)


def _loss_bytes(model: ModelParams, loss: LossParams, max_targets: int) -> int:
    """Bytes that the loss of one image keeps, its targets included."""
    targets = max_targets * model.image_size**2
    if model.head != "mask2former":
        return 5 * targets  # as bytes and as floats, of which the boxes' masks are cut out
    if loss.num_points:
        targets *= 2  # one by one, and joined to be sampled
    supervised = model.decoder_layers + 1 if loss.deep_supervision else 1
    points = loss.num_points or (model.image_size // 4) ** 2
    return targets + 4 * LOSS_FLOATS * supervised * points * min(
        max_targets * loss.queries_per_target, model.num_queries
    )


def build(params: Params) -> Network:
    """The network that phase 2 trains by the params, with random weights. SohesError if it cannot be built.

    A relative `instruct.start` is one of the project in the working directory.
    """
    if (start := vit_of_start(params.instruct, Path())) is not None:
        return build_network(untrained_vit(start), params.model)
    vit = params.backbone
    shape = {name: getattr(vit, name) for name in ("patch_size", "embed_dim", "depth", "num_heads")}
    return build_network(Backbone(vit.architecture, {**shape, "img_size": vit.image_size}), params.model)


def activation_bytes(network: Network, *, amp: bool) -> int:
    """Bytes that the network keeps of one image for its backward pass, without weights.

    amp: under bfloat16 autocast. With `recompute_blocks` the ViT's blocks keep their inputs, and one of them the rest.
    """
    side = network.params.image_size
    images_B3HW = torch.empty(1, 3, side, side, device=next(network.parameters()).device)
    recompute, network.adapter.recompute_blocks = network.adapter.recompute_blocks, False
    network.train()
    try:
        kept = saved_bytes(network, lambda: _rehearse(network, images_B3HW), amp=amp)
    finally:
        network.adapter.recompute_blocks = recompute
    if recompute:
        vit = network.backbone
        tokens, size = vit.embed(images_B3HW)
        tokens = tokens.detach().requires_grad_()  # as behind an injector, also where the ViT itself is frozen
        blocks = saved_bytes(network, lambda: vit.run_blocks(tokens, 0, vit.depth, size), amp=amp)
        kept += tokens.numel() * 4 * vit.depth + blocks // vit.depth - blocks
    return kept


def _rehearse(network: Network, images_B3HW: Tensor) -> object:
    """A training pass that needs no values."""
    if isinstance(network, Segmenter):
        return network(images_B3HW)
    features = network.features(images_B3HW)
    return features, network.detector.rehearse(features)


def saved_bytes(network: nn.Module, run: Callable[[], Any], *, amp: bool) -> int:
    """Bytes of all tensors that `run` saves for a backward pass, each storage once, without the network's weights."""
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # kept alive: a freed one's address may come again

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage
        return tensor

    with _AsOnGpu(amp), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()
    del result
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)


class _AsOnGpu(TorchFunctionMode):
    """What a GPU does and the meta device does not: attention that keeps no weights, and bfloat16 autocast."""

    def __init__(self, amp: bool) -> None:
        super().__init__()
        self.amp = amp
        self._cast: dict[int, Tensor] = {}  # autocast casts a weight once

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            qkv = [self._low(t) for t in args[:3]]
            return _Attention.apply(*qkv, kwargs.get("attn_mask"))
        if self.amp and func in _BF16:
            args, kwargs = [self._low(a) for a in args], {k: self._low(v) for k, v in kwargs.items()}
        elif self.amp and func in _FLOAT32:
            args = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        return func(*args, **kwargs)

    def _low(self, value: Any) -> Any:
        if not (self.amp and isinstance(value, Tensor) and value.dtype == torch.float32):
            return value
        if not isinstance(value, nn.Parameter):
            return value.bfloat16()
        return self._cast.setdefault(id(value), value.bfloat16())


class _Attention(torch.autograd.Function):
    """Keeps queries, keys, values, its mask and the result, as the fused kernels do."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        result = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, mask, result)
        return result
