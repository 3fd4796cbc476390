// The forest of one layer as a list for keyboard navigation: one row per mask, parents before their parts.

export class Tree {
  constructor(element, choose, hover) {
    Object.assign(this, { element, rows: new Map(), marked: null, current: null });
    const row = (event) => event.target.closest("[data-mask]");
    element.addEventListener("click", (event) => row(event) && choose(Number(row(event).dataset.mask)));
    element.addEventListener("pointerover", (event) => row(event) && hover(Number(row(event).dataset.mask)));
    element.addEventListener("pointerleave", () => hover(-1));
  }

  show(panel) {
    this.rows.clear();
    this.marked = null;
    const list = document.createDocumentFragment();
    const add = (i, depth) => {
      const { masks, shown } = panel;
      if (shown.has(i)) list.append(this.row(masks[i], i, depth));
      for (const child of bySize(masks, masks[i].children)) add(child, depth + (shown.has(i) ? 1 : 0));
    };
    const roots = panel.masks.flatMap((mask, i) => (mask.parent < 0 ? [i] : []));
    for (const root of bySize(panel.masks, roots)) add(root, 0);
    this.element.replaceChildren(list);
    this.current = this.rows.get(panel.selected) ?? null; // keep the selection when a slider rebuilds the rows
    this.current?.setAttribute("aria-selected", "true");
    this.element.setAttribute("aria-label", `Masks of ${panel.name}, parts below their parents`);
  }

  row(mask, i, depth) {
    const row = document.createElement("div");
    row.className = "row";
    row.dataset.mask = i;
    row.id = `mask-${i}`;
    row.style.setProperty("--depth", Math.min(depth, 8));
    row.setAttribute("role", "treeitem");
    row.setAttribute("aria-level", depth + 1);
    row.setAttribute("aria-selected", "false");
    const [what, score] = [document.createElement("span"), document.createElement("span")];
    what.textContent = `${["whole", "part", "subpart"][Math.min(mask.level, 2)]} ${i + 1}`;
    score.textContent = mask.score.toFixed(2);
    score.title = `score ${mask.score.toFixed(3)}, ${mask.area} pixels`;
    row.append(what, score);
    this.rows.set(i, row);
    return row;
  }

  // Mark the row under the pointer. Only a class changes, which is cheap enough for every pointer move.
  mark(i) {
    const row = this.rows.get(i) ?? null;
    if (row === this.marked) return;
    this.marked?.classList.remove("hovered");
    row?.classList.add("hovered");
    this.marked = row;
  }

  select(i) {
    this.current?.setAttribute("aria-selected", "false");
    this.current = this.rows.get(i) ?? null;
    this.current?.setAttribute("aria-selected", "true");
    if (this.current) {
      this.element.setAttribute("aria-activedescendant", this.current.id);
      this.current.scrollIntoView({ block: "nearest" });
    } else this.element.removeAttribute("aria-activedescendant");
  }
}

function bySize(masks, indices) {
  return [...indices].sort((a, b) => masks[b].area - masks[a].area || a - b);
}
