"""Refinement by CRM, the continuous refinement model (Shen et al., 2022): the third refiner of the paper's table 2.

A ResNet-50 sees the image and the mask and yields feature maps of half the input's side. For an output of any size, a
small perceptron classifies each pixel from each of the four cells around it and its offset from that cell; the four
answers are mixed as in bilinear interpolation. The output mask is the input at the next larger scale.
The network was trained on human masks.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn import functional

from sohes.errors import SohesError, first_sentence, is_the_machines
from sohes.explore.refine.network import RELEASES, Network

SCALES = (0.125, 0.25, 0.5, 1.0)  # of the input, in this order, as in the authors' evaluation
TRAINED_SIDE = 224  # of the training crops; ours: a scale but the last is skipped if it makes a window smaller
BORDER = 32  # mirrored pixels around the input, as in the authors' evaluation
MAP_CHANNELS = (64, 256, 1024)  # of the encoder's three maps, and how many are kept of each:
LEVEL_CHANNELS = (64, 64, 128)
CHANNELS = sum(LEVEL_CHANNELS)
STRIP = 64  # rows of cells that are fused at a time
PIXELS_AT_ONCE = 2**17  # bounds the decoder's memory: several times 32 floats a pixel

# Names in the released file, and ours. Its layer4 is not used.
NAMES = {
    "feats.": "encoder.",
    "aspp_.aspp1_128.atrous_conv.": "levels.0.0.",
    "aspp_.aspp1_128.bn.": "levels.0.1.",
    "aspp_.bn1_128.": "levels.0.3.",
    "aspp_.aspp1_256.atrous_conv.": "levels.1.0.",
    "aspp_.aspp1_256.bn.": "levels.1.1.",
    "aspp_.bn1_256.": "levels.1.3.",
    "aspp_.aspp1_1024.atrous_conv.": "levels.2.0.",
    "aspp_.aspp1_1024.bn.": "levels.2.1.",
    "aspp_.bn1_1024.": "levels.2.3.",
    "aspp_.last_conv.": "fuse.",
    "imnet.layers.": "decoder.",
}


class CrmNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = timm.create_model(
            "resnet50", pretrained=False, in_chans=4, output_stride=8, features_only=True, out_indices=(0, 1, 3)
        )
        self.levels = nn.ModuleList(map(_level, MAP_CHANNELS, LEVEL_CHANNELS))
        self.fuse = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)
        )
        hidden = [layer for _ in range(3) for layer in (nn.Linear(32, 32), nn.ReLU())]
        self.decoder = nn.Sequential(nn.Linear(CHANNELS + 6, 32), nn.ReLU(), *hidden, nn.Linear(32, 1))

    def encode(self, image_13HW: Tensor, mask_11HW: Tensor) -> Tensor:
        """(H/2, W/2, 32): the decoder's input for a normalised image and a mask in [-1, 1], in cells of 2 x 2 pixels.

        That is `project(fuse(maps))`. The maps of 256 channels take half of the memory, so they are fused in strips,
        with one more row on either side.
        """
        found = self.encoder(torch.cat([image_13HW, mask_11HW], 1))
        height, width = found[0].shape[-2:]
        maps_1Chw = found[0].new_empty(1, CHANNELS, height, width)
        rooms = maps_1Chw.split(LEVEL_CHANNELS, 1)
        for level, room in zip(self.levels, rooms, strict=True):
            narrow = level(found.pop(0))
            room.copy_(functional.interpolate(narrow, size=(height, width), mode="bilinear", align_corners=True))
        cells_hw32 = maps_1Chw.new_empty(height, width, 32)
        for top in range(0, height, STRIP):
            above, end = max(0, top - 1), min(height, top + STRIP)
            fused = self.fuse(maps_1Chw[:, :, above : end + 1])
            cells_hw32[top:end] = self.project(fused[:, :, top - above : end - above])
        return cells_hw32

    def project(self, features_1Chw: Tensor) -> Tensor:
        """(h, w, 32): the features' share of the decoder's first layer, which is linear."""
        first = self.decoder[0]
        assert isinstance(first, nn.Linear)
        return functional.conv2d(features_1Chw, first.weight[:, :CHANNELS, None, None])[0].permute(1, 2, 0)

    def decode(self, cells_hw32: Tensor, size: tuple[int, int]) -> Tensor:
        """(H, W): the probability that a pixel of an output of `size` belongs to the mask.

        The perceptron sees a cell's features, the pixel's offset from the cell (y, x), its place in the image (y, x),
        and the side of a pixel in cells (y, x). Its first layer is linear, so the part of the features (`project`) is
        computed once a cell instead of four times a pixel, and the other parts once a row and once a column.
        """
        first, deeper = self.decoder[0], self.decoder[1:]
        assert isinstance(first, nn.Linear)
        of_offset, of_place, of_side = first.weight[:, CHANNELS:].T.reshape(3, 2, 32).unbind()  # each (y and x, 32)
        rows, columns = (
            _neighbours(pixels, cells, cells_hw32.device)
            for pixels, cells in zip(size, cells_hw32.shape[:2], strict=True)
        )
        row_shares, column_shares = (
            offsets[..., None] * of_offset[axis] + places[:, None] * of_place[axis] + side * of_side[axis]
            for axis, (_, offsets, places, side) in enumerate((rows, columns))
        )
        column_shares = column_shares + first.bias

        done = []
        for some in torch.arange(size[0], device=cells_hw32.device).split(max(1, PIXELS_AT_ONCE // size[1])):
            mixed, total = torch.zeros(()), torch.zeros(())
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                cells = cells_hw32[rows[0][i, some]][:, columns[0][j]]
                answer = deeper(cells + row_shares[i, some, None] + column_shares[j])[..., 0]
                nearness = (rows[1][1 - i, some, None] * columns[1][1 - j]).abs() + 1e-9  # the far corner's area
                mixed, total = mixed + nearness * answer, total + nearness
            done.append(torch.sigmoid(mixed / total))
        return torch.cat(done)


def _level(seen: int, kept: int) -> nn.Sequential:
    """Narrows a map of the encoder. The released network normalises it twice."""
    return nn.Sequential(
        nn.Conv2d(seen, kept, 1, bias=False), nn.BatchNorm2d(kept), nn.ReLU(True), nn.BatchNorm2d(kept), nn.ReLU(True)
    )


def _neighbours(pixels: int, cells: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, float]:
    """Along one axis of `pixels` over `cells`: (2, pixels) the two nearest cells of a pixel, (2, pixels) its distance
    from their centres in half cells, (pixels,) its position in [-1, 1], and the side of a pixel in half cells."""
    halves = 2 * torch.arange(pixels, device=device) + 1  # centres, in half pixels: whole numbers, so exact
    places = halves / pixels - 1
    lower = (halves * cells - pixels) // (2 * pixels)
    nearest = torch.stack([lower, lower + 1]).clamp(0, cells - 1)
    offsets = (places - ((2 * nearest + 1) / cells - 1)) * cells
    return nearest, offsets, places, 2 * cells / pixels


def refine_window(model: CrmNetwork, image_hw3: np.ndarray, mask_hw: np.ndarray) -> np.ndarray:
    """(h, w) bool: the mask after a pass at each scale. An empty mask stays empty."""
    device = next(model.parameters()).device
    border = (BORDER, BORDER, BORDER, BORDER, cv2.BORDER_REFLECT_101)
    image = torch.from_numpy(cv2.copyMakeBorder(image_hw3, *border)).to(device).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    image = (image - mean) / std
    probable = torch.from_numpy(cv2.copyMakeBorder(mask_hw, *border)).to(device) / 255
    size = probable.shape

    with torch.inference_mode():
        for scale in (s for s in SCALES if s == 1 or s * max(size) >= TRAINED_SIDE):
            if 2 * probable.sum() < 2:
                return np.zeros(mask_hw.shape, bool)
            seen = [
                functional.interpolate(
                    x, size=[round(side * scale) for side in size], mode="bilinear", align_corners=True
                )
                for x in (image, 2 * probable[None, None] - 1)
            ]
            probable = model.decode(model.encode(*seen), (size[0], size[1]))
    inside = slice(BORDER, -BORDER)
    return (probable[inside, inside] > 0.5).cpu().numpy()


def load_network(path: Path) -> CrmNetwork:
    """The network with the weights of the authors' checkpoint. SohesError if the file is something else."""
    model = CrmNetwork()
    expected = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    try:
        released = torch.load(path, map_location="cpu", weights_only=True)
        weights = {_renamed(name): tensor for name, tensor in released.items()}
        if missing := sorted(expected - weights.keys()):
            raise KeyError(f"{missing[0]} is missing")
        model.load_state_dict({name: weights[name] for name in expected}, strict=False)
    except Exception as error:  # a damaged file raises any of a dozen types
        if is_the_machines(error):
            raise
        reason = first_sentence(error)
        remedy = f"download {RELEASES['crm'].file} again"
        raise SohesError(f"{path} does not hold CRM's weights ({reason}): {remedy}") from error
    return model.eval().requires_grad_(False)


def _renamed(name: str) -> str:
    bare = name.removeprefix("module.")  # saved from a DataParallel
    for theirs, ours in NAMES.items():
        if bare.startswith(theirs):
            return ours + bare.removeprefix(theirs)
    return bare


@cache
def load_crm(weights: Path) -> Network:
    """The released network, on a GPU if there is one. SohesError if the file is something else."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_network(weights).to(device)
    return lambda image, mask: refine_window(model, image, mask)
