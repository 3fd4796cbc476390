"""Refinement by CascadePSP (Cheng et al., 2020), the paper's choice: a network that was trained on human masks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from sohes.errors import SohesError
from sohes.explore.refine.network import Network


@cache
def load_cascadepsp(weights: Path) -> Network:
    """The released network, on a GPU if there is one. SohesError if the file is not called `model`."""
    import torch
    from segmentation_refinement import Refiner

    if weights.name != "model":
        raise SohesError(f"the package wants the weights' file to be called model: rename {weights}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Refiner(device=device, model_folder=str(weights.parent), download_and_check_model=False)
    return lambda image, mask: network.refine(image, mask) > 127
