// The panel over the viewer: made once, then kept up to date. Everything in it can be reached by keyboard.
// It lives in a shadow tree, so that OHIF's style and ours do not meddle with each other.

import { findsInNext, setFindsInNext } from "./memory.js";
import { KEYS } from "./shortcuts.js";

const SIGNS = { inside: "+", outside: "−", box: "▢ Box" };
const WORDS = {
  inside: "Click inside the structure",
  outside: "Click beside the structure",
  box: "Draw a box around the structure",
};

export class Panel {
  constructor(annotator) {
    this.annotator = annotator;
    this.slice = null; // { slice, count }: what the active view shows, from 0
    this.parts = {};
    this.element = this.#build();
    annotator.addEventListener("change", () => this.update());
    this.update();
  }

  // Slices first to last of the range fields, from 0, or null if they are not both filled in.
  get range() {
    const [first, last] = [this.parts.first, this.parts.last].map(({ value }) => (value === "" ? null : Number(value)));
    return first === null || last === null ? null : [first - 1, last - 1];
  }

  showSlice(shown) {
    if (shown?.slice === this.slice?.slice && shown?.count === this.slice?.count) return;
    this.slice = shown;
    this.parts.slice.textContent = shown ? `Slice ${shown.slice + 1} of ${shown.count}` : "";
  }

  update() {
    const { annotator, parts } = this;
    const { work, message } = annotator;
    this.#updateStructures();
    for (const name of Object.keys(SIGNS)) parts[name].setAttribute("aria-pressed", String(annotator.tool === name));
    parts.working.hidden = !work;
    if (work) {
      parts.what.textContent = work.total ? `${work.what}: ${work.done} of ${work.total}` : `${work.what} …`;
      if (work.total) Object.assign(parts.progress, { max: work.total, value: work.done });
      else parts.progress.removeAttribute("value");
      parts.cancel.hidden = !work.cancel;
    }
    parts.status.textContent = message.text;
    parts.status.className = `status ${message.kind}`;
    const { strategies } = annotator;
    if (parts.strategy.options.length !== strategies.length) {
      parts.strategy.replaceChildren(...strategies.map((name) => make("option", { value: name, textContent: name })));
    }
    parts.strategy.hidden = strategies.length < 2;
    parts.finding.hidden = !annotator.canFind;
  }

  #updateStructures() {
    const { annotator, parts } = this;
    const rows = [...parts.structures.querySelectorAll("input")];
    if (rows.map((row) => row.value).join("\n") !== annotator.structures.join("\n")) {
      parts.structures.replaceChildren(...annotator.structures.map((name) => this.#structure(name)));
    }
    for (const row of parts.structures.querySelectorAll("input")) row.checked = row.value === annotator.structure;
  }

  #structure(name) {
    const choice = make("input", { type: "radio", name: "biosam2-structure", value: name });
    choice.addEventListener("change", () => this.annotator.choose(name));
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = `rgb(${this.annotator.color(name).join()})`;
    return make("label", {}, choice, swatch, make("span", { textContent: name }));
  }

  #build() {
    const { annotator, parts } = this;
    const button = (part, text, act, key = "", words = text) => {
      const title = key ? `${words} (${key})` : words;
      parts[part] = make("button", { type: "button", title, ariaLabel: title }, text);
      if (key) parts[part].append(make("kbd", { textContent: key.replace("Shift+", "⇧").toUpperCase() }));
      parts[part].dataset.part = part;
      parts[part].addEventListener("click", act);
      return parts[part];
    };
    const number = (part, label) => {
      parts[part] = make("input", { type: "number", min: 1, step: 1, ariaLabel: label });
      parts[part].dataset.part = part;
      return parts[part];
    };
    const here = (part) => () => this.slice && (parts[part].value = this.slice.slice + 1);

    parts.structures = make("div", { className: "structures", role: "radiogroup", ariaLabel: "Structure" });
    parts.name = make("input", { type: "text", placeholder: "Another structure", ariaLabel: "Name of a structure", maxLength: 100 });
    parts.name.dataset.part = "name";
    const add = make("form", { className: "row" }, parts.name, make("button", { type: "submit" }, "Add"));
    add.addEventListener("submit", (event) => {
      event.preventDefault();
      annotator.choose(parts.name.value);
      parts.name.value = "";
      parts.name.blur();
    });

