"""The normalisation of all convolution maps."""

from __future__ import annotations

import math

from torch import nn


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups as in Mask2Former, fewer if 32 does not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)
