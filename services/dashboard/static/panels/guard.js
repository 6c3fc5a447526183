// Who serves, whether the guard has found it worse than the supervised router, and what the log says that policies earn.

import { count, el, rate, show, svg } from "../dom.js";

const MODES = {
  online: "the policy serves and learns from every reward",
  shadow: "the supervised router serves; the policy learns and is scored",
  frozen: "the policy serves on the beliefs of the moment of freezing",
  fallback: "the supervised router serves, since the guard's alarm",
};
const WIDTH = 200, HEIGHT = 18, PAD = 6;
const place = (value) => PAD + Math.min(1, Math.max(0, value)) * (WIDTH - 2 * PAD);

export function drawGuard(node, { state }) {
  show(node,
    el("p", { id: "mode" }, el("b", { text: state.mode }), `: ${MODES[state.mode] ?? ""}.`),
    el("h3", { text: "Guard" }), ...guard(state.guard),
    el("h3", { text: "What each policy would have earned" }), policies(state.policies));
}

function guard(found) {
  if (!found) return [el("p", { text: "It has seen nothing yet." })];
  const said = found.alarm === null ? "no alarm" : `alarm at unit ${count(found.alarm)}`;
  return [
    el("label", { class: "meter" }, "Evidence that the policy is worse",
      el("meter", { min: 0, max: 1, high: 0.5, low: 0.1, optimum: 0, value: Math.min(1, found.evidence), text: found.evidence.toPrecision(2) })),
    el("p", { class: "what", text: `${found.evidence < 0.001 ? "Below 0.001" : found.evidence.toPrecision(2)}; the alarm is at 1: ${said}. In ${count(found.differing)} of ${count(found.units)} rewarded requests or episodes the two would choose differently.` }),
  ];
}

function policies(scores) {
  if (!scores.length) return el("p", { class: "what", text: "Nothing has been rewarded yet." });
  return el("table", { class: "policies" },
    el("thead", {}, el("tr", {}, ...["Policy", "Reward", "95%"].map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...scores.map((score) => el("tr", {}, el("th", { scope: "row", text: score.policy }),
      el("td", { class: "number", text: rate(score.value) }),
      el("td", { title: `worth ${count(score.effective)} of ${count(score.units)} rewards` }, score.value === null ? "–" : whisker(score))))));
}

function whisker({ value, low, high }) {
  const y = HEIGHT / 2;
  return svg("svg", { class: "forest", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img", "aria-label": `${rate(low)} to ${rate(high)}` },
    svg("line", { class: "rule", x1: place(0), x2: place(1), y1: y, y2: y }),
    svg("line", { class: "earned", x1: place(low), x2: place(high), y1: y, y2: y }),
    svg("circle", { class: "earned", cx: place(value), cy: y, r: 3.5 }));
}
