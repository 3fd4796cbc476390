"""Annotated data sets, one reader per file."""
