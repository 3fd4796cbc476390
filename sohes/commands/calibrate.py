"""`sohes calibrate`: merging thresholds that fit the backbone, written into params.yaml (ours).

The paper's cosines are those of one backbone's tokens and mean nothing for another's. How many regions are left does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from sohes.commands.edited import edited
from sohes.commands.options import HERE, ParamsFile
from sohes.data.store.images import ImageStore
from sohes.errors import SohesError
from sohes.explore.calibrate import thresholds_for
from sohes.explore.local import square, tree_of
from sohes.explore.maps import make_extractor, map_extractors
from sohes.explore.merge.tree import MergeTree
from sohes.params import ExploreParams, load_params
from sohes.project import Project, require


def calibrate(
    images: Annotated[int, typer.Option(min=1, help="How many pulled images to look at.")] = 20,
    most: Annotated[int, typer.Option(min=2, help="Regions left at the first threshold.")] = 200,
    least: Annotated[int, typer.Option(min=1, help="Regions left at the last one.")] = 2,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the thresholds, write nothing.")] = False,
    params: ParamsFile = HERE.params,
) -> None:
    """Fit explore.theta_merge to the backbone.

    Writes the cosines at which so many regions are left on average, as many
    thresholds as there are now. Maps of colour alone keep theirs.

    Example: sohes pull && sohes backbone && sohes calibrate
    """
    if most <= least:
        raise SohesError(f"regions grow fewer: --most must be above --least (got {most} and {least})")
    explore, project = load_params(params).explore, Project(Path.cwd())
    if explore.uses_backbone:
        require(project.model("backbone"), "backbone", "backbone")
    fitted = [k for k, one in enumerate(explore.maps) if one.features != "handmade" or not explore.uses_backbone]
    trees = _trees(explore, fitted, project, images)
    with nullcontext() if dry_run else edited(params, params) as values:
        for k, of_map in enumerate(explore.maps):
            name = "explore.theta_merge" if k == 0 else f"explore.also[{k - 1}].theta_merge"
            if k not in fitted:
                print(f"{name}: as it is, for colour alone has no backbone to fit")
                continue
            try:
                thetas = thresholds_for(_numbers(most, least, len(of_map.theta_merge)), trees[k])
            except ValueError as error:
                raise SohesError(f"{name}: {error}: lower --most") from None
            print(f"{name}: {list(thetas)}")
            if values is not None:
                section = values["explore"] if k == 0 else values["explore"]["also"][k - 1]
                written = section.setdefault("theta_merge", [])
                written[:] = thetas
    if not dry_run:
        print(f"wrote {params}: `sohes explore` labels with them")


def _trees(explore: ExploreParams, fitted: Sequence[int], project: Project, images: int) -> dict[int, list[MergeTree]]:
    """For each of the feature maps to fit, the trees of images that lie evenly among those pulled."""
    store = ImageStore(project.images)
    chosen = np.unique(np.linspace(0, len(store) - 1, images).astype(np.int64))
    extractors = map_extractors(make_extractor(explore, project.model("backbone")), explore)
    maps = explore.maps
    trees: dict[int, list[MergeTree]] = {k: [] for k in fitted}
    for image_id in store.image_ids[chosen]:
        image = store.read(int(image_id))
        for k in fitted:
            (features,) = extractors[k]([square(image, maps[k].image_size)])
            trees[k].append(tree_of(features, maps[k]))
    return trees


def _numbers(most: int, least: int, levels: int) -> list[int]:
    """So many numbers of regions, falling from `most` to `least`, evenly spaced in ratio."""
    return np.rint(np.geomspace(most, least, levels)).astype(int).tolist()
