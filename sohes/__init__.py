"""SOHES: self-supervised open-world hierarchical entity segmentation."""
