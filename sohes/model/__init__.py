"""The segmenter of phases 2 and 3 (paper 3.2)."""
