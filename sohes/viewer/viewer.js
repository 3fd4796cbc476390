// The page: load pictures, build one panel per layer, and turn pointer and keys into highlights.
import { Panel } from "./panel.js";
import { Tree } from "./tree.js";

const $ = (id) => document.getElementById(id);
const LEVELS = ["whole entities", "parts", "subparts"];
const TRUTH = "ground truth"; // the first layer, if there is one
const DRAWN = { score: 0.4, masks: 10 }; // shown at first, as in the pictures of `sohes segment`
// opens: how many pictures were opened; pointer: the pixel under it, in every panel; under: the panel below it.
const state = {
  index: null, place: 0, opens: 0, panels: [], active: null, hidden: new Set(), pointer: null, under: null,
};
const tree = new Tree($("tree"), (i) => select(i), (i) => highlight(state.active, i));

async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

async function start() {
  state.index = await fetchJson("index.json");
  document.title = `SOHES: ${state.index.title}`;
  state.index.names.forEach((name, i) => $("picture").append(new Option(name, i)));
  await open(Number(location.hash.slice(1)) || 0);
  if (state.panels.every(hasStrong)) {
    $("score").value = DRAWN.score;
    filter();
  }
}

// Whether the panel keeps enough (or all) masks when weak ones are hidden.
function hasStrong(panel) {
  if (!panel.scored) return true; // none of its masks is weaker than another, so none is hidden
  const strong = panel.masks.filter((mask) => mask.score >= DRAWN.score).length;
  return strong >= Math.min(DRAWN.masks, panel.masks.length);
}

async function open(place) {
  const count = state.index.names.length;
  state.place = (place + count) % count;
  $("picture").value = state.place;
  history.replaceState(null, "", `#${state.place}`);
  document.body.dataset.ready = "no";
  const opened = state.place;
  const turn = ++state.opens;
  try {
    const content = await fetchJson(`picture/${opened}.json`);
    const photo = new Image(content.width, content.height);
    photo.src = `picture/${opened}.jpg`;
    photo.alt = content.name;
    photo.draggable = false;
    await photo.decode();
    if (turn !== state.opens) return; // another picture was opened meanwhile
    state.panels = content.layers.map((layer) => new Panel(layer, content.width, content.height, photo));
    $("problem").hidden = true;
  } catch (error) {
    if (turn !== state.opens) return;
    state.panels = [];
    $("problem").textContent = `This picture cannot be shown: ${error.message}`;
    $("problem").hidden = false;
  }
  $("panels").replaceChildren(...state.panels.map((panel) => panel.element));
  $("layers").replaceChildren(...(state.panels.length > 1 ? state.panels.map(layerSwitch) : []));
  $("truth-help").hidden = !truthSwitch();
  state.panels.forEach(listen);
  const depth = Math.max(0, ...state.panels.flatMap((panel) => panel.masks.map((mask) => mask.level)));
  $("level").max = depth;
  $("level").parentElement.hidden = depth === 0;
  filter();
  showLayers();
  document.body.dataset.ready = "yes";
}

function layerSwitch(panel) {
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox" });
  box.checked = !state.hidden.has(panel.name);
  box.addEventListener("change", () => {
    state.hidden[box.checked ? "delete" : "add"](panel.name);
    showLayers();
  });
  label.append(box, ` ${panel.name}`);
  return label;
}

function truthSwitch() {
  return state.panels[0]?.name === TRUTH ? $("layers").querySelector("input") : null;
}

function showLayers() {
  for (const panel of state.panels) panel.element.hidden = state.hidden.has(panel.name);
  const visible = state.panels.filter((panel) => !panel.element.hidden);
  $("score").parentElement.hidden = !visible.some((panel) => panel.scored);
  activate(visible.includes(state.active) ? state.active : visible.at(-1));
  arrange();
}

// Choose the number of rows that makes the panels largest, the smaller among equals.
function arrange() {
  const visible = state.panels.filter((panel) => !panel.element.hidden);
  if (!visible.length) return;
  const { style } = $("panels");
  style.setProperty("--aspect", visible[0].width / visible[0].height);
  const around = [...document.querySelectorAll("header, #said, .help")].map((element) => element.offsetHeight);
  style.setProperty("--around", `${around.reduce((sum, height) => sum + height)}px`);
  const widthIn = (rows) => {
    style.setProperty("--rows", rows);
    style.setProperty("--columns", Math.ceil(visible.length / rows));
    return visible[0].element.getBoundingClientRect().width;
  };
  const widths = visible.map((_, i) => widthIn(i + 1));
  widthIn(1 + widths.indexOf(Math.max(...widths)));
}

function activate(panel) {
  state.active = panel ?? null;
  for (const other of state.panels) other.element.classList.toggle("active", other === panel && state.panels.length > 1);
  for (const other of state.panels) if (other !== panel) leave(other);
  if (panel) tree.show(panel);
  else $("tree").replaceChildren();
  $("score-head").hidden = !panel?.scored;
  announceSelection();
}

function filter() {
  const least = Number($("score").value);
  const level = Number($("level").value);
  $("score-value").textContent = least.toFixed(2);
  $("level-value").textContent = level < 0 ? "all" : LEVELS[level] ?? `depth ${level}`;
  for (const panel of state.panels) {
    const keep = (mask) => (!panel.scored || mask.score >= least) && (level < 0 || mask.level === level);
    panel.filter(keep, Number($("tint").value));
    panel.draw();
  }
  if (state.active) activate(state.active);
}

