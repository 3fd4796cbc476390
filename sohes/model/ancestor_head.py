"""Which query's mask is an ancestor of which (paper 3.2)."""

from __future__ import annotations

from torch import Tensor, nn


class AncestorHead(nn.Module):
    """Logits (Q W1)(Q W2)^T / sqrt(C): row i, column j says that i is an ancestor of j."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ancestor = nn.Linear(dim, dim, bias=False)  # W1
        self.descendant = nn.Linear(dim, dim, bias=False)  # W2

    def forward(self, queries_BQC: Tensor) -> Tensor:
        """(B, Q, Q) logits."""
        scale = queries_BQC.shape[-1] ** -0.5
        return self.ancestor(queries_BQC) @ self.descendant(queries_BQC).transpose(1, 2) * scale
