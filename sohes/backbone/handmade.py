"""Patch features made from colour by hand, not learned: for use without a backbone, and as a yardstick for one."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

# Chosen by phase 1's recall on scenes and on photographs: docs/log.md.
LIGHTNESS = 0.7  # weight against hue: shading changes lightness first
TEXTURE = 3.0  # weight of the lightness gradient
SIGMA = 12.0  # width of the kernel, in units of CIELAB
FREQUENCIES = 128
CENTRING = 0.5  # share of the image's mean that is subtracted: a low-contrast image is cut finer
SAMPLE = 2  # pixels per side of one sample, to average out the noise of single pixels


def handmade_features(image_HW3: np.ndarray, *, patch_size: int) -> np.ndarray:
    """(h, w, C) float32 features of the patches of a (H, W, 3) uint8 RGB image, made for the cosine similarity.

    A patch is the mean embedding of what its pixels look like (CIELAB and the strength of the lightness gradient):
    random Fourier features of a Gaussian kernel (Rahimi and Recht, 2007), averaged. The mean over a region is then
    the embedding of the region's distribution, so what merging compares are distributions, and a striped region is
    as uniform as a plain one. ValueError unless H and W are multiples of the patch size.
    """
    height, width = image_HW3.shape[:2]
    if height % patch_size or width % patch_size:
        raise ValueError(f"an image must be made of whole patches of {patch_size} (got {height} x {width})")
    sample = SAMPLE if patch_size % SAMPLE == 0 else 1
    phases = _block_means(_appearance(image_HW3, patch_size), sample) @ _frequencies()
    features = _block_means(np.concatenate([np.cos(phases), np.sin(phases)], 2), patch_size // sample)
    return features - np.float32(CENTRING) * features.mean((0, 1))


def _appearance(image_HW3: np.ndarray, patch_size: int) -> np.ndarray:
    """(H, W, 4): weighted CIELAB, and the lightness gradient's mean strength about half a patch around."""
    lab: np.ndarray = cv2.cvtColor(image_HW3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab[..., 0] = lab[..., 0] * LIGHTNESS
    smooth = cv2.GaussianBlur(lab[..., 0], (0, 0), 1)
    gradient = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0) / 4, cv2.Sobel(smooth, cv2.CV_32F, 0, 1) / 4)
    return np.concatenate([lab, TEXTURE * cv2.GaussianBlur(gradient, (0, 0), patch_size / 2)[..., None]], 2)


@cache
def _frequencies() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, FREQUENCIES)).astype(np.float32) / np.float32(SIGMA)


def _block_means(array_HWC: np.ndarray, side: int) -> np.ndarray:
    height, width, channels = array_HWC.shape
    blocks = array_HWC.reshape(height // side, side, width // side, side, channels)
    return blocks.mean((1, 3), dtype=np.float32)
