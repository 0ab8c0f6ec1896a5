// The page: asks the server how things are, every 2 s while a training runs, and redraws what has changed.

import * as charts from "./charts.js";
import { choices, fill, make, part, say } from "./dom.js";
import { Failure, Server } from "./server.js";
import { between, clock, count, day, dice, duration, known, moment, signed } from "./words.js";

const SOON_MS = 2000;
const LATER_MS = 30000;
const AGAIN_MS = 5000;
const FEW = 10; // versions shown at first
const ALL = "";
const RUNS = ["waiting", "starting", "running", "evaluating"];
const STATES = {
  idle: "No training has run yet.",
  waiting: "A training waits for its turn.",
  starting: "A training is starting.",
  running: "A training is running.",
  evaluating: "Comparing it with the served version",
  done: "The last training has ended.",
  failed: "The last training has failed.",
  cancelled: "The last training was cancelled.",
  interrupted: "The last training was interrupted. The next one goes on from there.",
};

const server = new Server();
const drawn = new Map(); // part of the page -> what it was drawn of
let shown = null; // the newest answer
let timer = 0;
let asked = 0;
let showsAll = false;

async function refresh() {
  clearTimeout(timer);
  const number = ++asked;
  let wait = AGAIN_MS;
  try {
    const answer = await server.status();
    if (number !== asked) return;
    shown = answer;
    draw();
    wait = RUNS.includes(shown.job.state) ? SOON_MS : LATER_MS;
  } catch (failure) {
    if (number !== asked) return;
    if (!(failure instanceof Failure)) console.error(failure);
    wait = trouble(failure);
  }
  if (wait) timer = setTimeout(() => (document.hidden ? null : refresh()), wait);
}

// What went wrong, above what was known before; returns ms until the next try.
function trouble(failure) {
  const wantsName = failure.status === 401;
  part("signin").hidden = !wantsName;
  if (wantsName) {
    server.signOut();
    part("main").hidden = true;
    part("banner").hidden = true;
    say(part("fresh"), "", null);
    part("signout").hidden = true;
    return 0;
  }
  part("signout").hidden = !server.signedIn;
  part("banner").hidden = false;
  say(part("banner"), failure instanceof Failure ? failure.message : `This page has an error: ${failure.message}`, null);
  return AGAIN_MS;
}

function draw() {
  for (const name of ["banner", "signin"]) part(name).hidden = true;
  part("main").hidden = false;
  part("signout").hidden = !server.signedIn;
  say(part("fresh"), `Updated ${clock(shown.now)}`, null);
  const { served, job, versions, left_out, labels, worst, you } = shown;
  once("served", served, drawServed);
  once("job", [job, you.admin, shown.can_train], drawJob);
  once("retraining", [shown.retraining], drawRetraining);
  once("versions", [versions, left_out, served, you.admin, showsAll], drawVersions);
  once("labels-structures", [labels], drawStructures);
  drawCharts();
  once("worst", [worst], drawWorst);
}

function drawCharts() {
  const { served, versions, labels } = shown;
  const decided = versions.filter(({ site }) => site).reverse();
  const named = [...new Set(decided.flatMap(({ site }) => Object.keys(site.structures)))].sort();
  choices(part("rounds-structure"), [ALL, ...named], ["all together", ...named]);
  part("rounds-structure").parentElement.hidden = named.length < 2;
  const structure = part("rounds-structure").value;
  once("rounds", [decided, served.number, structure, part("rounds").clientWidth], drawRounds);

  const collected = labels?.structures ?? [];
  const keys = collected.map((_, n) => String(n));
  choices(part("weeks-structure"), [ALL, ...keys], ["all together", ...collected.map(structureName)]);
  part("weeks-structure").parentElement.hidden = collected.length < 2;
  once("labels-weeks", [labels, part("weeks-structure").value, part("labels-weeks").clientWidth], drawWeeks);
}

// Draw a part of the page, unless it was drawn of the very same before.
function once(name, data, drawing) {
  const now = JSON.stringify(data);
  if (drawn.get(name) === now) return;
  drawn.set(name, now);
  drawing(part(name), ...(Array.isArray(data) ? data : [data]));
}

