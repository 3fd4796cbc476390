"""Photographs, label shards, data sets."""
