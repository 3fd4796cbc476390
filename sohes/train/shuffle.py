"""A shuffled order that needs no memory: the item at any place is computed.

A Feistel network permutes the numbers of an even number of bits; one that falls outside of the order is permuted again
until it falls inside ("cycle walking", Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
"""

from __future__ import annotations

import numpy as np

ROUNDS = 8
_64_BITS = 2**64 - 1


class Shuffled:
    """`shuffled[place]`: each number below `count` once, in an order that is a pure function of `key`."""

    def __init__(self, count: int, key: tuple[int, ...]) -> None:
        self.count = count
        self._half = max(1, -(-(count - 1).bit_length() // 2))  # bits
        self._keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64).tolist()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.count:
            raise IndexError(f"an order of {self.count} has no place {place}")
        place = self._permuted(place)
        while place >= self.count:  # four times at most on average: over a quarter of the numbers are inside
            place = self._permuted(place)
        return place

    def _permuted(self, number: int) -> int:
        low_bits = (1 << self._half) - 1
        left, right = number >> self._half, number & low_bits
        for key in self._keys:
            left, right = right, left ^ (_mixed(right ^ key) & low_bits)
        return left << self._half | right


def _mixed(number: int) -> int:
    """64 bits of which each depends on each of the given ones: the finaliser of SplitMix64 (Steele et al., 2014)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _64_BITS
    return number ^ number >> 31
