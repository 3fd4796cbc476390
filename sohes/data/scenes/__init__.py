"""Drawn scenes with exact masks and hierarchy: the demo's embedded dataset."""
