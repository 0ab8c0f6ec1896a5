// One series as it is being annotated: its voxels on the server and in the viewer, the prompts of every structure,
// and the steps that can be taken back.

import { Failure } from "./api.js";
import * as labels from "./labels.js";
import { NONE, between, isEmpty, runsOf, withStart } from "./prompts.js";

const MAX_STRUCTURES = 255; // values of a uint8 label map
const STEPS = 100; // that can be taken back

export class Case {
  // labelMap: the viewer's (`Viewer.labelMap`).
  constructor(series, grid, labelMap) {
    this.series = series;
    this.grid = grid;
    this.labelMap = labelMap;
    this.slices = labelMap.slices.map((slice) => ({ ...slice, place: grid.place(slice) }));
    this.prompts = new Map(); // structure -> prompts
    this.steps = []; // { name, before, after, change }: prompts of a structure, and the voxels that changed
    this.undone = [];
    this.unsaved = false;
    if (this.slices.some(({ place }) => !place)) {
      throw new Failure("The server holds this series on another grid than the viewer: masks would be misplaced.");
    }
  }

  promptsOf(name) {
    return this.prompts.get(name) ?? NONE;
  }

  // The structure's prompts, with the mask that a slice has if this is the first correction of it.
  started(name, structures, axis, slice) {
    const prompts = this.promptsOf(name);
    const value = this.#valueOf(name, structures);
    const near = this.slices.filter(({ place: { low, high } }) => low[axis] <= slice && high[axis] >= slice);
    if (!isEmpty(between(prompts, axis, slice, slice)) || !labels.valuesIn(near).has(value)) return prompts;
    const voxels = labels.whole(near, this.grid.size);
    const runs = runsOf(this.grid, axis, slice, (flat) => voxels[flat] === value);
    return runs.length ? withStart(prompts, axis, slice, runs) : prompts;
  }

  // Give a structure its new mask and prompts, as one step. answer: voxels of the server's file; along: the slices
  // that it is about (`labels.replace`). Returns how many images of the label map changed.
  take(name, structures, answer, along, before, after) {
    const value = this.#valueOf(name, structures);
    const change = labels.replace(this.slices, value, answer, this.grid, along);
    this.labelMap.name(value, name);
    this.prompts.set(name, after);
    this.steps = [...this.steps, { name, before, after, change }].slice(-STEPS);
    this.undone = [];
    this.#show(change);
    return change.slices.length;
  }

  // The structure whose last step was taken back, or null if there is none.
  undo() {
    const step = this.steps.pop();
    if (!step) return null;
    labels.undo(this.slices, step.change);
    this.prompts.set(step.name, step.before);
    this.undone.push(step);
    this.#show(step.change);
    return step.name;
  }

  redo() {
    const step = this.undone.pop();
    if (!step) return null;
    labels.redo(this.slices, step.change);
    this.prompts.set(step.name, step.after);
    this.steps.push(step);
    this.#show(step.change);
    return step.name;
  }

  // All slices along the last axis: the whole volume.
  get everywhere() {
    return { axis: 2, first: 0, last: this.grid.shape[2] - 1 };
  }

  // The label map as the server's file has its voxels, and the names of its values in rising order.
  label() {
    const names = this.labelMap.names;
    const values = [...labels.valuesIn(this.slices)].sort((a, b) => a - b);
    return {
      voxels: labels.whole(this.slices, this.grid.size),
      structures: values.map((value) => ({ value, name: names.get(value) ?? `Segment ${value}` })),
    };
  }

  #show(change) {
    this.labelMap.changed(change.slices.map(({ slice }) => slice));
    this.unsaved = true;
  }

  // A structure keeps the value it has; a new one gets its place in the list, if that is free.
  #valueOf(name, structures) {
    const { names } = this.labelMap;
    for (const [value, label] of names) if (label === name) return value;
    const own = structures.indexOf(name) + 1;
    if (own && !names.has(own)) return own;
    for (let value = 1; value <= MAX_STRUCTURES; value++) if (!names.has(value)) return value;
    throw new Failure(`There are ${MAX_STRUCTURES} structures already.`);
  }
}