// ---------------------------------------------------------------- pointer

function listen(panel) {
  const { stage } = panel;
  stage.addEventListener("pointermove", (event) => point(panel, event));
  stage.addEventListener("pointerdown", (event) => point(panel, event));
  stage.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null, event));
  stage.addEventListener("click", (event) => {
    if (panel !== state.active) activate(panel);
    // Use the position of the press, which has sub-pixel precision; that of a click is rounded.
    walkUp(panel, panel.at(...(state.pointer ?? pixel(panel, event))));
  });
}

function pixel(panel, event) {
  const box = panel.light.getBoundingClientRect();
  const scale = panel.width / box.width;
  return [Math.floor((event.clientX - box.left) * scale), Math.floor((event.clientY - box.top) * scale)];
}

// Keep the last position only: each frame draws once, however often the pointer has moved.
function point(panel, event) {
  state.pointer = panel && pixel(panel, event);
  state.under = panel;
  if (state.waiting) return;
  state.waiting = true;
  requestAnimationFrame(frame);
}

function frame() {
  state.waiting = false;
  for (const panel of state.panels) {
    panel.hovered = state.pointer && !panel.element.hidden ? panel.at(...state.pointer) : -1;
    panel.draw();
  }
  if (state.under && state.under !== state.active && !(state.active?.selected >= 0)) activate(state.under);
  if (state.active) tree.mark(state.active.hovered);
  announceSelection();
}

// A click selects the mask under the pointer, the next one inside it its parent; after a whole entity it starts over.
function walkUp(panel, under) {
  if (under < 0) return select(-1);
  let inside = false;
  for (let i = under; i >= 0; i = panel.forest.parents.get(i)) inside ||= i === panel.selected;
  const parent = inside ? panel.forest.parents.get(panel.selected) : under;
  select(inside && parent < 0 ? under : parent);
}

// ---------------------------------------------------------------- selection

function highlight(panel, i) {
  if (!panel) return;
  panel.hovered = i;
  panel.draw();
  tree.mark(i);
  announceSelection();
}

function select(i) {
  const panel = state.active;
  if (!panel) return;
  panel.selected = i;
  panel.hovered = -1;
  panel.draw();
  tree.select(i);
  announceSelection();
}

function leave(panel) {
  panel.selected = -1;
  panel.draw();
}

function announceSelection() {
  const panel = state.active;
  const i = panel ? panel.current : -1;
  const said = panel && i >= 0 ? describe(panel, i) : "Point at the picture, or tap it.";
  if ($("said").textContent !== said) $("said").textContent = said;
}

function describe(panel, i) {
  const { parents, parts } = panel.forest;
  const path = [];
  for (let j = i; j >= 0; j = parents.get(j)) path.unshift(j + 1);
  const shown = parts.get(i).length;
  const hidden = panel.masks.filter((mask, j) => mask.parent === i && !panel.shown.has(j)).length;
  return [
    path.join(" › "),
    panel.scored && `score ${panel.masks[i].score.toFixed(2)}`,
    `${panel.share(i)} % of the picture`,
    `${shown} ${shown === 1 ? "part" : "parts"}${hidden ? ` (${hidden} hidden)` : ""}`,
    i === panel.selected && "selected",
  ].filter(Boolean).join(" · ");
}

// ---------------------------------------------------------------- controls and keys

for (const id of ["score", "level", "tint"]) $(id).addEventListener("input", filter);
window.addEventListener("resize", arrange);
$("picture").addEventListener("change", () => open(Number($("picture").value)));
$("previous").addEventListener("click", () => open(state.place - 1));
$("next").addEventListener("click", () => open(state.place + 1));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return; // letters pick options there
  if (SLIDES.test(event.key) && event.target.closest("input[type=range]")) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

const SLIDES = /^(Arrow|Page|Home$|End$)/; // keys that a slider uses itself
const KEYS = {
  ArrowUp: () => step(({ forest }, i) => (forest.parents.get(i) < 0 ? i : forest.parents.get(i))),
  ArrowDown: () => step(({ forest }, i) => forest.parts.get(i)[0] ?? i),
  ArrowRight: () => step((panel, i) => neighbour(i, 1)),
  ArrowLeft: () => step((panel, i) => neighbour(i, -1)),
  Escape: () => select(-1),
  n: () => open(state.place + 1),
  p: () => open(state.place - 1),
  t: () => truthSwitch()?.click(),
};

function step(next) {
  const panel = state.active;
  if (!panel) return;
  select(panel.selected < 0 ? neighbour(-1, 1) : next(panel, panel.selected));
}

// The mask of the next or previous row of the tree.
function neighbour(i, direction) {
  const rows = [...tree.rows.keys()];
  const place = i < 0 ? 0 : (rows.indexOf(i) + direction + rows.length) % rows.length;
  return rows[place] ?? -1;
}

window.sohes = state; // for debugging and for the tests
start().catch((error) => {
  $("problem").textContent = `Nothing can be shown: ${error.message}`;
  $("problem").hidden = false;
});
