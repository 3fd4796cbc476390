"""The vision transformer, its features and its DINO pre-training."""
