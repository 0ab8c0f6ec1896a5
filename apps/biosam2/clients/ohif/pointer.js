// Clicks and drags on a view while a tool is chosen. OHIF's own tools get everything else: other buttons, the
// wheel, and every click that holds a modifier key.

const DRAG = 4; // pixels: less is a click
// What the browser makes of the same press, and OHIF would take for its own tools. A double click would change
// the layout under two quick points.
const ECHOES = ["mousedown", "mouseup", "touchstart", "touchmove", "touchend", "click", "dblclick"];

export class Pointer {
  // onDraft(view, corners): screen corners of the box being drawn, or null.
  constructor(viewer, annotator, onDraft) {
    this.viewer = viewer;
    this.annotator = annotator;
    this.onDraft = onDraft;
    this.press = null;
  }

  listen() {
    const on = (type, handle) => window.addEventListener(type, handle, { capture: true, passive: false });
    on("pointerdown", (event) => this.#down(event));
    on("pointermove", (event) => this.#move(event));
    on("pointerup", (event) => this.#up(event));
    on("pointercancel", () => this.#end());
    for (const type of ECHOES) on(type, (event) => this.#isOurs(event) && swallow(event));
  }

  #isOurs(event) {
    const plain = !event.button && !event.ctrlKey && !event.shiftKey && !event.altKey && !event.metaKey;
    return Boolean(this.annotator.tool) && plain && this.#view(event) !== null;
  }

  #view(event) {
    return this.viewer.viewUnder(event, event.changedTouches?.[0] ?? event);
  }

  #down(event) {
    if (!event.isPrimary || !this.#isOurs(event)) return;
    swallow(event);
    const view = this.#view(event);
    view.activate();
    this.press = { view, x: event.clientX, y: event.clientY };
  }

  #move(event) {
    if (!this.press) return;
    swallow(event);
    const { view } = this.press;
    if (this.annotator.tool === "box") this.onDraft({ view, corners: this.#corners(event) });
  }

  #up(event) {
    if (!this.press) return;
    swallow(event);
    const { view, x, y } = this.press;
    const [start, end] = this.#corners(event);
    this.#end();
    const { tool } = this.annotator;
    if (tool !== "box") this.annotator.point(view, start, tool === "inside");
    else if (Math.abs(event.clientX - x) >= DRAG && Math.abs(event.clientY - y) >= DRAG) {
      this.annotator.box(view, start, end);
    } else this.annotator.explain("Drag from one corner of the box to the opposite one.");
  }

  #corners(event) {
    const { view, x, y } = this.press;
    return [view.toWorld(x, y), view.toWorld(event.clientX, event.clientY)];
  }

  #end() {
    this.press = null;
    this.onDraft(null);
  }
}

function swallow(event) {
  event.preventDefault();
  event.stopImmediatePropagation();
}
