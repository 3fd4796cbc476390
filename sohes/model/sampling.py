"""Weighted bilinear samples from maps of several sizes: the heart of deformable attention.

Letters as in `sohes.model.deformable`. On a CPU, loops compiled by numba: `grid_sample` stores every sample, four
times the features of a map for four points, and takes six times as long (12 images of 192 x 192).
Everywhere else, `grid_sample`.

One switch, SOHES_DEFORMABLE=compiled, takes the C++ and CUDA operator of the extra `deformable` instead, on any device.
The result is the same, so this is no param: models and metrics made with one are not stale with the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sohes.errors import SohesError
from sohes.work.compiled import compiled

SWITCH = "SOHES_DEFORMABLE"
Shapes = Sequence[tuple[int, int]]  # (h, w) of each level


def sample_levels(values_BSMD: Tensor, shapes: Shapes, places_BQMLP2: Tensor, weights_BQMLP: Tensor) -> Tensor:
    """(B, Q, M x D) weighted sums of bilinear samples; what lies outside a level counts as zero."""
    operator = compiled_operator(os.environ.get(SWITCH, "builtin"))
    if operator and values_BSMD.device.type != "meta":
        levels_L2 = torch.tensor(shapes, dtype=torch.int64, device=values_BSMD.device)
        cells_L = levels_L2.prod(1)
        inputs = (t.contiguous() for t in (places_BQMLP2, weights_BQMLP))
        return operator(values_BSMD.contiguous(), levels_L2, cells_L.cumsum(0) - cells_L, *inputs)
    on_cpu = values_BSMD.device.type == "cpu" and values_BSMD.dtype == torch.float32
    if on_cpu and not torch.compiler.is_exporting():
        return sample_by_loops(values_BSMD, shapes, places_BQMLP2, weights_BQMLP)
    return sample_by_grid(values_BSMD, shapes, places_BQMLP2, weights_BQMLP)


@cache
def compiled_operator(choice: str) -> Callable[..., Tensor] | None:
    """The extra's operator for `compiled`, none for `builtin`. SohesError for another word, or without the package."""
    if choice == "builtin":
        return None
    if choice != "compiled":
        raise SohesError(f"{SWITCH} is `builtin` or `compiled` (got {choice!r})")
    try:
        from torch_ms_deform_attn import ms_deform_attn
    except ImportError as error:
        raise SohesError(
            f"{SWITCH}=compiled needs the package torch-ms-deform-attn ({error}): with a C++ compiler, "
            "`pip install --no-build-isolation torch-ms-deform-attn`, or unset the variable"
        ) from None
    return ms_deform_attn


def sample_by_grid(values_BSMD: Tensor, shapes: Shapes, places_BQMLP2: Tensor, weights_BQMLP: Tensor) -> Tensor:
    """`sample_levels` with one `grid_sample` a level."""
    B, _, M, D = values_BSMD.shape
    grids_BMQLP2 = (2 * places_BQMLP2 - 1).transpose(1, 2)
    weights_NQLP = weights_BQMLP.transpose(1, 2).flatten(0, 1)
    total = values_BSMD.new_zeros(())
    for level, values in enumerate(values_BSMD.split([h * w for h, w in shapes], dim=1)):
        maps = values.permute(0, 2, 3, 1).reshape(B * M, D, *shapes[level])
        samples = F.grid_sample(maps, grids_BMQLP2[:, :, :, level].flatten(0, 1), align_corners=False)
        total = total + (samples * weights_NQLP[:, None, :, level]).sum(-1)
    return total.reshape(B, M * D, -1).transpose(1, 2)


