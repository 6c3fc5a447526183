// The latest decisions, and the screens of those whose screens are kept.

import { getBlob } from "../api.js";
import { ago, duration, el, rate, show } from "../dom.js";
import { swatch } from "./arms.js";

const MOST_KEPT = 80;
const STATUS = { new: "waiting", pending: "waiting", matured: "", cancelled: "cancelled", timed_out: "nobody said", censored: "censored" };

export class Decisions {
  /** `choose` is called with the id of the decision that somebody wants explained. */
  constructor(node, choose) {
    this.node = node;
    this.screens = new Map(); // id -> object URL, or null while it is fetched or where there is none
    this.ids = [];
    node.addEventListener("click", ({ target }) => {
      const row = target.closest("tr[data-key]");
      if (row) choose(row.dataset.key);
    });
  }

  draw(decisions, about, now) {
    this.ids = decisions.map(({ id }) => id);
    if (!decisions.length) return show(this.node, el("p", { class: "empty", text: "No decisions yet." }));
    const columns = [...(about.keeps_screens ? [["Screen"]] : []), ["When"], ["Task"], ["Arm"], ["How"], ["Outcome"], ["Answered in", "number"]];
    show(this.node, el("table", { class: "decisions" },
      el("thead", {}, el("tr", {}, ...columns.map(([text, kind]) => el("th", { scope: "col", class: kind, text })))),
      el("tbody", {}, ...decisions.map((decision) => this.row(decision, about.keeps_screens > 0, now)))));
    return this.fetch(decisions.filter(({ screen }) => screen));
  }

  row(decision, withScreens, now) {
    const { id, task, arm, supervised, explored, propensity, latency_ms: ms } = decision;
    const screen = this.screens.get(id);
    const how = explored ? "explored" : arm === supervised ? "as supervised" : "learned";
    return el("tr", { "data-key": id },
      withScreens ? el("td", {}, screen ? el("img", { class: "thumb", src: screen, alt: "" }) : el("span", { class: "thumb" })) : null,
      el("td", { text: ago(decision.time, now) }),
      el("td", { text: task ?? "–" }),
      el("td", {}, swatch(arm), el("button", { type: "button", class: "link", "aria-haspopup": "dialog", text: arm })),
      el("td", { title: `propensity ${propensity.toFixed(3)}` }, el("span", { class: explored ? "badge" : "quiet", text: how })),
      el("td", {}, outcome(decision)),
      el("td", { class: "number", text: ms === null ? "–" : duration(ms / 1000) }));
  }

  /** The screen of a decision as an object URL; null if it is not kept. */
  async screen(id) {
    if (this.screens.get(id)) return this.screens.get(id);
    this.screens.set(id, null);
    const blob = await getBlob(`/v1/decisions/${encodeURIComponent(id)}/screen`).catch(() => null); // all is said without it
    if (!blob) return null;
    this.screens.set(id, URL.createObjectURL(blob));
    for (const [old, url] of [...this.screens].slice(0, -MOST_KEPT)) {
      if (url) URL.revokeObjectURL(url);
      this.screens.delete(old);
    }
    return this.screens.get(id);
  }

  async fetch(decisions) {
    for (const { id } of decisions) {
      if (this.screens.has(id) || !(await this.screen(id))) continue;
      const empty = this.node.querySelector(`tr[data-key="${CSS.escape(id)}"] span.thumb`);
      empty?.replaceWith(el("img", { class: "thumb", src: this.screens.get(id), alt: "" }));
    }
  }
}

/** What is known of the outcome, in a mark and words. */
export function outcome({ status, reward }) {
  if (reward === null || reward === undefined) return el("span", { class: "quiet", text: STATUS[status] ?? status });
  const kind = reward >= 0.5 ? "good" : "bad";
  return el("span", { class: kind }, el("span", { "aria-hidden": "true", text: reward >= 0.5 ? "✓ " : "✗ " }), reward === 1 ? "success" : reward === 0 ? "failure" : rate(reward));
}
