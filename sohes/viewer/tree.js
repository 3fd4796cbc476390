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
      list.append(this.row(panel, i, depth));
      for (const part of panel.forest.parts.get(i)) add(part, depth + 1);
    };
    for (const root of panel.forest.roots) add(root, 0);
    this.element.replaceChildren(list);
    this.current = this.rows.get(panel.selected) ?? null; // keep the selection when a slider rebuilds the rows
    this.current?.setAttribute("aria-selected", "true");
    this.element.setAttribute("aria-label", `Masks of ${panel.name}, parts below their parents`);
  }

  row(panel, i, depth) {
    const mask = panel.masks[i];
    const row = document.createElement("div");
    row.className = "row";
    row.dataset.mask = i;
    row.id = `mask-${i}`;
    row.style.setProperty("--depth", Math.min(depth, 6));
    row.setAttribute("role", "treeitem");
    row.setAttribute("aria-level", depth + 1);
    row.setAttribute("aria-selected", "false");
    const cells = [`${["whole", "part", "subpart"][Math.min(mask.level, 2)]} ${i + 1}`, `${panel.share(i)} %`];
    if (panel.scored) cells.push(mask.score.toFixed(2));
    row.append(...cells.map((words) => Object.assign(document.createElement("span"), { textContent: words })));
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
      // Not scrollIntoView, which scrolls the page as well: on a phone, away from the picture.
      const [list, row] = [this.element, this.current].map((element) => element.getBoundingClientRect());
      this.element.scrollTop += Math.min(0, row.top - list.top) + Math.max(0, row.bottom - list.bottom);
    } else this.element.removeAttribute("aria-activedescendant");
  }
}
