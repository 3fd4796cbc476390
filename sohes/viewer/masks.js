// Masks as run lengths, and the map from pixels to the topmost mask. Pure functions, independent of the page.

// Decode COCO's compressed run lengths, column by column: [pixels outside, inside, outside, ...].
export function decodeRuns(counts) {
  const runs = [];
  for (let i = 0; i < counts.length; ) {
    let value = 0;
    let shift = 0;
    let digit;
    do {
      digit = counts.charCodeAt(i++) - 48;
      value |= (digit & 31) << shift;
      shift += 5;
    } while (digit & 32);
    if (digit & 16) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    runs.push(value);
  }
  return runs;
}

// Call use(start, end) for each run of pixels inside the mask; pixel (x, y) has the index x * height + y.
export function eachRun(runs, use) {
  let place = 0;
  for (let i = 0; i < runs.length; i++) {
    if (i & 1) use(place, place + runs[i]);
    place += runs[i];
  }
}

// For each pixel, column by column, 1 + the index of the smallest chosen mask there, or 0.
export function topmost(masks, chosen, size) {
  const map = new Uint16Array(size);
  const order = [...chosen].sort((a, b) => masks[b].area - masks[a].area);
  for (const i of order) eachRun(masks[i].runs, (start, end) => map.fill(i + 1, start, end));
  return map;
}

// The forest of the shown masks alone, by size: the nearest shown parent of each, or -1, what lies directly below it,
// and the roots. Whatever counts, walks or lists masks uses it, so that all agree.
export function shownForest(masks, shown) {
  const parents = new Map();
  const parts = new Map([...shown].map((i) => [i, []]));
  const roots = [];
  for (const i of [...shown].sort((a, b) => masks[b].area - masks[a].area || a - b)) {
    let parent = masks[i].parent;
    while (parent >= 0 && !shown.has(parent)) parent = masks[parent].parent;
    parents.set(i, parent);
    (parent < 0 ? roots : parts.get(parent)).push(i);
  }
  return { parents, parts, roots };
}

// The colour of a mask depends on its index only, not on the number of masks.
export function colour(index) {
  const hue = ((index * 0.618033988749895) % 1) * 6;
  const saturation = 0.6 + 0.3 * (index % 2);
  const channel = (n) => {
    const k = (n + hue) % 6;
    return Math.round(242 * (1 - saturation * Math.max(0, Math.min(k, 4 - k, 1))));
  };
  return [channel(5), channel(3), channel(1)];
}

// Left, top, width and height of a mask, in pixels.
export function boundingBox(runs, height) {
  let [left, right, top, bottom] = [Infinity, -1, Infinity, -1];
  eachRun(runs, (start, end) => {
    if (start === end) return;
    const first = Math.floor(start / height);
    const last = Math.floor((end - 1) / height);
    left = Math.min(left, first);
    right = Math.max(right, last);
    top = Math.min(top, first === last ? start - first * height : 0);
    bottom = Math.max(bottom, first === last ? end - 1 - first * height : height - 1);
  });
  return right < 0 ? [0, 0, 0, 0] : [left, top, right - left + 1, bottom - top + 1];
}
