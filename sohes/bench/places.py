"""A synthetic image with matching tokens: stands in for a photograph and a ViT.

The colours of the image encode positions, so a crop gets the tokens of its position and small regions of the image
reappear in the crops around them. The numbers of entities, parts and spots give about 150 regions per image, pooled
over all thresholds, as in the paper (table 2). Ours: as many crops as spots; the paper does not count them.
"""

from __future__ import annotations

import numpy as np

from sohes.explore.local import Extract

ENTITIES, PARTS_EACH, SPOTS = 14, 6, 70
SPOT_RADIUS = 1.9 / 128  # of the image's side: about ten of 128 x 128 patches, the largest size that counts as small


def places_image(size: int) -> np.ndarray:
    """(size, size, 3) uint8: red increases downwards, green to the right."""
    steps = (np.arange(size) * 256 // size).astype(np.uint8)
    image = np.zeros((size, size, 3), np.uint8)
    image[..., 0], image[..., 1] = steps[:, None], steps
    return image


def place_tokens(dim: int, *, patch_size: int, seed: int = 0) -> Extract:
    """An extractor for views of `places_image`: tokens of the entity, part and spot at each patch, drift and noise."""
    rng = np.random.default_rng(seed)
    entity_places, part_places, spot_places = (rng.random((n, 2)) for n in (ENTITIES, ENTITIES * PARTS_EACH, SPOTS))
    base = rng.normal(size=dim).astype(np.float32) / 2
    entities, parts, spots = (
        rng.normal(size=(n, dim)).astype(np.float32) for n in (ENTITIES, ENTITIES * PARTS_EACH, SPOTS)
    )
    drift = rng.normal(size=(2, dim)).astype(np.float32) / 3

    def tokens(image_HW3: np.ndarray) -> np.ndarray:
        centre = patch_size // 2
        places = (image_HW3[centre::patch_size, centre::patch_size, :2] + np.float32(0.5)) / 256
        features = np.random.default_rng(seed).standard_normal((*places.shape[:2], dim), np.float32) / 2
        features += base + places @ drift
        features += 0.8 * entities[_nearest(places, entity_places)[0]] + parts[_nearest(places, part_places)[0]]
        spot, distance = _nearest(places, spot_places)
        inside = distance < SPOT_RADIUS
        features[inside] += 2 * spots[spot[inside]]
        return features

    return lambda images: [tokens(image) for image in images]


def _nearest(places_hw2: np.ndarray, centres_N2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) the index of the nearest centre to each place, and its distance."""
    distance = np.linalg.norm(places_hw2[:, :, None] - centres_N2.astype(np.float32), axis=3)
    return distance.argmin(2), distance.min(2)
