"""Predictions, average recall, tables and plots."""
