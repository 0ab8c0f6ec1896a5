// Two charts as inline SVG, drawn at the width that there is, so that text keeps its size.

import { svg } from "./dom.js";
import { between, count, date, day, dice, known } from "./words.js";

const LEFT = 44, RIGHT = 14, TOP = 12, BOTTOM = 30;
const LABEL = 38; // px that a label of the x axis needs

// versions: as the server tells them, the oldest first, each with figures of the chosen structure:
// [{ number, created, state, figures: { served, candidate, candidate_low, candidate_high, cases } }]
export function rounds(versions, servedNow, width) {
  const height = Math.round(Math.min(320, Math.max(220, width * 0.36)));
  const values = versions.flatMap(({ figures: f }) =>
    [f.served, f.candidate, f.candidate_low, f.candidate_high].filter(known),
  );
  const [low, high, step] = range(Math.min(...values), Math.max(...values));
  const right = width - RIGHT, bottom = height - BOTTOM;
  // the first place is of what was served before the first round
  const each = (right - LEFT) / (versions.length + 1);
  const x = (place) => LEFT + each * (place + 0.5);
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - TOP);

  const drawn = [];
  for (let n = 0; low + n * step <= high + 1e-9; n++) {
    const value = Number((low + n * step).toFixed(4));
    drawn.push(svg("line", { class: "grid", x1: LEFT, x2: right, y1: y(value), y2: y(value), "data-tick": value }));
    drawn.push(svg("text", { class: "axis", x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  const skip = Math.ceil(LABEL / each);
  const name = (place, text) =>
    svg("text", { class: "axis", x: x(place), y: height - 10, "text-anchor": "middle" }, text);
  const before = versions[0].parent ? `v${versions[0].parent}` : "base";
  drawn.push(name(0, before));
  versions.forEach(({ number }, n) => {
    const place = versions.length - n; // counted from the newest, which always has its name
    if ((place - 1) % skip === 0 && n + 1 >= skip) drawn.push(name(n + 1, `v${number}`));
  });

  const path = [];
  if (known(versions[0].figures.served)) path.push([x(0), y(versions[0].figures.served)]);
  versions.forEach(({ state, figures }, n) => {
    const after = state === "published" ? figures.candidate : figures.served;
    if (known(after)) path.push([x(n + 1), y(after)]);
  });
  drawn.push(svg("polyline", { class: "served", points: path.map((point) => point.join()).join(" ") }));
  if (known(versions[0].figures.served)) {
    const told = svg("title", {}, `${before}: Dice ${dice(versions[0].figures.served)}`);
    const at = { x: x(0) - 4.5, y: y(versions[0].figures.served) - 4.5, width: 9, height: 9 };
    drawn.push(svg("rect", { class: "point base", ...at }, told));
  }

  versions.forEach((version, n) => {
    const { number, created, state, figures: f } = version;
    if (!known(f.candidate)) return;
    const at = x(n + 1);
    const interval = between(f.candidate_low, f.candidate_high, dice);
    const group = svg("g", { class: `round ${state === "published" ? "published" : "kept"}` });
    if (interval) {
      const [top, foot] = [y(f.candidate_high), y(f.candidate_low)];
      const cap = Math.min(5, each / 3);
      const d = `M${at},${top}V${foot}M${at - cap},${top}h${2 * cap}M${at - cap},${foot}h${2 * cap}`;
      group.append(svg("path", { class: "whisker", d }));
    }
    if (number === servedNow) group.append(svg("circle", { class: "ring", cx: at, cy: y(f.candidate), r: 9.5 }));
    group.append(svg("circle", { class: "point", cx: at, cy: y(f.candidate), r: 5, "data-version": number }));
    const words = [
      `Version ${number}${created ? `, ${day(created)}` : ""}: Dice ${dice(f.candidate)}`,
      interval && `95% interval ${interval}`,
      known(f.served) && `served before: ${dice(f.served)}`,
      known(f.cases) && `on ${count(f.cases, "patient")}`,
      number === servedNow ? "served now" : state,
    ];
    group.append(svg("title", {}, words.filter(Boolean).join("; ")));
    drawn.push(group);
  });

  const last = versions[versions.length - 1];
  const label =
    `Dice of ${count(versions.length, "round")}, from ${dice(versions[0].figures.served)} before the first ` +
    `to ${dice(last.figures.candidate)} for version ${last.number}. The table of versions has all figures.`;
  return chart(width, height, label, drawn);
}

// weeks: their Mondays; counts: labels of each.
export function weeks(mondays, counts, width) {
  const height = 190;
  const most = Math.max(1, ...counts);
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((size) => most / size <= 4) ?? Math.ceil(most / 4);
  const high = Math.ceil(most / step) * step;
  const right = width - RIGHT, bottom = height - BOTTOM;
  // few weeks do not become broad columns: the newest stands at the right
  const each = Math.min(44, (right - LEFT) / mondays.length);
  const x = (n) => right - each * (mondays.length - n);
  const y = (value) => bottom - (value / high) * (bottom - TOP);
  const drawn = [];
  for (let value = 0; value <= high; value += step) {
    drawn.push(svg("line", { class: "grid", x1: LEFT, x2: right, y1: y(value), y2: y(value), "data-tick": value }));
    drawn.push(svg("text", { class: "axis", x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  const gap = each > 6 ? Math.min(8, each * 0.25) : 0.5;
  mondays.forEach((monday, n) => {
    const told = svg("title", {}, `Week of ${date(monday)}: ${count(counts[n], "label")}`);
    const place = { x: x(n) + gap / 2, width: each - gap, y: y(counts[n]), height: bottom - y(counts[n]) };
    drawn.push(svg("rect", { class: "bar", rx: Math.min(2, each / 8), "data-week": monday, ...place }, told));
  });
  let free = LEFT - LABEL;
  mondays.forEach((monday, n) => {
    const [year, month, dayOfMonth] = monday.split("-").map(Number);
    const isFirst = n === 0 || dayOfMonth <= 7;
    const middle = x(n) + each / 2;
    if (!isFirst || middle - free < LABEL || (n === 0 && dayOfMonth > 21 && mondays.length > 8)) return;
    const name = new Date(year, month - 1, 15).toLocaleDateString(undefined, { month: "short" });
    drawn.push(
      svg("text", { class: "axis", x: middle, y: height - 10, "text-anchor": "middle" }, month === 1 ? String(year) : name),
    );
    free = middle;
  });
  const total = counts.reduce((sum, number) => sum + number, 0);
  const label =
    `${count(total, "label")} in ${count(mondays.length, "week")} from ${date(mondays[0])} on; ` +
    `${counts[counts.length - 1]} in the newest.`;
  return chart(width, height, label, drawn);
}

function chart(width, height, label, drawn) {
  const size = { viewBox: `0 0 ${width} ${height}`, width, height };
  return svg("svg", { class: "chart", role: "img", "aria-label": label, ...size }, ...drawn);
}

// The ends of an axis for Dice, and the step of its grid.
function range(least, most) {
  const step = most - least > 0.45 ? 0.2 : most - least > 0.2 ? 0.1 : 0.05;
  let low = Math.max(0, Math.floor((least - 0.01) / step) * step);
  let high = Math.min(1, Math.ceil((most + 0.01) / step) * step);
  if (high - low < 2 * step) [low, high] = low > 0 ? [low - step, high] : [low, high + step];
  return [low, high, step];
}
