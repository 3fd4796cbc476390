"""The example of docs/how-it-works.md: every number of it follows from the reference."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sohes.explore.merge.reference import reference_merge
from sohes.explore.merge.tree import MergeTree, merge_tree, region_masks, regions_at_thresholds, select_regions


@pytest.fixture(scope="module")
def section(repository: Path) -> str:
    page = (repository / "docs" / "how-it-works.md").read_text()
    return page.split("## The merge by hand\n")[1].split("\n## ")[0]


@pytest.fixture(scope="module")
def features(section: str) -> np.ndarray:
    """(3, 3, 2) unit vectors at the angles that the page shows."""
    degrees = [[int(word) for word in row.split()] for row in re.findall(r"^\d \d \d +(\d+ +\d+ +\d+)$", section, re.M)]
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], -1)


@pytest.fixture(scope="module")
def tree(features: np.ndarray) -> MergeTree:
    return merge_tree(features)


def braces(patches: np.ndarray) -> str:
    return "{" + ", ".join(str(patch) for patch in np.flatnonzero(patches)) + "}"


def test_the_edges(section, features):
    patches = np.arange(9).reshape(3, 3)
    pairs = [*zip(patches[:, :-1].flat, patches[:, 1:].flat, strict=True)]
    pairs += zip(patches[:-1].flat, patches[1:].flat, strict=True)
    unit = features.reshape(9, 2)
    similarities = [f"{a}-{b} {unit[a] @ unit[b]:.3f}" for a, b in pairs]
    assert re.findall(r"\b\d-\d \d\.\d{3}", section) == similarities


def test_the_merges(section, features, tree):
    children, similarity = reference_merge(features)
    np.testing.assert_array_equal(tree.children_M2, children)
    np.testing.assert_allclose(tree.similarity_M, similarity, atol=1e-6)
    masks = region_masks(tree, np.arange(9, 17)).reshape(8, 9)
    rows = [
        f"| {a} and {b} | {s:.3f} | {node} | {braces(mask)} |"
        for node, ((a, b), s, mask) in enumerate(zip(children, similarity, masks, strict=True), start=9)
    ]
    assert [row for row in section.splitlines() if re.match(r"\| \d+ and", row)] == rows


def test_the_regions_at_two_thresholds(section, tree):
    rows = re.findall(r"^- (\d\.\d): (.*)$", section, re.M)
    thetas = [float(theta) for theta, _ in rows]
    expected = [
        " and ".join(sorted(map(braces, region_masks(tree, nodes).reshape(-1, 9))))
        for nodes in regions_at_thresholds(tree, thetas)
    ]
    assert len(rows) == 2
    assert [regions for _, regions in rows] == expected


def test_the_recorded_regions(section, tree):
    nodes = select_regions(tree, theta_merge=(0.9, 0.6), nms_iou=0.9)
    assert f"records {len(nodes)} regions, nodes {', '.join(map(str, sorted(nodes)))}" in section
