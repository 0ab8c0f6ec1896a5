// Making elements. Text only ever becomes text: no name of a structure or an image can be markup.

const SVG = "http://www.w3.org/2000/svg";

export const part = (id) => document.getElementById(id);

// make("p", { className: "quiet", data: { key: "3" } }, "text", child, ...)
export function make(tag, properties = {}, ...children) {
  const { data = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

// svg("circle", { cx: 3 }, ...)
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// New content for a place; a button in it that had the focus has it again.
export function fill(place, ...children) {
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  place.replaceChildren(...children.filter(Boolean));
  if (focused === undefined) return;
  [...place.querySelectorAll("[data-key]")].find(({ dataset }) => dataset.key === focused)?.focus();
}

// The text of a place, left alone if it is the same: screen readers read what changes.
export function say(place, text, kind = "") {
  if (place.textContent !== text) place.textContent = text;
  if (kind !== null) place.className = kind;
}

// The choices of a select; what was chosen stays chosen.
export function choices(select, names, words) {
  const wanted = JSON.stringify(names);
  if (select.dataset.names === wanted) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name, n) => make("option", { value: name ?? "", textContent: words[n] })));
  select.dataset.names = wanted;
  if (names.includes(chosen)) select.value = chosen;
}
