"""An image and its tokens that belong together: what a ViT sees in a photograph, without a ViT.

The image's colours say where in it one is, so that a crop's tokens, too, are those of its place: small regions of the
image turn up in the crops round them. Entities, parts and spots are as many as leave about 150 regions of an image
pooled over all thresholds, and crops in the same number as spots: what the paper reports (table 2).
"""

from __future__ import annotations

import numpy as np

from sohes.explore.local import Extract

ENTITIES, PARTS_EACH, SPOTS = 14, 6, 70
SPOT_RADIUS = 1.9 / 128  # of the image's side: about ten patches of 128 x 128, the largest that count as small


def places_image(size: int) -> np.ndarray:
    """(size, size, 3) uint8: red rises downwards, green to the right."""
    steps = (np.arange(size) * 256 // size).astype(np.uint8)
    image = np.zeros((size, size, 3), np.uint8)
    image[..., 0], image[..., 1] = steps[:, None], steps
    return image


def place_tokens(dim: int, *, patch_size: int, seed: int = 0) -> Extract:
    """Tokens of views of `places_image`: entity, part and spot that the patch's place lies in, drift and noise."""
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
    """(h, w) the index of the centre nearest to each place, and how far it is."""
    distance = np.linalg.norm(places_hw2[:, :, None] - centres_N2.astype(np.float32), axis=3)
    return distance.argmin(2), distance.min(2)