function drawServed(place, served) {
  const version = served.number ? `Version ${served.number} of ${served.base}` : "The base checkpoint itself";
  fill(
    place,
    make("p", { className: "headline name" }, served.name),
    make("p", { className: "quiet" }, version),
    figures([
      ["Since", moment(served.since)],
      ["Runs on", served.device],
      ["Checkpoint", make("code", {}, served.checkpoint)],
    ]),
  );
}

function drawJob(_, job, admin, canTrain) {
  const runs = RUNS.includes(job.state);
  // while it runs, what it says about itself is the headline
  const says = runs && job.message && job.message !== "training" ? job.message[0].toUpperCase() + job.message.slice(1) : "";
  say(part("job-state"), says || (STATES[job.state] ?? job.state), "headline");
  const bar = part("job-bar");
  bar.hidden = !runs;
  if (job.state === "running" && known(job.step) && job.steps) Object.assign(bar, { max: job.steps, value: job.step });
  else bar.removeAttribute("value");
  const told = [];
  if (known(job.step) && known(job.steps)) told.push(["Step", `${job.step} of ${job.steps}`]);
  if (known(job.loss)) told.push(["Loss", job.loss.toPrecision(3)]);
  if (known(job.seconds_left)) told.push(["Time left", `about ${duration(job.seconds_left)}`]);
  if (job.started) told.push(["Started", moment(job.started)]);
  if (job.updated && !runs) told.push(["Ended", moment(job.updated)]);
  fill(part("job-figures"), ...pairs(told));
  const waiting = job.waiting ? `${count(job.waiting, "more training")} waiting.` : "";
  const message = [runs ? "" : job.message, waiting].filter(Boolean).join(" ");
  say(part("job-message"), message, job.state === "failed" ? "bad" : "quiet");
  part("train").hidden = runs || !admin || !canTrain;
  part("cancel").hidden = !job.cancellable || !admin;
}

function drawRetraining(place, plan) {
  if (!plan || plan.plan === "off") {
    fill(place, make("p", { className: "quiet rule" }, "Nothing starts a training by itself (--conf retrain)."));
    return;
  }
  const told = [["Plan", plan.plan]];
  if (known(plan.new_labels)) {
    const needed = plan.labels_needed ? ` of ${plan.labels_needed}` : "";
    told.push(["New labels", `${plan.new_labels}${needed}`]);
  }
  if (plan.next_time) told.push(["Next time", moment(plan.next_time)]);
  if (plan.due) told.push(["Due", plan.waiting_for ? `waits for ${plan.waiting_for}` : "now"]);
  const { last } = plan;
  if (last?.started) told.push(["Last", [moment(last.started), last.result].filter(Boolean).join(" · ")]);
  const note = plan.note && make("p", { className: "quiet" }, plan.note);
  fill(place, make("h3", { className: "rule" }, "Retraining"), figures(told), note);
}

function drawVersions(place, versions, leftOut, served, admin) {
  if (!versions.length) {
    fill(place, make("p", { className: "quiet" }, "None yet: the first training makes version 1."));
    return;
  }
  const few = showsAll ? versions : versions.slice(0, FEW);
  const base = { number: 0, name: served.base, state: "base", reason: "What everything began with.", site: null };
  const heads = ["Version", "Made", "Labels", "Dice at this site", "General set", "Result", ""];
  const body = [...few, base].map((version) => row(version, served, admin));
  const table = make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...body),
  );
  const more = versions.length - few.length;
  const button = more > 0 && make("button", { type: "button", data: { key: "more" } }, `Show ${more} older`);
  if (button) {
    button.addEventListener("click", () => {
      showsAll = true;
      draw();
    });
  }
  const older = leftOut > 0 && !more && make("p", { className: "quiet" }, `${leftOut} older ones are not shown.`);
  fill(place, table, button, older);
}

