"""Where a ViT comes from: random weights, a file, or timm's hub."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import timm
from safetensors import SafetensorError
from timm.models import load_state_dict
from timm.models.eva import Eva
from timm.models.eva import checkpoint_filter_fn as eva_weights
from timm.models.vision_transformer import checkpoint_filter_fn as vit_weights
from torch import nn

from sohes.backbone.checkpoint import load_backbone
from sohes.backbone.vit import Backbone
from sohes.errors import SohesError, first_sentence, is_the_machines, lacks_memory
from sohes.params import TRAINED_HERE, WEIGHT_FILES, VitParams, weights_in
from sohes.project import read_json

_ANOTHER = "name another file in backbone.pretrained"
_BAD_FILE = (EOFError, KeyError, RuntimeError, SafetensorError, ValueError, pickle.UnpicklingError)


def build_backbone(params: VitParams, root: Path = Path()) -> Backbone:
    """The backbone that `params.pretrained` names: random (`train`, `distill`), from a file, or from timm's hub.

    A file is one of ours with its card, or bare weights of `params.architecture`; a relative path starts at `root`.
    SohesError if the weights cannot be obtained or differ in shape from the params.
    """
    if params.pretrained in TRAINED_HERE:
        return _from_params(params)
    if params.pretrained.endswith(WEIGHT_FILES):
        path = Path(weights_in(root, params.pretrained))
        backbone = load_backbone(path, _ANOTHER) if path.exists() and _has_card(path) else _from_weights(path, params)
    else:
        backbone = _from_hub(params)
    for name in ("patch_size", "embed_dim", "depth", "num_heads"):
        wanted, found = getattr(params, name), getattr(backbone, name)
        if wanted != found:
            raise SohesError(f"backbone.{name} is {wanted}, but {params.pretrained} has {found}: set it to {found}")
    return backbone


def _has_card(path: Path) -> bool:
    """Whether `sohes backbone` wrote the file: any other may have a .json of something else beside it."""
    try:
        return {"architecture", "digest"} <= read_json(path.with_suffix(".json"), "").keys()
    except (OSError, SohesError):
        return False


def _from_params(params: VitParams) -> Backbone:
    name = params.architecture
    if not timm.is_model(name):
        raise SohesError(f"timm has no model {name}: fix backbone.architecture (for example vit_small_patch16_224)")
    shape = {key: getattr(params, key) for key in ("patch_size", "embed_dim", "depth", "num_heads")}
    return Backbone(name, {**shape, "img_size": params.image_size})


def _from_hub(params: VitParams) -> Backbone:
    name = params.pretrained
    if not name.startswith("hf-hub:") and not timm.models.is_model_pretrained(name):
        raise SohesError(
            f"timm has no pretrained model {name}: set backbone.pretrained to `train`, a .safetensors file, or a name "
            "such as vit_base_patch8_224.dino"
        )
    try:
        backbone = Backbone(name, {"img_size": params.image_size}, pretrained=True)
    except SohesError:
        raise
    except Exception as error:  # the hub's client raises a dozen kinds: no network, no login, a licence, a full disk
        if lacks_memory(error):
            raise
        raise SohesError(
            f"cannot get the weights of {name} from the hub ({first_sentence(error)}): check the network, or "
            f"fetch them elsewhere and set backbone.pretrained to that file and backbone.architecture to {name}"
        ) from None
    if isinstance(backbone.norm, nn.LayerNorm) and bool((backbone.norm.weight == 1).all()):
        raise SohesError(f"{name} has no norm for its patch tokens, only for their mean: choose another backbone")
    return backbone


def _from_weights(path: Path, params: VitParams) -> Backbone:
    """Bare weights, timm's or those of the DINO family's own releases, fitted to patch and image size."""
    backbone = _from_params(params)
    fit = eva_weights if isinstance(backbone.vit, Eva) else vit_weights
    try:
        weights = fit(load_state_dict(str(path), weights_only=True), backbone.vit)  # a pickle must not run code
        missing = backbone.vit.load_state_dict(weights, strict=False).missing_keys
    except FileNotFoundError:
        raise SohesError(f"no backbone weights at {path}: fix backbone.pretrained") from None
    except _BAD_FILE as error:
        if is_the_machines(error):
            raise
        raise SohesError(_not_these_weights(path, params.architecture, error)) from None
    if missing:
        raise SohesError(_not_these_weights(path, params.architecture, f"it lacks {missing[0]}"))
    _say_normalisation(path, backbone)
    return backbone


def _not_these_weights(path: Path, architecture: str, why: object) -> str:
    return (
        f"{path} does not hold the weights of {architecture} ({first_sentence(why)}): name another file, or the "
        "architecture of this one"
    )


def _say_normalisation(path: Path, backbone: Backbone) -> None:
    """Bare weights do not tell how images were normalised for them, and timm's own of one architecture may differ."""
    name, taken = backbone.architecture, (backbone.mean, backbone.std)
    known = {tagged: timm.get_pretrained_cfg(tagged) for tagged in timm.list_pretrained(f"{name}.*")}
    others = [tagged for tagged, cfg in known.items() if cfg and (tuple(cfg.mean), tuple(cfg.std)) != taken]
    if others:  # none of a name with a tag
        print(
            f"{path}: images are normalised with the mean {backbone.mean} and std {backbone.std} of {name}; if these "
            f"weights want others, set backbone.architecture to a name with a tag, such as {others[0]}",
            file=sys.stderr,
        )
