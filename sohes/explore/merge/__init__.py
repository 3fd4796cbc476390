"""Merging the most similar neighbouring regions (paper 3.1)."""