class _Loops(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values_BSMD: Tensor, places: Tensor, weights: Tensor, shapes_L2: np.ndarray) -> Tensor:
        inputs = [t.detach().contiguous() for t in (values_BSMD, places, weights)]
        ctx.save_for_backward(*inputs)
        ctx.shapes_L2 = shapes_L2
        B, _, M, D = values_BSMD.shape
        sums_BQMD = values_BSMD.new_zeros(B, places.shape[1], M, D)
        _each_image(_gather, shapes_L2, *inputs, sums_BQMD)
        return sums_BQMD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        inputs = ctx.saved_tensors
        results = [torch.zeros_like(t) for t in inputs]
        _each_image(_scatter, ctx.shapes_L2, *inputs, grads[0].contiguous(), *results)
        return results[0], results[1], results[2], None


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """One pool per process: a fork does not inherit the threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="sampling")


def _each_image(loop: Callable[..., None], shapes_L2: np.ndarray, *tensors: Tensor) -> None:
    """One call per image, on as many threads as torch uses; the result does not depend on their number."""
    images = zip(*(tensor.numpy() for tensor in tensors), strict=True)
    if torch.get_num_threads() == 1:
        for arrays in images:
            loop(shapes_L2, *arrays)
    else:
        list(_pool(torch.get_num_threads(), os.getpid()).map(lambda arrays: loop(shapes_L2, *arrays), images))


@torch.compiler.disable
def sample_by_loops(values_BSMD: Tensor, shapes: Shapes, places_BQMLP2: Tensor, weights_BQMLP: Tensor) -> Tensor:
    """`sample_levels` on a CPU, float32; torch.compile skips it."""
    return _Loops.apply(values_BSMD, places_BQMLP2, weights_BQMLP, np.array(shapes, np.int64)).flatten(2)


@compiled(nogil=True, fastmath=True)
def _gather(shapes_L2, values_SMD, places_QMLP2, weights_QMLP, sums_QMD):
    Q, M, L, P = weights_QMLP.shape
    D = values_SMD.shape[2]
    for q in range(Q):
        for m in range(M):
            start = 0
            for level in range(L):
                h, w = shapes_L2[level]
                for p in range(P):
                    x = places_QMLP2[q, m, level, p, 0] * np.float32(w) - np.float32(0.5)
                    y = places_QMLP2[q, m, level, p, 1] * np.float32(h) - np.float32(0.5)
                    left, top = np.floor(x), np.floor(y)
                    weight = weights_QMLP[q, m, level, p]
                    for row in range(2):
                        i = int(top) + row
                        if i < 0 or i >= h:
                            continue
                        share_y = y - top if row else np.float32(1) - (y - top)
                        for column in range(2):
                            j = int(left) + column
                            if j < 0 or j >= w:
                                continue
                            share_x = x - left if column else np.float32(1) - (x - left)
                            cell = start + i * w + j
                            part = weight * share_x * share_y
                            for d in range(D):
                                sums_QMD[q, m, d] += part * values_SMD[cell, m, d]
                start += h * w


@compiled(nogil=True, fastmath=True)
def _scatter(shapes_L2, values_SMD, places_QMLP2, weights_QMLP, grad_QMD, values_grad, places_grad, weights_grad):
    Q, M, L, P = weights_QMLP.shape
    D = values_SMD.shape[2]
    for q in range(Q):
        for m in range(M):
            start = 0
            for level in range(L):
                h, w = shapes_L2[level]
                for p in range(P):
                    x = places_QMLP2[q, m, level, p, 0] * np.float32(w) - np.float32(0.5)
                    y = places_QMLP2[q, m, level, p, 1] * np.float32(h) - np.float32(0.5)
                    left, top = np.floor(x), np.floor(y)
                    weight = weights_QMLP[q, m, level, p]
                    along_x, along_y, sample = np.float32(0), np.float32(0), np.float32(0)
                    for row in range(2):
                        i = int(top) + row
                        if i < 0 or i >= h:
                            continue
                        share_y = y - top if row else np.float32(1) - (y - top)
                        for column in range(2):
                            j = int(left) + column
                            if j < 0 or j >= w:
                                continue
                            share_x = x - left if column else np.float32(1) - (x - left)
                            cell = start + i * w + j
                            part = weight * share_x * share_y
                            product = np.float32(0)
                            for d in range(D):
                                product += grad_QMD[q, m, d] * values_SMD[cell, m, d]
                                values_grad[cell, m, d] += part * grad_QMD[q, m, d]
                            sample += share_x * share_y * product
                            along_x += share_y * product if column else -share_y * product
                            along_y += share_x * product if row else -share_x * product
                    weights_grad[q, m, level, p] = sample
                    places_grad[q, m, level, p, 0] = weight * np.float32(w) * along_x
                    places_grad[q, m, level, p, 1] = weight * np.float32(h) * along_y
                start += h * w