function row(version, served, admin) {
  const { number, site, general, labels } = version;
  const isServed = number === served.number;
  const cell = (title, ...children) => make("td", { data: { title } }, make("div", {}, ...children));
  const button = make("button", { type: "button", data: { key: `serve-${number}` } }, "Serve this one");
  button.setAttribute("aria-label", `Serve ${called(version)}`);
  button.addEventListener("click", () => serve(version));
  const marks = number ? [make("span", { className: `mark ${version.state}` }, version.state)] : [];
  if (isServed) marks.unshift(make("span", { className: "mark now" }, "served"));
  if (version.pruned) marks.push(make("span", { className: "mark" }, "file removed"));
  return make(
    "tr",
    { className: isServed ? "now" : "", data: { version: number } },
    make("th", { scope: "row" }, number ? `v${number}` : "base", number ? small(version.code) : ""),
    cell("Made", version.created ? day(version.created) : "", version.seconds ? small(duration(version.seconds)) : ""),
    cell("Labels", ...(labels ? labelCell(labels) : [])),
    cell("Dice at this site", ...(site ? siteCell(site) : [number ? small("not decided") : ""])),
    cell("General set", ...(general ? generalCell(general) : [])),
    cell("Result", make("p", { className: "marks" }, ...marks), small(version.reason)),
    cell("", admin && !isServed && !version.pruned ? button : ""),
  );
}

function labelCell({ training, hold_out, left_out, structures }) {
  const names = Object.entries(structures).map(([name, number]) => `${name} ${number}`);
  const shownNames = names.length > 4 ? [...names.slice(0, 4), `${names.length - 4} more`] : names;
  const rest = [`${hold_out} held out`, left_out && `${left_out} left out`].filter(Boolean).join(", ");
  return [`${training} to train`, small(rest), small(shownNames.join(", "))];
}

function siteCell(site) {
  const interval = between(site.low, site.high, signed);
  const kind = site.low > 0 ? "good" : site.high < 0 ? "bad" : "";
  const change = make("span", { className: kind }, signed(site.difference));
  return [
    make("span", { className: "figure" }, `${dice(site.served)} → ${dice(site.candidate)}`),
    make("small", { className: "line" }, change, interval && ` (${interval})`),
    known(site.cases) ? small(`on ${count(site.cases, "patient")}`) : "",
  ];
}

function generalCell(general) {
  const isWorse = known(general.low) && known(general.margin) && general.low < -general.margin;
  const interval = between(general.low, general.high, signed);
  return [make("span", { className: isWorse ? "figure bad" : "figure" }, signed(general.difference)), small(interval)];
}

function drawRounds(place, decided, servedNumber, structure, width) {
  const versions = decided
    .map((version) => ({ ...version, figures: structure === ALL ? version.site : version.site.structures[structure] }))
    .filter(({ figures }) => figures && known(figures.candidate));
  if (!versions.length) {
    fill(place, make("p", { className: "quiet" }, "No round has been measured yet."));
    return;
  }
  const key = (kind, text) => make("li", {}, make("span", { className: `key ${kind}` }), text);
  const legend = make(
    "ul",
    { className: "legend" },
    key("published", "published"),
    key("kept", "kept"),
    key("ring", "served now"),
    key("line", "served after each round"),
    key("whisker", "95% interval"),
  );
  fill(place, charts.rounds(versions, servedNumber, Math.max(width, 260)), legend);
}

function structureName({ name }) {
  if (name === null) return "others";
  return name === "" ? "without a name" : name;
}

