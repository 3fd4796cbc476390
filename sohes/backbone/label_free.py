"""Whether a backbone was trained without human labels, judged by the name of its weights."""

from __future__ import annotations

from pathlib import Path

from sohes.errors import SohesError
from sohes.params import WEIGHT_FILES
from sohes.project import read_json

# Methods that learn from images alone, and the collections of images that only DINOv2 and DINOv3 were trained on.
SELF_SUPERVISED = {"dino", "ibot", "ijepa", "lvd142m", "lvd1689m", "mae", "mocov3", "msn", "sat493m"}
IMAGENET = {"in1k", "in12k", "in21k", "in22k"}  # without a method: timm's tag for training on ImageNet's classes
# Architectures whose weights learned from captions, which people wrote, or from the features of a model that did; so
# did every model with CLIP in its name.
CAPTIONED = {"aimv2", "beit3", "eva", "eva02", "intern300m", "pe", "radio", "siglip", "tipsv2"}


def is_label_free(pretrained: str | Path) -> bool | None:
    """What `backbone.pretrained` names (`train`, a timm model, or a file with its card beside it); None if unknown."""
    name = str(pretrained)
    if name == "train":
        return True
    if name.endswith(WEIGHT_FILES):
        return _by_card(Path(name).with_suffix(".json"))
    architecture, _, tag = name.removeprefix("hf-hub:timm/").partition(".")
    if "/" in architecture:  # somebody's own weights on the hub
        return None
    if "clip" in name or CAPTIONED & set(architecture.split("_")):
        return False
    words = set((tag or _default_tag(architecture)).split("_"))
    if "ft" in words:  # fine-tuned
        return False
    if words & SELF_SUPERVISED and words <= SELF_SUPERVISED | IMAGENET:
        return True
    return False if words & IMAGENET else None


def _default_tag(architecture: str) -> str:
    """Of the weights that timm takes for a name without a tag."""
    import timm

    published = timm.get_pretrained_cfg(architecture)
    return (published.tag if published else None) or ""


def _by_card(path: Path) -> bool | None:
    """What stage `backbone` wrote into the card; cards from before it did so name only the weights."""
    try:
        card = read_json(path, "")
        known = card["label_free"] if "label_free" in card else card["params"]["pretrained"]
    except (OSError, SohesError, KeyError, TypeError):
        return None
    if isinstance(known, str):
        return None if known.endswith(WEIGHT_FILES) else is_label_free(known)
    return known if isinstance(known, bool) else None
