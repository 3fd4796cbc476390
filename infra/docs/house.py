"""Draw the package's layers for `docs/how-it-works.md` from `pyproject.toml` and the docstrings.

python -m infra.docs.house
"""

from __future__ import annotations

import ast
import re
import textwrap
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs/pictures/house.svg"
WIDTH, MARGIN, NAME, LINE, GAP = 960, 12, 30, 17, 7  # pixels
STYLE = """
text { font-family: system-ui, sans-serif; font-size: 12px; fill: #24292f }
.name { font-weight: 600; font-size: 14px }
rect { fill: #eef3f8; stroke: #8aa0b6; rx: 6px }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } rect { fill: #1c2733; stroke: #56687a }
}
"""


def layers() -> list[list[str]]:
    """The modules of each layer, top layer first, as checked by import-linter."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c.get("containers") == ["sohes"])
    return [[name.strip() for name in re.split("[|:]", layer)] for layer in contract["layers"]]


def summary(module: str) -> str:
    """The first sentence of a module's docstring."""
    path = ROOT / "sohes" / module
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = " ".join((ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split())
    return re.split(r"(?<=[.:])\s", text)[0].rstrip(".:")


def draw() -> str:
    """The picture as SVG, one row per layer. Upper rows import from lower ones, never the reverse."""
    boxes: list[str] = []
    top = MARGIN
    for modules in layers():
        width = (WIDTH - 2 * MARGIN - GAP * (len(modules) - 1)) / len(modules)
        words = [textwrap.wrap(summary(module), int((width - 20) / 6.2)) for module in modules]
        height = NAME + LINE * max(map(len, words))
        for column, (module, lines) in enumerate(zip(modules, words, strict=True)):
            left = MARGIN + column * (width + GAP)
            boxes.append(f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}"/>')
            boxes.append(f'<text class="name" x="{left + 10:.1f}" y="{top + 20}">{module}</text>')
            for i, line in enumerate(lines):
                boxes.append(f'<text x="{left + 10:.1f}" y="{top + 38 + LINE * i}">{escape(line)}</text>')
        top += height + GAP
    bottom = top - GAP + MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" width="{WIDTH}" height="{bottom}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *boxes, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(f"wrote {PICTURE}")
