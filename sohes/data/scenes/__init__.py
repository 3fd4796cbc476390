"""Drawn scenes with exact masks and hierarchy: the embedded data of the demo."""
