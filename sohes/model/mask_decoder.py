"""Mask2Former's masked-attention decoder with class, mask and ancestor heads (paper 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sohes.model.ancestor_head import AncestorHead
from sohes.model.pixel_decoder import PixelFeatures
from sohes.model.position import map_embedding
from sohes.model.queries import GridQueries, LearnedQueries
from sohes.structures import MaskFactors, ModelOutput


class Attention(nn.Module):
    """Multi-head attention through `scaled_dot_product_attention`: the weights are never stored."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query_BQC: Tensor, key_BSC: Tensor, value_BSC: Tensor, visible_BQS: Tensor | None = None
    ) -> Tensor:
        """(B, Q, C); query q sees cell s where `visible_BQS` is true."""
        query, key, value = (
            projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projected in (self.query(query_BQC), self.key(key_BSC), self.value(value_BSC))
        )
        mask = None if visible_BQS is None else visible_BQS[:, None]
        if mask is not None and torch.compiler.is_exporting():
            # ONNX has no masked attention of its own, and guards one of booleans against rows that see nothing
            mask = torch.zeros((), dtype=query.dtype).where(mask, -torch.inf)
        return self.out(F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward net; normalised after each."""

    def __init__(self, dim: int, *, num_heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.cross_attention, self.cross_norm = Attention(dim, num_heads), nn.LayerNorm(dim)
        self.self_attention, self.self_norm = Attention(dim, num_heads), nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(nn.Linear(dim, feedforward_dim), nn.ReLU(), nn.Linear(feedforward_dim, dim))
        self.feedforward_norm = nn.LayerNorm(dim)

    def forward(
        self, queries_BQC: Tensor, positions_BQC: Tensor, cells_BSC: Tensor, keys_BSC: Tensor, visible_BQS: Tensor
    ) -> Tensor:
        """keys_BSC: the cells with their position embeddings."""
        seen = self.cross_attention(queries_BQC + positions_BQC, keys_BSC, cells_BSC, visible_BQS)
        queries_BQC = self.cross_norm(queries_BQC + seen)
        placed = queries_BQC + positions_BQC
        queries_BQC = self.self_norm(queries_BQC + self.self_attention(placed, placed, queries_BQC))
        return self.feedforward_norm(queries_BQC + self.feedforward(queries_BQC))


class MaskDecoder(nn.Module):
    """Queries cycle through the levels, coarsest first, and predict classes and masks before and after every layer."""

    def __init__(
        self,
        dim: int,
        *,
        num_queries: int,
        queries: str,
        num_heads: int,
        feedforward_dim: int,
        layers: int,
    ) -> None:
        super().__init__()
        self.queries: GridQueries | LearnedQueries
        self.queries = GridQueries(num_queries, dim) if queries == "grid" else LearnedQueries(num_queries, dim)
        self.level_embedding = nn.Parameter(torch.randn(3, dim))
        self.layers = nn.ModuleList(
            DecoderLayer(dim, num_heads=num_heads, feedforward_dim=feedforward_dim) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, 2)
        last = nn.Linear(dim, dim)
        self.mask_head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), last)
        self.ancestor_head = AncestorHead(dim)
        if queries == "grid":  # at step 0 the mask is the prior's
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, pixels: PixelFeatures) -> ModelOutput:
        """Auxiliary outputs come in training only: at evaluation they would take most of the memory."""
        shapes = pixels.shapes
        levels = [cells + e for cells, e in zip(pixels.levels_BSC, self.level_embedding, strict=True)]
        keys = [c + map_embedding(h, w, c.shape[-1], c.device) for c, (h, w) in zip(levels, shapes, strict=True)]
        queries, positions, features, prior = self.queries(pixels.mask_features_BChw)
        with torch.no_grad():  # logits are linear in the features, so small maps show what the next layer may see
            small = [F.interpolate(features, size=s, mode="bilinear", align_corners=False) for s in shapes]

        stages = [self.norm(queries)]
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            with torch.no_grad():
                (seen,) = self._masks(stages[-1:], small[level], prior)
            queries = layer(queries, positions, levels[level], keys[level], _visible(seen.logits_BQhw()))
            stages.append(self.norm(queries))

        predicted = stages if self.training else stages[-1:]
        masks = self._masks(predicted, features, prior)
        *auxiliary, last = (ModelOutput(self.class_head(q), m, None) for q, m in zip(predicted, masks, strict=True))
        ancestors = self.ancestor_head(stages[-1])
        return ModelOutput(last.class_logits_BQ2, last.masks, ancestors, tuple(auxiliary))

    def _masks(self, stages: list[Tensor], features_BChw: Tensor, prior_BQC: Tensor | None) -> list[MaskFactors]:
        """Of the normed queries of each of K stages."""
        C, h, w = features_BChw.shape[1:]
        queries_BKQC = torch.stack(stages, 1)
        embedding_BKQC = self.mask_head(queries_BKQC)
        if prior_BQC is not None:
            embedding_BKQC = embedding_BKQC * C**-0.5 + prior_BQC[:, None]
        parts = [embedding_BKQC]
        if isinstance(self.queries, GridQueries):
            parts += self.queries.window_logits(queries_BKQC, h, w)
        of_stages = zip(*(part.unbind(1) for part in parts), strict=True)
        return [MaskFactors(embedding, features_BChw, *windows) for embedding, *windows in of_stages]


def _visible(mask_logits_BQhw: Tensor) -> Tensor:
    """(B, Q, S) bool: the cells inside the mask; all of them for a query whose mask is empty."""
    inside = mask_logits_BQhw.flatten(2) >= 0
    return inside | ~inside.any(-1, keepdim=True)
