"""Refinement by CascadePSP (Cheng et al., 2020), the paper's choice: a network that was trained on human masks."""

from __future__ import annotations

from functools import cache

from sohes.errors import SohesError
from sohes.explore.refine.network import RELEASES, Network


@cache
def load_cascadepsp() -> Network:
    """The released network, on a GPU if there is one. SohesError if its package or its weights are not here."""
    try:
        from segmentation_refinement import Refiner
    except ImportError:
        raise SohesError(
            "the refiner cascadepsp needs the package segmentation-refinement: install sohes[cascadepsp], or set "
            "explore.refiner to guided"
        ) from None
    import torch

    weights = RELEASES["cascadepsp"].path()
    if weights.name != "model":
        raise SohesError(f"the package wants the weights' file to be called model: rename {weights}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Refiner(device=device, model_folder=str(weights.parent), download_and_check_model=False)
    return lambda image, mask: network.refine(image, mask) > 127
