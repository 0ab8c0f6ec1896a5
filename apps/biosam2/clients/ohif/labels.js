// Voxels of one structure in the viewer's label map. What belongs to another structure is never touched, and
// every change can be taken back.
//
// A slice is { voxels, columns, rows, place }: an image of the label map, and where its pixels are in a file of
// the server (`Grid.place`).

// Give a structure (a value of the label map) the voxels that the server answered.
//
// answer: uint8 voxels of the file, not 0 inside the structure. along: { axis, first, last }, the slices (inclusive)
// that may change. Returns the change: for each slice touched, the pixels that were added and removed.
export function replace(slices, value, answer, grid, { axis, first, last }) {
  const change = [];
  slices.forEach((slice, number) => {
    const { low, high } = slice.place;
    if (low[axis] > last || high[axis] < first) return;
    const added = [];
    const removed = [];
    each(slice, (pixel, flat) => {
      const here = slice.voxels[pixel];
      if (Boolean(answer[flat]) === Boolean(here) || (here !== 0 && here !== value)) return;
      const index = Math.floor(flat / grid.strides[axis]) % grid.shape[axis];
      if (index >= first && index <= last) (here ? removed : added).push(pixel);
    });
    if (added.length || removed.length) {
      change.push({ slice: number, added: Uint32Array.from(added), removed: Uint32Array.from(removed) });
    }
  });
  const made = { value, slices: change };
  redo(slices, made);
  return made;
}

// Give several structures voxels that belong to none yet. values: index in the answer -> value of the label map.
// Returns the changes, one for each structure that got any.
export function fill(slices, values, answer) {
  const valueOf = new Uint8Array(256);
  for (const [index, value] of values) valueOf[index] = value;
  const changes = new Map();
  slices.forEach((slice, number) => {
    const added = new Map();
    each(slice, (pixel, flat) => {
      const value = valueOf[answer[flat]];
      if (!value || slice.voxels[pixel]) return;
      if (!added.has(value)) added.set(value, []);
      added.get(value).push(pixel);
    });
    for (const [value, pixels] of added) {
      if (!changes.has(value)) changes.set(value, { value, slices: [] });
      const touched = { slice: number, added: Uint32Array.from(pixels), removed: new Uint32Array() };
      changes.get(value).slices.push(touched);
    }
  });
  for (const change of changes.values()) redo(slices, change);
  return [...changes.values()];
}

export function redo(slices, { value, slices: change }) {
  for (const { slice, added, removed } of change) {
    swap(slices[slice].voxels, added, 0, value);
    swap(slices[slice].voxels, removed, value, 0);
  }
}

export function undo(slices, { value, slices: change }) {
  for (const { slice, added, removed } of change) {
    swap(slices[slice].voxels, added, value, 0);
    swap(slices[slice].voxels, removed, 0, value);
  }
}

// The label map as voxels of a file, i fastest.
export function whole(slices, size) {
  const voxels = new Uint8Array(size);
  for (const slice of slices) each(slice, (pixel, flat) => (voxels[flat] = slice.voxels[pixel]));
  return voxels;
}

export function valuesIn(slices) {
  const found = new Set();
  for (const { voxels } of slices) for (const value of voxels) if (value) found.add(value);
  return found;
}

function each({ columns, rows, place }, visit) {
  for (let row = 0, pixel = 0; row < rows; row++) {
    let flat = place.start + row * place.down;
    for (let column = 0; column < columns; column++, pixel++, flat += place.right) visit(pixel, flat);
  }
}

// Only where the voxel is still what the change made of it: another tool may have painted there since.
function swap(voxels, pixels, from, to) {
  for (const pixel of pixels) if (voxels[pixel] === from) voxels[pixel] = to;
}
