"""Anybody's predictions as records, one reader per format."""
