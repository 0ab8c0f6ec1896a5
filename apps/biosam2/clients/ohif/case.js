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
    this.steps = []; // { names, prompts: [{ name, before, after }], changes }: of structures, and of their voxels
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
    const value = this.#named(name, structures);
    const change = labels.replace(this.slices, value, answer, this.grid, along);
    this.labelMap.activate(value);
    this.prompts.set(name, after);
    this.#did({ names: [name], prompts: [{ name, before, after }], changes: [change] });
    return change.slices.length;
  }

  // Give structures their masks, as one step, where no voxel is marked yet; one that has a mask stays as it is.
  // indexes: name -> index in the answer, the voxels of the server's file. active: what OHIF's brush goes on painting.
  // Returns names: { found, kept, absent }.
  fill(indexes, structures, answer, active) {
    const marked = labels.valuesIn(this.slices);
    const values = new Map();
    const outcome = { found: [], kept: [], absent: [] };
    for (const [name, index] of Object.entries(indexes)) {
      const value = this.#named(name, structures);
      if (marked.has(value)) outcome.kept.push(name);
      else values.set(index, value);
    }
    this.labelMap.activate(this.#named(active, structures));
    const changes = labels.fill(this.slices, values, answer);
    const filled = new Set(changes.map(({ value }) => value));
    for (const [name, index] of Object.entries(indexes)) {
      if (values.has(index)) outcome[filled.has(values.get(index)) ? "found" : "absent"].push(name);
    }
    if (changes.length) this.#did({ names: outcome.found, prompts: [], changes });
    return outcome;
  }

  // The structures whose last step was taken back, or null if there is none.
  undo() {
    const step = this.steps.pop();
    if (!step) return null;
    for (const change of step.changes) labels.undo(this.slices, change);
    for (const { name, before } of step.prompts) this.prompts.set(name, before);
    this.undone.push(step);
    this.#show(step.changes);
    return step.names;
  }

  redo() {
    const step = this.undone.pop();
    if (!step) return null;
    for (const change of step.changes) labels.redo(this.slices, change);
    for (const { name, after } of step.prompts) this.prompts.set(name, after);
    this.steps.push(step);
    this.#show(step.changes);
    return step.names;
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

  #did(step) {
    this.steps = [...this.steps, step].slice(-STEPS);
    this.undone = [];
    this.#show(step.changes);
  }

  #show(changes) {
    this.labelMap.changed(new Set(changes.flatMap(({ slices }) => slices.map(({ slice }) => slice))));
    this.unsaved = true;
  }

  // The value of a structure, which has a name in OHIF from now on.
  #named(name, structures) {
    const value = this.#valueOf(name, structures);
    this.labelMap.name(value, name);
    return value;
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
