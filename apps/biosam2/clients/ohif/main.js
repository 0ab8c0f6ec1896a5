// Puts the parts together once a study is open in OHIF, and takes the panel away when none is.

import { Annotator } from "./annotator.js";
import { Server } from "./api.js";
import { Overlay } from "./overlay.js";
import { Panel } from "./panel.js";
import { Pointer } from "./pointer.js";
import { sliceOf } from "./prompts.js";
import { listen } from "./shortcuts.js";
import { Viewer } from "./viewer.js";

// OHIF has no event for "a study is open" that is there before it starts.
const LOOK_MS = 400;

const viewer = new Viewer();
const annotator = new Annotator(viewer, new Server("", () => viewer.headers()));
const overlay = new Overlay(viewer, shapes);
let panel = null;

setInterval(look, LOOK_MS);

function look() {
  const open = viewer.isOpen;
  if (open && !panel) start();
  if (!panel) return;
  panel.element.hidden = !open;
  if (!open) return;
  overlay.attach();
  panel.showSlice(shown(viewer.view()));
  if (viewer.view()?.isDrawn) annotator.arrive();
}

function start() {
  panel = new Panel(annotator);
  document.body.append(panel.element);
  const pointer = new Pointer(viewer, annotator, draft);
  pointer.listen();
  listen({
    inside: () => annotator.use("inside"),
    outside: () => annotator.use("outside"),
    box: () => annotator.use("box"),
    find: () => annotator.find(),
    propagate: () => annotator.propagate(),
    cancel: () => annotator.cancel(),
    undo: () => annotator.undo(),
    redo: () => annotator.redo(),
    structure: () => annotator.chooseNext(),
    submit: () => annotator.submit(),
    next: () => panel.next(),
  });
  annotator.addEventListener("change", () => {
    overlay.armed = annotator.tool !== null;
    overlay.draw();
  });
  window.addEventListener("beforeunload", (event) => annotator.unsaved && event.preventDefault());
  annotator.connect();
}

// The slice that a view shows, from 0, and how many there are; null where the view cuts across them.
function shown(view) {
  const open = annotator.caseOf(view);
  const axis = open && open.grid.axisOf(view.normal);
  if (axis === null || axis === undefined) return null;
  return { slice: open.grid.slice(view.middle, axis), count: open.grid.shape[axis] };
}

// The prompts of every structure on the slice that a view shows.
function shapes(view) {
  const open = annotator.caseOf(view);
  if (!open) return [];
  const { grid } = open;
  const axis = grid.axisOf(view.normal);
  const slice = axis === null ? null : grid.slice(view.middle, axis);
  const near = Math.min(...grid.steps.map((step) => Math.hypot(...step))) / 2;
  const isShown = (index) =>
    axis === null ? view.distance(grid.world(index)) <= near : sliceOf(index, axis) === slice;
  const found = [];
  for (const [name, { points, boxes }] of open.prompts) {
    const color = `rgb(${annotator.color(name).join()})`;
    for (const { index, inside } of points) {
      if (isShown(index)) found.push({ kind: "point", inside, color, corners: [grid.world(index)] });
    }
    for (const { axis: along, low, high } of boxes) {
      if (along === axis && isShown(low)) found.push({ kind: "box", color, corners: outline(grid, axis, low, high) });
    }
  }
  return found;
}

function draft(drawn) {
  const open = drawn && annotator.caseOf(drawn.view);
  const axis = open && open.grid.axisOf(drawn.view.normal);
  if (axis === null || axis === undefined) overlay.draft = null;
  else overlay.draft = { view: drawn.view, corners: outline(open.grid, axis, ...drawn.corners.map((w) => open.grid.index(w))) };
  overlay.draw();
}

// The corners of a box on a slice, one after the other, in world.
function outline(grid, axis, low, high) {
  const [a, b] = grid.inPlane(axis);
  const corner = (atA, atB) => {
    const index = [...low];
    index[a] = atA[a];
    index[b] = atB[b];
    return grid.world(index);
  };
  return [corner(low, low), corner(high, low), corner(high, high), corner(low, high)];
}
