"""The training loops of phases 2 and 3."""
