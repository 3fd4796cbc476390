// One layer of masks over the photograph: a canvas with all masks, and one above it for the highlighted mask.
import { boundingBox, colour, decodeRuns, eachRun, shownForest, topmost } from "./masks.js";

const KEPT = 128; // highlighted masks cached as canvases, so that drawing one again is a copy

export class Panel {
  constructor(layer, width, height, photo) {
    Object.assign(this, { name: layer.name, width, height, hovered: -1, selected: -1, dirty: [] });
    this.masks = layer.masks.map((mask) => ({ ...mask, runs: decodeRuns(mask.counts) }));
    this.scored = areScored(this.masks);
    this.stencils = new Map();
    this.element = document.createElement("figure");
    this.element.className = "panel";
    this.stage = document.createElement("div");
    this.stage.className = "stage";
    const picture = photo.cloneNode();
    this.tints = canvas(width, height);
    this.light = canvas(width, height);
    this.light.className = "light";
    this.stage.append(picture, this.tints, this.light);
    this.caption = document.createElement("figcaption");
    this.element.append(this.stage, this.caption);
    this.pen = this.light.getContext("2d");
  }

  // Show the masks for which keep(mask) is true.
  filter(keep, opacity) {
    this.shown = new Set();
    this.masks.forEach((mask, i) => keep(mask) && this.shown.add(i));
    this.forest = shownForest(this.masks, this.shown);
    this.map = topmost(this.masks, this.shown, this.width * this.height);
    if (!this.shown.has(this.selected)) this.selected = -1;
    this.hovered = -1;
    this.tint(opacity);
    this.drawn = null;
    const all = this.masks.length;
    const count = `${this.shown.size < all ? `${this.shown.size} of ${all}` : all} masks`;
    this.caption.textContent = this.name === "masks" ? count : `${this.name}: ${count}`;
  }

  tint(opacity) {
    const { width, height, map } = this;
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const palette = this.masks.map((_, i) => packed(colour(i), Math.round(255 * opacity)));
    for (let x = 0, place = 0; x < width; x++) {
      for (let y = 0; y < height; y++, place++) if (map[place]) pixels[y * width + x] = palette[map[place] - 1];
    }
    this.tints.getContext("2d").putImageData(image, 0, 0);
  }

  // A mask's area in percent of the picture, in words.
  share(i) {
    const percent = (100 * this.masks[i].area) / (this.width * this.height);
    return percent < 0.1 ? "<0.1" : percent.toFixed(1);
  }

  // The smallest shown mask at a pixel, or -1.
  at(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return -1;
    return this.map[x * this.height + y] - 1;
  }

  // The mask that is told about: the selected one until it is left, else the one under the pointer, or -1.
  get current() {
    return this.selected >= 0 ? this.selected : this.hovered;
  }

  // Draw the current mask, and the outline of the one under the pointer. Does nothing if both are already drawn.
  draw() {
    const wanted = [this.current, this.hovered === this.current ? -1 : this.hovered];
    if (wanted.join() === this.drawn) return;
    this.drawn = wanted.join();
    for (const box of this.dirty) this.pen.clearRect(...box);
    this.dirty = [];
    wanted.forEach((i, outlined) => {
      if (i < 0) return;
      const { image, box } = this.stencil(i, outlined > 0);
      this.pen.drawImage(image, box[0], box[1]);
      this.dirty.push(box);
    });
  }

  stencil(i, outlined) {
    const key = outlined ? ~i : i;
    let made = this.stencils.get(key);
    if (!made) {
      if (this.stencils.size >= KEPT) this.stencils.delete(this.stencils.keys().next().value);
      made = stencil(this.masks[i].runs, this.height, colour(i), outlined);
      this.stencils.set(key, made);
    }
    return made;
  }
}

// Scores rank masks. Those of a ground truth, or of phase 1, are all alike and say nothing.
function areScored(masks) {
  return masks.length === 1 ? masks[0].score < 1 : masks.some((mask) => mask.score !== masks[0].score);
}

// The mask on a canvas the size of its bounding box: filled and outlined, or its outline alone.
function stencil(runs, height, rgb, outlined) {
  const box = boundingBox(runs, height);
  const [left, top, w, h] = box;
  const image = canvas(Math.max(w, 1), Math.max(h, 1));
  if (!w) return { image, box };
  const data = new ImageData(w, h);
  const pixels = new Uint32Array(data.data.buffer);
  const fill = packed(rgb, 150);
  const edge = packed([255, 255, 255], 255);
  eachRun(runs, (start, end) => {
    for (let place = start; place < end; ) {
      const x = Math.floor(place / height);
      const stop = Math.min(end, (x + 1) * height);
      for (let y = place - x * height - top, to = stop - x * height - top; y < to; y++) pixels[y * w + x - left] = fill;
      place = stop;
    }
  });
  const outside = (x, y) => x < 0 || y < 0 || x >= w || y >= h || !pixels[y * w + x];
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      if (!pixels[y * w + x]) continue;
      if (outside(x - 1, y) || outside(x + 1, y) || outside(x, y - 1) || outside(x, y + 1)) pixels[y * w + x] = edge;
    }
  }
  if (outlined) pixels.forEach((pixel, k) => pixel === fill && (pixels[k] = 0));
  image.getContext("2d").putImageData(data, 0, 0);
  return { image, box };
}

function canvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

// RGB and opacity as a little-endian word of ImageData.
function packed([r, g, b], alpha) {
  return ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;
}
