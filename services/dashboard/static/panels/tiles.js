// The whole time shown, in short; and what needs attention.

import { count, duration, el, interval, percent, rate, show, signed, wilson } from "../dom.js";

const sum = (items, of) => items.reduce((total, item) => total + (of(item) ?? 0), 0);

export function drawTiles(node, { buckets, arms, state }) {
  const requests = sum(buckets, (b) => b.requests), rewarded = sum(buckets, (b) => b.rewarded);
  const reward = sum(buckets, (b) => b.success * b.rewarded), regret = sum(buckets, (b) => b.regret * b.rewarded) / rewarded;
  const success = reward / rewarded, ends = wilson(reward, rewarded);
  const answered = sum(arms, ({ answers: [answered] }) => answered), over = answered + sum(arms, ({ answers: [, silent] }) => silent);
  const waiting = sum(arms, (arm) => arm.pending), explored = sum(buckets, (b) => b.explored);
  const upToDate = state.behind_events === 0;
  show(node,
    tile("Success", rate(success), ends ? `95%: ${interval(ends)}` : "no rewards yet"),
    tile("Regret a request", signed(regret), ends ? `95%: ${signed(regret - (ends[1] - success))} to ${signed(regret + success - ends[0])}` : "no rewards yet"),
    tile("Requests", count(requests), requests ? `${percent(explored / requests)} explored` : "in this time"),
    tile("Waiting for an outcome", count(waiting), "of all requests so far"),
    tile("Feedback coverage", percent(over ? answered / over : NaN), over ? `of ${count(over)} closed requests` : "no request is closed yet"),
    tile("Beliefs", upToDate ? "up to date" : `${duration(state.behind_s)} behind`,
      upToDate ? `version ${count(state.policy_version)}` : `${count(state.behind_events)} events to learn from`));
}

function tile(name, value, more) {
  return el("div", { class: "tile" }, el("h2", { text: name }), el("p", { class: "value", text: value }), el("p", { class: "more", text: more }));
}

/** Alarms, warnings about feedback, and arms that no longer earn what was believed. */
export function drawNotices(node, { arms, state }) {
  const drifted = arms.filter((arm) => arm.drifts.length && !arm.drifts.at(-1).restored);
  const notices = [
    ...(state.mode === "fallback" ? ["Fallback: the guard found the policy worse than the supervised router, which serves until the guard is reset."] : []),
    ...Object.entries(state.alarms).map(([name, message]) => `${name}: ${message}`),
    ...(state.learner_age_s > 30 ? [`The Learner was last seen ${duration(state.learner_age_s)} ago: nothing is learned meanwhile.`] : []),
    ...state.warnings,
    ...drifted.map((arm) => {
      const { worse, time } = arm.drifts.at(-1);
      return `${arm.arm} earns ${worse ? "less" : "more"} than was believed (drift alarm ${duration(state.now - time)} ago): what it showed since counts more.`;
    }),
  ];
  show(node, ...notices.map((text) => el("li", { text })));
}
