"""Photographs with classes, for the supervised tasks that a backbone is judged by (paper 4.4, figure 6)."""
