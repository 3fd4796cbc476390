"""Phase 1, self-exploration (paper 3.1)."""
