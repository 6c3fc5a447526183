// The page: follows the stream, keeps what it says, and draws it.

import { Refused, follow, setKey } from "./api.js";
import { byId, count, duration, el, show } from "./dom.js";
import { applyTheme, rankArms, switchTheme } from "./palette.js";
import { drawArms } from "./panels/arms.js";
import { drawCaches } from "./panels/cache.js";
import { Courses } from "./panels/courses.js";
import { Decisions } from "./panels/decisions.js";
import { Explanation } from "./panels/explain.js";
import { drawGuard } from "./panels/guard.js";
import { drawTasks } from "./panels/tasks.js";
import { drawNotices, drawTiles } from "./panels/tiles.js";

const SPANS = [[5, "10 minutes"], [60, "2 hours"], [1800, "2 days"], [43200, "60 days"]];
const SPAN = "pointsman-span";
const BUCKET = "bucket ";

const courses = new Courses();
const decisions = new Decisions(byId("decisions"), (id) => explanation.open(id));
const explanation = new Explanation(decisions);

let seconds = Number(sessionStorage.getItem(SPAN) ?? SPANS[0][0]);
let following = new AbortController();
let shown = null; // what the stream has said so far

function take(parts, first) {
  if (first) shown = { buckets: new Map() };
  for (const [name, part] of Object.entries(parts)) {
    if (name.startsWith(BUCKET)) shown.buckets.set(part.start, part);
    else shown[name] = part;
  }
  draw();
}

function draw() {
  if (!shown) return;
  const { about, state, arms } = shown;
  const number = Math.ceil(spanLength() / about.seconds);
  const from = (Math.floor(state.now / about.seconds) - number) * about.seconds;
  const buckets = [...shown.buckets.values()].filter(({ start }) => start >= from).sort((one, other) => one.start - other.start);
  const view = { ...shown, buckets };
  rankArms(arms);
  show(byId("facts"), ...facts(view));
  drawNotices(byId("notices"), view);
  drawTiles(byId("tiles"), view);
  courses.draw(buckets, about.seconds);
  drawArms(byId("arms"), view);
  drawTasks(byId("tasks"), view);
  drawGuard(byId("guard"), view);
  drawCaches(byId("cache"), shown.caches);
  decisions.draw(shown.decisions, about, state.now);
  explanation.follow();
}

function facts({ about, state }) {
  const learner = state.learner_age_s === null ? "not started" : `seen ${duration(state.learner_age_s)} ago`;
  const said = [["model", about.model], ["arms", count(about.arms)], ["policy", state.policy], ["mode", state.mode], ["Learner", learner]];
  return said.map(([name, value]) => el("span", {}, `${name} `, el("b", { text: value })));
}

function spanLength() {
  return { 5: 600, 60: 7200, 1800: 172800, 43200: 5184000 }[seconds];
}

function setLive(state) {
  const words = { live: "live", away: "no connection, trying again…", locked: "locked" };
  byId("live").dataset.state = state;
  byId("live").textContent = words[state];
}

async function start() {
  following.abort();
  following = new AbortController();
  try {
    await follow(seconds, following.signal, take, setLive);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    setLive("locked");
    byId("key-why").textContent = error.status === 401 ? "This service wants to know who looks." : `${error.message}.`;
    byId("key").showModal();
  }
}

function wire() {
  applyTheme();
  byId("theme").addEventListener("click", () => {
    switchTheme();
    draw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    applyTheme();
    draw();
  });
  byId("spans").append(...SPANS.map(([value, text]) => el("label", {},
    el("input", { type: "radio", name: "span", value, checked: value === seconds, onchange: () => choose(value) }), el("span", { text }))));
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    setKey(byId("key-input").value.trim());
    byId("key-input").value = "";
    byId("key").close();
    start();
  });
}

function choose(value) {
  seconds = value;
  sessionStorage.setItem(SPAN, value);
  start();
}

wire();
start();
