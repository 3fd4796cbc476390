"""Photographs with classes, for the supervised tasks of figure 6 (paper 4.4)."""