function drawStructures(place, labels) {
  part("labels").hidden = !labels?.labelled;
  if (!labels?.labelled) {
    const why = labels ? "No label has been submitted yet." : "This datastore does not tell.";
    say(part("labels-total"), why, "quiet");
    return;
  }
  say(part("labels-total"), `${labels.labelled} of ${count(labels.images, "image")} labelled`, "quiet");
  const most = Math.max(...labels.structures.map((structure) => structure.count));
  const items = labels.structures.map((structure) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${(100 * structure.count) / most}%`;
    return make(
      "li",
      {},
      make("span", { className: "label" }, structureName(structure)),
      make("span", { className: "track", ariaHidden: "true" }, bar),
      make("span", { className: "number" }, structure.count.toLocaleString()),
    );
  });
  fill(place, make("ul", { className: "bars" }, ...items));
}

function drawWeeks(place, labels, structure, width) {
  if (!labels?.labelled) return;
  const counts = structure === ALL ? labels.labels : labels.structures[Number(structure)].weeks;
  const earlier = labels.earlier && structure === ALL ? make("p", { className: "quiet" }, `${labels.earlier} before.`) : "";
  fill(place, charts.weeks(labels.weeks, counts, Math.max(width, 240)), earlier);
}

let pictures = []; // addresses of those on the page, which the browser keeps until told otherwise

function drawWorst(place, worst) {
  pictures.forEach((address) => URL.revokeObjectURL(address));
  pictures = [];
  if (!worst) {
    fill(place, make("p", { className: "quiet" }, "The newest version has no pictures."));
    return;
  }
  const cases = worst.cases.map((one, n) => {
    const words = `${one.structure} in ${one.image}: Dice ${dice(one.dice)}`;
    const image = make("img", { alt: `${words}; image, truth (green) and answer (blue)` });
    const button = make("button", { type: "button", className: "picture", data: { key: `picture-${n}` } }, image);
    button.addEventListener("click", () => enlarge(image, words));
    load(image, worst.number, one.picture);
    return make(
      "figure",
      {},
      button,
      make(
        "figcaption",
        {},
        make("strong", {}, dice(one.dice)),
        make("span", {}, one.structure),
        small([one.image, one.prompts].filter(Boolean).join(" · ")),
      ),
    );
  });
  const told = make("p", { className: "quiet" }, `Version ${worst.number}. Truth is green, the answer blue.`);
  fill(place, told, make("div", { className: "gallery" }, ...cases));
}

// An image element would ask without the token.
async function load(image, number, name) {
  try {
    const address = URL.createObjectURL(await server.picture(number, name));
    if (!drawn.get("worst")?.includes(name)) return URL.revokeObjectURL(address);
    pictures.push(address);
    image.src = address;
  } catch (failure) {
    image.parentElement?.replaceWith(make("p", { className: "quiet missing" }, failure.message));
  }
}

function enlarge(image, words) {
  Object.assign(part("large-picture"), { src: image.src, alt: image.alt });
  say(part("large-caption"), words, null);
  part("large").showModal();
}

// What people do

const called = ({ number, name }) => (number ? `version ${number}` : `the base checkpoint ${name}`);

async function serve(version) {
  const swap = "Requests that run now still get the model they began with; the next ones get this one.";
  const doubt = version.state === "kept" ? `It was kept, not published: ${version.reason} ` : "";
  if (!(await sure(`Serve ${called(version)}?`, doubt + swap, "Serve it"))) return;
  await act(part("versions-answer"), async () => {
    await server.serve(version.number);
    return `From now on, ${called(version)} is served.`;
  });
}

async function train() {
  await act(part("job-answer"), async () => {
    await server.train();
    return "The training was asked for and begins in a moment.";
  });
}

async function cancel() {
  const lost = "What it has done since it last saved its state is lost. The served version stays as it is.";
  if (!(await sure("Cancel the training?", lost, "Cancel training"))) return;
  await act(part("job-answer"), async () =>
    (await server.cancel()) ? "The training was cancelled." : "There was no training to cancel.",
  );
}

// Do it, tell how it went, and look again.
async function act(answer, doing) {
  say(answer, "…");
  try {
    say(answer, await doing(), "good");
  } catch (failure) {
    say(answer, failure.message, "bad");
    if (failure.status === 401) trouble(failure);
  }
  if (part("signin").hidden) await refresh();
}

// Ask in a dialog; resolves with whether the person wants it.
function sure(title, text, yes) {
  const dialog = part("ask");
  say(part("ask-title"), title, null);
  say(part("ask-text"), text, null);
  say(part("ask-yes"), yes, null);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

const small = (text) => (text ? make("small", {}, text) : "");
const pairs = (told) => told.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
const figures = (told) => make("dl", { className: "figures" }, ...pairs(told));

part("train").addEventListener("click", train);
part("cancel").addEventListener("click", cancel);
part("ask-no").addEventListener("click", () => part("ask").close(""));
part("ask-yes").addEventListener("click", () => part("ask").close("yes"));
part("large-close").addEventListener("click", () => part("large").close());
for (const name of ["rounds-structure", "weeks-structure"]) part(name).addEventListener("change", drawCharts);
part("signin").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  say(part("refused"), "", "bad");
  try {
    await server.signIn(form.username.value, form.password.value);
    form.password.value = "";
    await refresh();
  } catch (failure) {
    say(part("refused"), failure.message, "bad");
  }
});
part("signout").addEventListener("click", () => {
  server.signOut();
  drawn.clear();
  refresh();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
new ResizeObserver(() => shown && !part("main").hidden && drawCharts()).observe(document.body);
refresh();
