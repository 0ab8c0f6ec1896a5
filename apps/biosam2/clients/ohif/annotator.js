// What the person does: place prompts, propagate, take back, submit, go on to the next case. One thing at a time,
// in the order of asking; the views and the panel hear "change" after each.

import { Failure } from "./api.js";
import { Case } from "./case.js";
import { writeNifti, readNrrd } from "./files.js";
import { Grid } from "./geometry.js";
import { DONE, TYPED, findsInNext, give, remember, remembered, tab, wasGiven } from "./memory.js";
import { NONE, asObject, between, isEmpty, sliceOf, withBox, withPoint } from "./prompts.js";

const SLICE_MODEL = "biosam2_2d";
const VOLUME_MODEL = "biosam2_3d";
const AUTO_MODEL = "biosam2_auto"; // finds what has been labelled before
const DRAWS = 8; // tries to get another case than the ones already done
const COLORS = [
  [230, 85, 75], [70, 165, 235], [95, 200, 110], [245, 190, 65], [180, 120, 230], [70, 205, 200], [240, 130, 190],
  [160, 190, 70], [240, 145, 75], [130, 145, 240],
];

export const TOOLS = ["inside", "outside", "box"];

export class Annotator extends EventTarget {
  constructor(viewer, server) {
    super();
    this.viewer = viewer;
    this.server = server;
    this.structures = [];
    this.structure = null; // the name of the one that prompts are for
    this.strategies = [];
    this.canFind = false; // the server has a model that needs no prompts
    this.tool = null;
    this.message = { text: "", kind: "info" };
    this.work = null; // { what, done, total, cancel }: what the server is doing for us
    this.cases = new Map(); // display set -> Case
    this.pending = Promise.resolve();
    this.leaving = false; // the person was told that the case is not submitted
  }

