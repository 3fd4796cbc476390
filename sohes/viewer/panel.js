// One layer of masks over the photograph: a canvas with all masks, and one above it for the highlighted mask.
import { boundingBox, colour, decodeRuns, eachRun, topmost } from "./masks.js";

const KEPT = 128; // highlighted masks cached as canvases, so that drawing one again is a copy

export class Panel {
  constructor(layer, width, height, photo) {
    Object.assign(this, { name: layer.name, width, height, hovered: -1, selected: -1 });
    this.masks = layer.masks.map((mask) => ({ ...mask, runs: decodeRuns(mask.counts), children: [] }));
    this.masks.forEach((mask, i) => mask.parent >= 0 && this.masks[mask.parent].children.push(i));
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

  // Show the masks for which keep(mask) is true; returns their number.
  filter(keep, opacity) {
    this.shown = new Set();
    this.masks.forEach((mask, i) => keep(mask) && this.shown.add(i));
    this.map = topmost(this.masks, this.shown, this.width * this.height);
    if (!this.shown.has(this.selected)) this.selected = -1;
    this.hovered = -1;
    this.tint(opacity);
    this.drawn = null;
    this.caption.textContent = this.name === "masks" ? `${this.shown.size} masks` : `${this.name}: ${this.shown.size} masks`;
    return this.shown.size;
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

  // The smallest shown mask at a pixel, or -1.
  at(x, y) {
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return -1;
    return this.map[x * this.height + y] - 1;
  }

  // Draw the hovered mask, or else the selected one. Does nothing if it is already drawn.
  draw() {
    const wanted = this.hovered >= 0 ? this.hovered : this.selected;
    if (wanted === this.drawn) return;
    this.drawn = wanted;
    if (this.dirty) this.pen.clearRect(...this.dirty);
    this.dirty = null;
    if (wanted < 0) return;
    const { image, box } = this.stencil(wanted);
    this.pen.drawImage(image, box[0], box[1]);
    this.dirty = box;
  }

  stencil(i) {
    let made = this.stencils.get(i);
    if (!made) {
      if (this.stencils.size >= KEPT) this.stencils.delete(this.stencils.keys().next().value);
      made = stencil(this.masks[i].runs, this.height, colour(i));
      this.stencils.set(i, made);
    }
    return made;
  }
}

// The filled and outlined mask on a canvas the size of its bounding box.
function stencil(runs, height, rgb) {
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
