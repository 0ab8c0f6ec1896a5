// Where voxels are. An index [i, j, k] is the server's: array order, 0-based, centre of the voxel.
// World is the patient in LPS mm, as DICOM and cornerstone count.

// A view may be tilted this much against a slice and still count as showing it: cos of about 2.5 degrees.
const ALIGNED = 0.999;
// How far, in voxels, a pixel of the viewer may lie from the server's voxel and still be the same one.
const SAME = 0.05;

export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const add = (a, b, times = 1) => a.map((x, n) => x + times * b[n]);
const length = (a) => Math.sqrt(dot(a, a));

export class Grid {
  // From the server's answer to GET /biosam2/grid.
  constructor({ shape, to_world: rows, slice_axis: sliceAxis }) {
    this.shape = shape;
    this.sliceAxis = sliceAxis;
    this.toWorld = rows;
    this.origin = rows.slice(0, 3).map((row) => row[3]);
    this.steps = [0, 1, 2].map((axis) => rows.slice(0, 3).map((row) => row[axis]));
    this.inverse = inverse(rows.slice(0, 3).map((row) => row.slice(0, 3)));
    this.strides = [1, shape[0], shape[0] * shape[1]]; // of a file's voxels, i fastest
    this.size = shape[0] * shape[1] * shape[2];
  }

  index(world) {
    return this.direction(add(world, this.origin, -1));
  }

  // A step in mm as a step in voxels.
  direction(step) {
    return this.inverse.map((row) => dot(row, step));
  }

  world(index) {
    return index.reduce((sum, n, axis) => add(sum, this.steps[axis], n), this.origin);
  }

  holds(index) {
    return index.every((x, axis) => x >= -0.5 && x <= this.shape[axis] - 0.5);
  }

  // The axis whose slices a view with this normal shows, or null for a view across them.
  axisOf(normal) {
    const alike = [0, 1, 2].map((axis) => {
      // A slice's own normal: not the step along its axis, where slices are sheared against each other.
      const [a, b] = this.inPlane(axis).map((other) => this.steps[other]);
      const across = cross(a, b);
      return Math.abs(dot(across, normal)) / (length(across) * length(normal));
    });
    const best = alike.indexOf(Math.max(...alike));
    return alike[best] >= ALIGNED ? best : null;
  }

  inPlane(axis) {
    return [0, 1, 2].filter((other) => other !== axis);
  }

  // The slice along an axis that a point of the world lies in.
  slice(world, axis) {
    const nearest = Math.floor(this.index(world)[axis] + 0.5);
    return Math.min(Math.max(nearest, 0), this.shape[axis] - 1);
  }

  // Where the pixels of one image of the viewer are among the server's voxels: pixel (column, row) is voxel
  // start + column * right + row * down of the file, all of them between the indices low and high (inclusive).
  // Null if its pixels do not lie on voxels.
  place({ origin, right, down, columns, rows }) {
    const corner = this.index(origin);
    const steps = [this.direction(right), this.direction(down)];
    const far = add(add(corner, steps[0], columns - 1), steps[1], rows - 1);
    const whole = (index) => index.every((x) => Math.abs(x - Math.round(x)) < SAME);
    if (![corner, far, ...steps].every(whole) || ![corner, far].every((index) => this.holds(index))) return null;
    const flat = (index) => index.reduce((sum, x, axis) => sum + Math.round(x) * this.strides[axis], 0);
    const [low, high] = [Math.min, Math.max].map((pick) => corner.map((x, axis) => Math.round(pick(x, far[axis]))));
    return { start: flat(corner), right: flat(steps[0]), down: flat(steps[1]), low, high };
  }
}

export const cross = (a, b) => [
  a[1] * b[2] - a[2] * b[1],
  a[2] * b[0] - a[0] * b[2],
  a[0] * b[1] - a[1] * b[0],
];

function inverse([a, b, c]) {
  const columns = [cross(b, c), cross(c, a), cross(a, b)];
  const volume = dot(a, columns[0]);
  return [0, 1, 2].map((row) => columns.map((column) => column[row] / volume));
}
