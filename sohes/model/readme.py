"""A shared model's README, out of its card: what the hub shows, its metadata first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SIZES = ("AR", "AR_S", "AR_M", "AR_L")
_IN_WORDS = {
    True: "yes. No human label was used, not for the masks, not for a refiner and not for the backbone.",
    False: "no. Human labels trained its refiner or its backbone.",
    None: "unknown. The card does not say what trained its backbone.",
}


def readme(card: Mapping[str, Any], name: str, title: str) -> str:
    """Markdown. name: what `sohes.load` takes. What the card does not say is said to be unknown."""
    licence = card.get("licence")
    sections = [
        f"# {title}\n\n{_what(card)}",
        f'```python\nimport sohes\n\nresult = sohes.load("{name}").segment("cat.jpg")\n'
        "result.masks, result.scores, result.parents\n```",
        f"`model.json` is its card. On the command line: `sohes segment cat.jpg --model {name}`.",
        f"## What it was trained on\n\n{_trained_on(card)}",
        f"**Label-free:** {card.get('label_free_in_words') or _IN_WORDS[card.get('label_free')]}",
        f"## Average recall\n\n{_figures(card.get('figures'))}",
        f"## Limits\n\n{_sentence(card.get('limits')) or 'The card names none.'} Scores order the masks; they are not "
        "probabilities. It is not for decisions about people.",
        f"## Licence\n\n{licence or 'Unknown: the card names none. Ask who trained it.'}",
    ]
    return f"---\n{_metadata(licence)}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(licence: str | None) -> str:
    lines = ["library_name: sohes", "pipeline_tag: mask-generation", "tags: [sohes, image-segmentation, safetensors]"]
    return "\n".join([*([f"license: {licence}"] if licence else []), *lines]) + "\n"


def _what(card: Mapping[str, Any]) -> str:
    known = card.get("what") or (
        "It finds entities in photographs, their parts and subparts, with scores and parents; it names no classes."
    )
    parameters = card.get("parameters")
    return f"{known} {parameters / 1e6:.1f} million parameters." if isinstance(parameters, int) else str(known)


def _trained_on(card: Mapping[str, Any]) -> str:
    told = [_sentence(card[key]) for key in ("data", "training", "backbone_from") if card.get(key)]
    if not card.get("data"):
        told.insert(0, "The card does not say which images.")
    digests = card.get("digests")
    if isinstance(digests, Mapping):
        told.append("Digests: " + ", ".join(f"{key} `{value}`" for key, value in sorted(digests.items())) + ".")
    return " ".join(told)


def _sentence(words: Any) -> str:
    text = str(words or "").strip()
    return text if not text or text.endswith(".") else f"{text[0].upper()}{text[1:]}."


def _figures(figures: Any) -> str:
    if not isinstance(figures, Mapping) or not figures:
        return "The card has no figures."
    head = "In percent, up to 1,000 masks an image; in brackets 95 % intervals over images.\n\n"
    table = ["| images | number | AR | small | medium | large |", "|---|---:|---:|---:|---:|---:|"]
    rows = [
        f"| {name} | {row.get('images', '')} | " + " | ".join(_cell(row.get(size)) for size in _SIZES) + " |"
        for name, row in figures.items()
    ]
    return head + "\n".join([*table, *rows])


def _cell(value: Any) -> str:
    if isinstance(value, list) and len(value) == 3:
        return f"{value[0]:.1f} ({value[1]:.1f} to {value[2]:.1f})"
    return "" if value is None else f"{value:.1f}"
