// Points and boxes drawn over the views, by our own SVG: they show where the person clicked, and nothing else.

const SVG = "http://www.w3.org/2000/svg";
const STYLE = "position: absolute; inset: 0; width: 100%; height: 100%; overflow: hidden; pointer-events: none";
const DASHED = { fill: "none", "stroke-width": 1.5, "stroke-dasharray": "5 3" };

export class Overlay {
  // shapes(view): what to draw in a view, in world coordinates: [{ kind: "point" | "box", inside, color, corners }].
  constructor(viewer, shapes) {
    this.viewer = viewer;
    this.shapes = shapes;
    this.layers = new Map(); // element -> { svg, stop }
    this.draft = null; // { view, corners }: the box being drawn
    this.armed = false; // whether a click places a prompt
  }

  // Follow the views that are open now.
  attach() {
    const views = this.viewer.views();
    for (const [element, layer] of this.layers) {
      if (views.some((view) => view.element === element) && layer.svg.isConnected) continue;
      layer.stop();
      layer.svg.remove();
      this.layers.delete(element);
    }
    for (const view of views) {
      if (this.layers.has(view.element)) continue;
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("class", "biosam2-overlay");
      svg.setAttribute("style", STYLE);
      svg.setAttribute("aria-hidden", "true");
      view.element.append(svg);
      this.layers.set(view.element, { svg, stop: view.onRendered(() => this.#draw(view.element)) });
    }
    this.draw();
  }

  draw() {
    for (const element of this.layers.keys()) this.#draw(element);
  }

  #draw(element) {
    const { svg } = this.layers.get(element) ?? {};
    const view = this.viewer.viewOf(element);
    if (!svg || !view) return;
    // a frame around the view that a click goes to; OHIF keeps setting the cursor for its own tools
    svg.style.boxShadow = this.armed ? "inset 0 0 0 2px #5acce6" : "none";
    const shapes = this.shapes(view);
    if (this.draft?.view.element === element) shapes.push({ kind: "box", corners: this.draft.corners, color: "#fff" });
    svg.replaceChildren(...shapes.map((shape) => drawn(shape, view)));
  }
}

function drawn({ kind, inside, color, corners }, view) {
  const places = corners.map((world) => view.toElement(world));
  if (kind === "box") {
    return node("polygon", { points: places.map((place) => place.join(",")).join(" "), class: "box", stroke: color, ...DASHED });
  }
  const [[x, y]] = places;
  const group = node("g", { class: inside ? "point inside" : "point outside" });
  const across = `M${x - 3} ${y}h6`;
  group.append(
    node("circle", { cx: x, cy: y, r: 6, fill: inside ? color : "#000", stroke: inside ? "#fff" : color }),
    node("path", { d: inside ? `${across}M${x} ${y - 3}v6` : across, stroke: "#fff", "stroke-width": 1.5 }),
  );
  return group;
}

function node(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
