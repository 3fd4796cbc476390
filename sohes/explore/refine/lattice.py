"""Gaussian filtering in a space of five dimensions, on the permutohedral lattice (Adams, Baek and Davis, 2010).

Each point splats its value onto the d + 1 corners of its simplex, the values are blurred along the lattice's axes, and
each point gathers from its corners. That is linear in the number of points; the sum over all pairs is quadratic. The
kernel is within a few percent of a Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sohes.work.compiled import compiled

BITS = 12  # of each coordinate in a corner's key; five fit into 64 bits
MIDDLE = 1 << (BITS - 1)


@dataclass(frozen=True)
class Lattice:
    """The H x W points of a picture in a lattice of V corners, for d = 5 features.

    corners_HW6: int32 of each point.  weights_HW6: float32, barycentric.
    below_6V, above_6V: int32, each corner's neighbours along each axis; V where there is none.
    """

    corners_HW6: np.ndarray
    weights_HW6: np.ndarray
    below_6V: np.ndarray
    above_6V: np.ndarray

    def filter(self, values_HW: np.ndarray) -> np.ndarray:
        """(H, W) float32: the sum over all points of exp(-|f - g|^2 / 2) times their values, up to a common factor."""
        values = np.ascontiguousarray(values_HW, np.float32)
        return _filter(values, self.corners_HW6, self.weights_HW6, self.below_6V, self.above_6V)

    def window(self, box_yxyx: tuple[int, int, int, int]) -> Lattice:
        """The lattice of a window of the image, whose filter takes the points outside for zeros. Accurate to a few
        thousandths: corners two or more steps away from all points of the window are left out."""
        y0, x0, y1, x1 = box_yxyx
        corners = np.ascontiguousarray(self.corners_HW6[y0:y1, x0:x1])
        weights = np.ascontiguousarray(self.weights_HW6[y0:y1, x0:x1])
        return Lattice(*_renumbered(corners, self.below_6V, self.above_6V, weights))


def build_lattice(features_HW5: np.ndarray) -> Lattice:
    """The lattice of `features`, each divided by the standard deviation of its kernel.

    ValueError if they spread over too many standard deviations: about 500 along one feature.
    """
    height, width, d = features_HW5.shape
    if d != 5:
        raise ValueError(f"five features are needed (got {d})")
    points = features_HW5.reshape(height * width, d).astype(np.float32)
    keys, weights, fits = _corners(points - (points.min(0) + points.max(0)) / 2)
    if not fits:
        raise ValueError(f"the features spread over too many standard deviations (got {np.ptp(points, 0).max():.0f})")
    unique, corners = np.unique(keys, return_inverse=True)
    ones = sum(1 << (BITS * i) for i in range(d))
    steps = [((d + 1) << (BITS * axis)) - ones for axis in range(d)] + [-ones]
    below, above = (
        np.stack([_places(unique, unique + sign * step) for step in steps]).astype(np.int32) for sign in (-1, 1)
    )
    shape = (height, width, d + 1)
    return Lattice(corners.reshape(shape).astype(np.int32), weights.reshape(shape), below, above)


def _places(unique: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    places = np.searchsorted(unique, wanted)
    there = unique[np.minimum(places, len(unique) - 1)] == wanted
    return np.where(there, places, len(unique))


@compiled
def _corners(points):
    """(P, 6) keys and weights of the corners around each point, and whether every key fits its bits.

    The five coordinates become six that add up to zero. Rounding finds the nearest lattice point whose coordinates are
    all multiples of six; the order of the remainders determines the simplex.
    """
    count, d = points.shape
    keys, weights = np.empty((count, d + 1), np.int64), np.empty((count, d + 1), np.float32)
    scale = np.empty(d)
    for i in range(d):  # so that the blur has a deviation of one
        scale[i] = (d + 1) * np.sqrt(2 / 3) / np.sqrt((i + 1.0) * (i + 2))
    lifted, base, rank, share = np.empty(d + 1), np.empty(d + 1, np.int64), np.empty(d + 1, np.int64), np.empty(d + 2)
    fits = True
    for p in range(count):
        total = 0.0
        for i in range(d, 0, -1):
            part = points[p, i - 1] * scale[i - 1]
            lifted[i] = total - i * part
            total += part
        lifted[0] = total
        excess = 0
        for i in range(d + 1):
            nearest = int(np.floor(lifted[i] / (d + 1) + 0.5))
            base[i] = nearest * (d + 1)
            excess += nearest
        rank[:] = 0
        for i in range(d):
            for j in range(i + 1, d + 1):
                if lifted[i] - base[i] < lifted[j] - base[j]:
                    rank[i] += 1
                else:
                    rank[j] += 1
        for i in range(d + 1):  # make the rounded coordinates add up to zero: move those with the largest errors
            rank[i] += excess
            if rank[i] < 0:
                rank[i] += d + 1
                base[i] += d + 1
            elif rank[i] > d:
                rank[i] -= d + 1
                base[i] -= d + 1
        share[:] = 0
        for i in range(d + 1):
            rest = (lifted[i] - base[i]) / (d + 1)
            share[d - rank[i]] += rest
            share[d + 1 - rank[i]] -= rest
        share[0] += 1 + share[d + 1]
        for corner in range(d + 1):
            key = np.int64(0)
            for i in range(d):
                coordinate = base[i] + (corner if rank[i] <= d - corner else corner - d - 1)
                # the neighbours' keys must fit, too
                if not -MIDDLE + d < coordinate < MIDDLE - d - 1:
                    fits = False
                key += (coordinate + MIDDLE) << (BITS * i)
            keys[p, corner] = key
            weights[p, corner] = share[corner]
    return keys, weights, fits


@compiled
def _renumbered(corners, below, above, weights):
    """The points' corners and the neighbours of these, renumbered, with the neighbours of each."""
    axes, count = below.shape
    number = np.full(count + 1, -1, np.int32)
    kept = np.empty(count, np.int32)
    total = 0
    renumbered = np.empty(corners.shape, np.int32)
    for y in range(corners.shape[0]):
        for x in range(corners.shape[1]):
            for k in range(axes):
                corner = corners[y, x, k]
                if number[corner] < 0:
                    number[corner] = total
                    kept[total] = corner
                    total += 1
                renumbered[y, x, k] = number[corner]
    for i in range(total):
        for axis in range(axes):
            for corner in (below[axis, kept[i]], above[axis, kept[i]]):
                if corner < count and number[corner] < 0:
                    number[corner] = total
                    kept[total] = corner
                    total += 1
    new_below, new_above = np.empty((axes, total), np.int32), np.empty((axes, total), np.int32)
    for i in range(total):
        for axis in range(axes):
            lower, upper = number[below[axis, kept[i]]], number[above[axis, kept[i]]]
            new_below[axis, i] = total if lower < 0 else lower
            new_above[axis, i] = total if upper < 0 else upper
    return renumbered, weights, new_below, new_above


@compiled
def _filter(values, corners, weights, below, above):
    axes, count = below.shape
    old, new = np.zeros(count + 1, np.float32), np.zeros(count + 1, np.float32)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            if values[y, x] != 0:
                for k in range(axes):
                    old[corners[y, x, k]] += weights[y, x, k] * values[y, x]
    for axis in range(axes):
        for v in range(count):
            new[v] = old[v] + np.float32(0.5) * (old[below[axis, v]] + old[above[axis, v]])
        old, new = new, old
        old[count] = 0
    filtered = np.empty(values.shape, np.float32)
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            total = np.float32(0)
            for k in range(axes):
                total += weights[y, x, k] * old[corners[y, x, k]]
            filtered[y, x] = total
    return filtered
