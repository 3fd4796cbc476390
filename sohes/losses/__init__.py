"""Matching and losses of phases 2 and 3."""
