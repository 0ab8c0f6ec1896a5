// What the person said about one structure. A value is never changed: a step back is the value before it.
//
// points: [{ index, inside }], index [i, j, k] in the server's voxels. boxes: [{ axis, low, high }], one slice thick
// along `axis`; a point belongs to whatever slice it lies in. starts: [{ axis, slice, runs }], the mask that a
// slice had before its first correction. axis: along which the last prompt was placed.

export const NONE = Object.freeze({ points: [], boxes: [], starts: [], axis: null });

export const isEmpty = ({ points, boxes }) => !points.length && !boxes.length;

export const sliceOf = (index, axis) => Math.floor(index[axis] + 0.5);

export function withPoint(prompts, index, inside, axis) {
  return { ...prompts, axis, points: [...prompts.points, { index: index.map(rounded), inside }] };
}

// One box on a slice: a second one replaces it.
export function withBox(prompts, corner, opposite, axis) {
  const low = corner.map((x, n) => rounded(Math.min(x, opposite[n])));
  const high = corner.map((x, n) => rounded(Math.max(x, opposite[n])));
  const slice = sliceOf(corner, axis);
  low[axis] = high[axis] = slice;
  const others = prompts.boxes.filter((box) => box.axis !== axis || box.low[axis] !== slice);
  return { ...prompts, axis, boxes: [...others, { axis, low, high }] };
}

export function withStart(prompts, axis, slice, runs) {
  return { ...prompts, starts: [...prompts.starts, { axis, slice, runs }] };
}

// The prompts on slices first to last (inclusive) along an axis.
export function between(prompts, axis, first, last) {
  const inside = (slice) => slice >= first && slice <= last;
  return {
    axis,
    points: prompts.points.filter(({ index }) => inside(sliceOf(index, axis))),
    boxes: prompts.boxes.filter((box) => box.axis === axis && inside(box.low[axis])),
    starts: prompts.starts.filter((start) => start.axis === axis && inside(start.slice)),
  };
}

// As the server's `objects` wants them.
export function asObject(prompts, label, shape) {
  const indices = (inside) => prompts.points.filter((point) => point.inside === inside).map(({ index }) => index);
  const object = {
    label,
    foreground: indices(true),
    background: indices(false),
    boxes: prompts.boxes.map(({ low, high }) => [...low, ...high]),
  };
  const runs = prompts.starts.flatMap((start) => start.runs);
  return runs.length ? { ...object, mask: { shape, rle: runs } } : object;
}

// The voxels of one slice as runs of the server's masks: [start, length, …] in C order (k fastest).
// has(flat): whether the voxel of a file, i fastest, is inside.
export function runsOf(grid, axis, slice, has) {
  const [I, J, K] = grid.shape;
  const range = (along) => (along === axis ? [slice, slice + 1] : [0, grid.shape[along]]);
  const [[i0, i1], [j0, j1], [k0, k1]] = [0, 1, 2].map(range);
  const runs = [];
  let end = -1;
  for (let i = i0; i < i1; i++) {
    for (let j = j0; j < j1; j++) {
      for (let k = k0; k < k1; k++) {
        if (!has(i + I * (j + J * k))) continue;
        const here = (i * J + j) * K + k;
        if (here === end) runs[runs.length - 1]++;
        else runs.push(here, 1);
        end = here + 1;
      }
    }
  }
  return runs;
}

const rounded = (x) => Math.round(x * 100) / 100;
