// One row an arm: how often, how well, how well it is believed to do, and who says so.

import { ago, count, duration, el, interval, percent, rate, show, svg } from "../dom.js";
import { armColour } from "../palette.js";

const WIDTH = 240, HEIGHT = 26, PAD = 8;
const COLUMNS = [
  ["Arm"],
  ["Requests", "number"],
  ["Earned", "", "Mean reward of all its requests, with its 95% interval"],
  ["", "axis"],
  ["Believed", "", "On the latest requests that it served"],
  ["On any request", "", "On all of the latest requests, whoever served them"],
  ["Waiting", "number", "Requests whose outcome is not known yet"],
  ["Coverage", "number", "Of the requests whose waiting is over: how many got an outcome"],
  ["Outcome after", "number", "Half, and 90%, of the outcomes come within these times"],
  ["Trust", "number", "How far its offline examples are still believed"],
];
const place = (value) => PAD + Math.min(1, Math.max(0, value)) * (WIDTH - 2 * PAD);

export function drawArms(node, { arms, state, about }) {
  const most = Math.max(1, ...arms.map((arm) => arm.pulls));
  const more = about.arms - arms.length;
  show(node,
    el("table", { class: "arms" },
      el("thead", {}, el("tr", {}, ...COLUMNS.map(([text, kind, title]) => el("th", { scope: "col", class: kind, title }, kind === "axis" ? axis() : text)))),
      el("tbody", {}, ...arms.map((arm) => row(arm, most, state)))),
    more > 0 ? el("p", { class: "what", text: `And ${count(more)} arms that served less.` }) : null);
}

function row(arm, most, state) {
  const [, , coverage, median, p90] = arm.answers;
  return el("tr", { "data-key": arm.arm },
    el("th", { scope: "row" }, swatch(arm.arm), arm.arm, ...badges(arm, state)),
    el("td", { class: "number" }, bar(arm.pulls / most, armColour(arm.arm)), el("span", { class: "aligned", text: count(arm.pulls) })),
    el("td", {}, rate(arm.reward_mean), " ", el("small", { text: interval(arm.reward_interval) })),
    el("td", { class: "axis" }, forest(arm)),
    el("td", {}, ...belief(arm.served_mean, arm.served_width)),
    el("td", { class: "quiet" }, ...belief(arm.posterior_mean, arm.posterior_width)),
    el("td", { class: "number", text: count(arm.pending) }),
    el("td", { class: "number" }, coverage === null ? null : bar(coverage, "var(--quiet)"), el("span", { class: "aligned", text: percent(coverage) })),
    el("td", { class: "number" }, duration(median), el("small", { text: p90 === null ? "" : ` · ${duration(p90)}` })),
    el("td", { class: "number", text: percent(arm.prior_trust) }));
}

const belief = (mean, width) => (mean === null ? ["–"] : [rate(mean), el("small", { text: ` ± ${rate(width)}` })]);

export const swatch = (arm) => el("span", { class: "swatch", css: { background: armColour(arm) }, "aria-hidden": "true" });

function badges(arm, state) {
  const drift = arm.drifts.at(-1);
  return [
    arm.state === "frozen" ? el("span", { class: "badge", title: "It keeps what it learned and is routed to no more", text: "frozen" }) : null,
    arm.resident ? null : el("span", { class: "badge", title: "It has to be loaded before it can serve", text: "not loaded" }),
    drift ? el("span", { class: drift.restored ? "badge" : "badge warn", title: `${arm.drifts.length} drift alarms, the last ${ago(drift.time, state.now)}`, text: drift.restored ? "recovered" : "drift" }) : null,
  ];
}

const bar = (share, colour) => el("span", { class: "bar", "aria-hidden": "true" }, el("span", { css: { width: `${100 * share}%`, background: colour } }));

/** What was earned (circle, its interval) above what is believed of the requests that it served (diamond, ± width), 0 to 1. */
function forest(arm) {
  const colour = armColour(arm.arm), top = HEIGHT / 2 - 5, bottom = HEIGHT / 2 + 5;
  const marks = [svg("line", { class: "rule", x1: place(0), x2: place(1), y1: HEIGHT / 2, y2: HEIGHT / 2 })];
  if (arm.reward_interval) {
    const [low, high] = arm.reward_interval;
    marks.push(
      svg("line", { class: "earned", x1: place(low), x2: place(high), y1: top, y2: top }),
      svg("circle", { class: "earned", cx: place(arm.reward_mean), cy: top, r: 3.5 }));
  }
  if (arm.served_mean !== null) {
    const [low, high] = [arm.served_mean - arm.served_width, arm.served_mean + arm.served_width];
    const x = place(arm.served_mean);
    marks.push(
      svg("line", { stroke: colour, "stroke-width": 3, x1: place(low), x2: place(high), y1: bottom, y2: bottom }),
      svg("path", { fill: colour, d: `M${x - 5} ${bottom}l5 -5l5 5l-5 5z` }));
  }
  return svg("svg", { class: "forest", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, "aria-hidden": "true" }, ...marks);
}

function axis() {
  const ends = [0, 0.5, 1].map((value) => svg("text", { x: place(value), y: 12, "text-anchor": "middle", text: value }));
  return svg("svg", { class: "forest", viewBox: `0 0 ${WIDTH} 16`, width: WIDTH, height: 16, role: "img", "aria-label": "from 0 to 1" }, ...ends);
}