    const words = "Find all structures that have been labelled in other cases";
    parts.finds = make("input", { type: "checkbox", checked: findsInNext() });
    parts.finds.dataset.part = "finds";
    parts.finds.addEventListener("change", () => setFindsInNext(parts.finds.checked));
    const also = make("label", { title: "Find them by itself when the next case opens" }, parts.finds, "in next cases too");
    const find = button("find", "Find all", () => annotator.find(), KEYS.find, words);
    parts.finding = make("div", { className: "row" }, find, also);

    const tools = Object.keys(SIGNS).map((name) =>
      button(name, SIGNS[name], () => annotator.use(name), KEYS[name], WORDS[name]),
    );
    parts.slice = make("span", { className: "slice" });
    parts.slice.dataset.part = "slice";

    parts.what = make("span", { className: "what" });
    parts.progress = make("progress", { ariaLabel: "Progress" });
    const cancel = button("cancel", "Cancel", () => annotator.cancel(), KEYS.cancel);
    parts.working = make("div", { className: "working" }, parts.what, make("div", { className: "row" }, parts.progress, cancel));
    parts.status = make("p", { role: "status" });
    parts.status.dataset.part = "status";

    parts.strategy = make("select", { ariaLabel: "How the next case is chosen" });
    const body = make(
      "div",
      { className: "body" },
      parts.structures,
      add,
      parts.finding,
      make("div", { className: "row", role: "toolbar", ariaLabel: "Tools" }, ...tools),
      make("div", { className: "row" }, button("propagate", "Propagate through all slices", () => annotator.propagate(), KEYS.propagate)),
      make(
        "div",
        { className: "row range" },
        button("firstHere", "From", here("first"), "", "The slice shown is the first of the range"),
        number("first", "First slice"),
        button("lastHere", "to", here("last"), "", "The slice shown is the last of the range"),
        number("last", "Last slice"),
        button("propagateRange", "Propagate", () => this.#propagateRange(), "", "Propagate through this range"),
      ),
      parts.working,
      make(
        "div",
        { className: "row" },
        button("undo", "Undo", () => annotator.undo(), KEYS.undo),
        button("redo", "Redo", () => annotator.redo(), KEYS.redo),
        button("clear", "Clear", () => annotator.clear()),
      ),
      make(
        "div",
        { className: "row" },
        button("submit", "Submit", () => annotator.submit(), KEYS.submit),
        button("next", "Next case", () => this.next(), KEYS.next),
        parts.strategy,
      ),
      parts.status,
    );
    const fold = make("button", { type: "button", className: "fold", ariaLabel: "Fold the panel", ariaExpanded: "true" }, "▾");
    fold.addEventListener("click", () => {
      body.hidden = !body.hidden;
      fold.ariaExpanded = String(!body.hidden);
      fold.textContent = body.hidden ? "▸" : "▾";
    });
    const head = make("header", {}, make("h2", { textContent: "BioSAM-2" }), parts.slice, fold);
    const style = make("link", { rel: "stylesheet", href: new URL("biosam2.css", import.meta.url).href });
    const panel = make("section", { id: "biosam2", ariaLabel: "BioSAM-2" });
    panel.attachShadow({ mode: "open" }).append(style, head, body);
    draggable(panel, head);
    return panel;
  }

  next() {
    return this.annotator.next(this.parts.strategy.value || undefined);
  }

  #propagateRange() {
    if (this.range) this.annotator.propagate(this.range);
    else this.annotator.explain("Fill in the first and the last slice of the range.");
  }
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (properties.role) element.setAttribute("role", properties.role);
  element.append(...children);
  return element;
}

function draggable(panel, handle) {
  handle.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button")) return;
    const { left, top } = panel.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    handle.setPointerCapture(event.pointerId);
    const move = ({ clientX, clientY }) => {
      const fits = (at, size, whole) => `${Math.min(Math.max(at, 0), Math.max(whole - size, 0))}px`;
      panel.style.left = fits(clientX - x, panel.offsetWidth, window.innerWidth);
      panel.style.top = fits(clientY - y, handle.offsetHeight, window.innerHeight);
      panel.style.right = panel.style.bottom = "auto";
    };
    handle.addEventListener("pointermove", move);
    handle.addEventListener("lostpointercapture", () => handle.removeEventListener("pointermove", move), { once: true });
  });
}