  async connect() {
    await this.#do("Connecting", async () => {
      const info = await this.server.info();
      const names = Array.isArray(info.labels) ? info.labels : Object.keys(info.labels ?? {});
      const { labels: learned } = info.models?.[AUTO_MODEL] ?? {};
      if (learned && !Array.isArray(learned)) names.push(...Object.keys(learned)); // a list until it has learned any
      this.structures = [...new Set([...names.filter((name) => name !== "background"), ...remembered(TYPED)])];
      this.structure = this.structures[0] ?? null;
      this.strategies = Object.keys(info.strategies ?? {});
      this.canFind = AUTO_MODEL in (info.models ?? {});
      if (!info.models?.[SLICE_MODEL]) throw new Failure(`This server does not offer ${SLICE_MODEL}.`);
      return "Pick a structure, then click into it or draw a box around it.";
    });
  }

  // The case of a view if it is ready, else null.
  caseOf(view) {
    const found = view && this.cases.get(view.displaySet.displaySetInstanceUID);
    return found?.labelMap?.isAlive ? found : null;
  }

  color(name) {
    return COLORS[Math.max(this.structures.indexOf(name), 0) % COLORS.length];
  }

  use(tool) {
    this.tool = this.tool === tool ? null : tool;
    this.#changed();
    const view = this.viewer.view();
    // fetch the series now: the first click then finds it there
    if (this.tool && view && !this.caseOf(view)) this.#do("Fetching the series", () => this.#open(view).then(() => ""));
  }

  choose(name) {
    const wanted = name.trim();
    if (!wanted) return;
    if (!this.structures.includes(wanted)) {
      this.structures.push(wanted);
      remember(TYPED, wanted);
    }
    this.structure = wanted;
    this.#changed();
  }

  chooseNext() {
    const next = (this.structures.indexOf(this.structure) + 1) % this.structures.length;
    if (this.structures.length) this.choose(this.structures[next]);
  }

  explain(text) {
    this.#say(text);
  }

  point(view, world, inside) {
    const name = this.structure;
    return this.#do("Segmenting the slice", async () => {
      const open = await this.#open(view);
      const { axis, index } = placed(open.grid, view, world);
      return this.#segmentSlice(open, view, name, axis, index, (prompts) => withPoint(prompts, index, inside, axis));
    });
  }

  // A box between two places of one view.
  box(view, corner, opposite) {
    const name = this.structure;
    return this.#do("Segmenting the slice", async () => {
      const open = await this.#open(view);
      if (open.grid.axisOf(view.normal) === null) {
        throw new Failure("This view cuts across the slices: draw the box in a view that shows them straight.");
      }
      const { axis, index } = placed(open.grid, view, corner);
      const other = clamped(open.grid, open.grid.index(opposite));
      return this.#segmentSlice(open, view, name, axis, index, (prompts) => withBox(prompts, index, other, axis));
    });
  }

  // From the prompts of the structure to all slices, or to slices first to last (inclusive).
  propagate(range = null) {
    const name = this.structure;
    return this.#do("Propagating", async (work) => {
      const { open, view } = await this.#here();
      const { grid } = open;
      const prompts = open.promptsOf(name);
      const axis = prompts.axis ?? grid.axisOf(view.normal) ?? grid.sliceAxis;
      const [first, last] = range ?? [0, grid.shape[axis] - 1];
      if (!(first >= 0 && first <= last && last < grid.shape[axis])) {
        throw new Failure(`The range must be within slices 1 to ${grid.shape[axis]}, the first before the last.`);
      }
      const used = between(prompts, axis, first, last);
      if (isEmpty(used)) {
        throw new Failure(
          range
            ? `"${name}" has no click or box on slices ${first + 1} to ${last + 1}: place one there first.`
            : `Nothing to propagate: click into "${name}" or draw a box around it first.`,
        );
      }
      const request = { objects: [asObject(used, name, grid.shape)], slice_axis: axis, direction: "both" };
      if (range) request.slice_range = [first, last];
      const { voxels } = await this.#infer(open, VOLUME_MODEL, request, work);
      const count = open.take(name, this.structures, voxels, { axis, first, last }, prompts, prompts);
      await this.#showIn(open, view);
      return `"${name}" changed on ${count} slices: look through them, and correct where it is wrong.`;
    });
  }

  // All structures that have been labelled in other cases, without prompts.
  find() {
    return this.#do("Finding structures", async (work) => {
      if (!this.canFind) throw new Failure(`This server does not offer ${AUTO_MODEL}.`);
      const { open, view } = await this.#here();
      const { voxels, names } = await this.#infer(open, AUTO_MODEL, {}, work);
      for (const name of Object.keys(names)) if (!this.structures.includes(name)) this.structures.push(name);
      const { found, kept, absent } = open.fill(names, this.structures, voxels, this.structure);
      await this.#showIn(open, view);
      const parts = [["Found", found], ["Not found", absent], ["Marked already, and left as it is", kept]];
      const said = parts.filter(([, which]) => which.length).map(([what, which]) => `${what}: ${which.join(", ")}.`);
      return [...said, ...(found.length ? ["Look through the slices, and correct."] : [])].join(" ");
    });
  }

  // The view shows its image. If that is the next case that was asked for, its structures are found where that is
  // wanted.
  arrive() {
    if (wasGiven(this.viewer.view()?.series) && findsInNext()) this.find();
  }

  cancel() {
    if (this.work?.cancel) this.work.cancel();
    else this.#say("Nothing is running.");
  }

  undo() {
    return this.#do("Undoing", async () => {
      const names = (await this.#here()).open.undo();
      return names === null ? "Nothing to undo." : `Undid the last step of ${quoted(names)}.`;
    });
  }

  redo() {
    return this.#do("Redoing", async () => {
      const names = (await this.#here()).open.redo();
      return names === null ? "Nothing to redo." : `Did the step of ${quoted(names)} again.`;
    });
  }

  // Remove the structure's prompts and mask.
  clear() {
    const name = this.structure;
    return this.#do("Clearing", async () => {
      const { open } = await this.#here();
      const empty = new Uint8Array(open.grid.size);
      open.take(name, this.structures, empty, open.everywhere, open.promptsOf(name), NONE);
      return `"${name}" is empty.`;
    });
  }

  submit() {
    return this.#do("Submitting", async () => {
      const { open } = await this.#here();
      const { voxels, structures } = open.label();
      if (!structures.length) throw new Failure("Nothing to submit: no structure has a mask yet.");
      // MONAI Label gives the names to the values that it finds in rising order, so the list must have no others.
      const listed = structures.map(({ value, name }) => ({
        name,
        idx: value,
        description: name,
        model_name: "BioSAM-2",
        color: this.color(name),
      }));
      await this.server.submit(open.series, await writeNifti(voxels, open.grid), listed);
      open.unsaved = false;
      remember(DONE, open.series);
      return `Submitted: ${structures.map(({ name }) => name).join(", ")}.`;
    });
  }

  next(strategy = this.strategies[0]) {
    return this.#do("Choosing the next case", async () => {
      if (!strategy) throw new Failure("This server chooses no next case.");
      if (this.unsaved && !this.leaving) {
        this.leaving = true;
        return "This case is not submitted. Ask for the next one once more to leave it as it is.";
      }
      const here = this.viewer.view()?.series;
      const passed = new Set([...remembered(DONE), here]);
      let series = null;
      // the server's list of what is labelled may be hours old, so it may offer what was just submitted
      for (let n = 0; n < DRAWS && (series === null || passed.has(series)); n++) {
        series = await this.server.next(strategy, tab());
      }
      if (passed.has(series)) throw new Failure("The server has no other case to offer at the moment.");
      const { study } = await this.server.grid(series);
      if (!study) throw new Failure(`The next case, "${series}", is in no study that OHIF could open.`);
      for (const open of this.cases.values()) open.unsaved = false; // the person chose to leave them
      give(series);
      this.viewer.open(study, series);
      return "Opening the next case.";
    });
  }

  get unsaved() {
    return [...this.cases.values()].some((open) => open.unsaved);
  }

  // Run one action after those before it; what it returns, or why it failed, is said.
  #do(what, action) {
    if (this.work?.cancel && what !== "Fetching the series") {
      this.#say(`${this.work.what} is still running: cancel it, or wait for it.`, "error");
      return Promise.resolve();
    }
    if (what !== "Choosing the next case") this.leaving = false;
    const run = async () => {
      const work = { what, done: 0, total: 0, cancel: null };
      this.work = work;
      this.#changed();
      try {
        const text = await action(work);
        this.work = null;
        this.#say(text);
      } catch (error) {
        this.work = null;
        if (!(error instanceof Failure)) console.error(error);
        const text = error instanceof Failure ? error.message : `That did not work (${error.message}).`;
        this.#say(text, error.cancelled ? "info" : "error");
      }
    };
    this.pending = this.pending.then(run);
    return this.pending;
  }

  async #here() {
    const view = this.viewer.view();
    if (!view) throw new Failure("Choose a view that shows an image.");
    return { view, open: await this.#open(view) };
  }

  // The case of a view; the first time the server fetches the series.
  async #open(view) {
    const ready = this.caseOf(view);
    if (ready) return ready;
    if (!this.structure) throw new Failure("Type the name of a structure first.");
    const grid = new Grid(await this.server.grid(view.series));
    const open = new Case(view.series, grid, await this.viewer.labelMap(view, this.structures));
    this.cases.set(view.displaySet.displaySetInstanceUID, open);
    return open;
  }

  async #segmentSlice(open, view, name, axis, index, place) {
    const slice = sliceOf(index, axis);
    const before = open.promptsOf(name);
    const after = place(open.started(name, this.structures, axis, slice));
    const used = between(after, axis, slice, slice);
    if (!used.points.some(({ inside }) => inside) && !used.boxes.length && !used.starts.length) {
      throw new Failure(`Click into "${name}" on this slice first, then beside it.`);
    }
    open.prompts.set(name, after); // shown at once, and taken back if the server does not answer
    this.#changed();
    try {
      const request = { objects: [asObject(used, name, open.grid.shape)], slice_axis: axis, slice };
      const { voxels } = await this.#infer(open, SLICE_MODEL, request);
      open.take(name, this.structures, voxels, { axis, first: slice, last: slice }, before, after);
    } catch (error) {
      open.prompts.set(name, before);
      throw error;
    }
    await this.#showIn(open, view);
    return "";
  }

  // The answer's voxels, and the index of each structure in them by name.
  async #infer(open, model, request, work = null) {
    const stop = new AbortController();
    const options = { signal: stop.signal };
    if (work) {
      work.cancel = () => stop.abort();
      options.onProgress = (done, total) => {
        Object.assign(work, { done, total });
        this.#changed();
      };
    }
    const { bytes, names } = await this.server.infer(model, open.series, request, options);
    const { shape, voxels } = await readNrrd(bytes);
    if (shape.join() !== open.grid.shape.join()) throw new Failure("The server answered for another image.");
    return { voxels, names };
  }

  // The label map in every view of its series, with the structures' colours.
  async #showIn(open, view) {
    const views = this.viewer.views().filter(({ displaySet }) => displaySet === view.displaySet);
    for (const one of views) await open.labelMap.show(one);
    for (const [value, name] of open.labelMap.names) open.labelMap.paint(value, this.color(name));
  }

  #say(text, kind = "info") {
    this.message = { text, kind };
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

// The voxel index of a place in a view, and the axis of the slices that the view shows.
function placed(grid, view, world) {
  const index = grid.index(world);
  const axis = grid.axisOf(view.normal) ?? grid.sliceAxis;
  index[axis] = Math.floor(index[axis] + 0.5);
  if (!grid.holds(index)) throw new Failure("That is outside the image.");
  return { axis, index };
}

// A box that was dragged over the edge of the image ends there.
function clamped(grid, index) {
  return index.map((x, axis) => Math.min(Math.max(x, -0.5), grid.shape[axis] - 0.5));
}

const quoted = (names) => names.map((name) => `"${name}"`).join(", ");
