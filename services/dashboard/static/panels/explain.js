// Why a decision was taken: in a sentence, in the scores of then and now, and what it is like.

import { getJson } from "../api.js";
import { byId, duration, el, rate, show, svg } from "../dom.js";
import { armColour } from "../palette.js";
import { swatch } from "./arms.js";

const WIDTH = 190, ROW = 22, PAD = 8, MOST = 8;

export class Explanation {
  constructor(decisions) {
    this.decisions = decisions;
    this.dialog = byId("explain");
    byId("close").addEventListener("click", () => this.dialog.close());
    byId("newer").addEventListener("click", () => this.step(-1));
    byId("older").addEventListener("click", () => this.step(1));
    this.dialog.addEventListener("keydown", ({ key }) => {
      if (key === "ArrowLeft") this.step(-1);
      if (key === "ArrowRight") this.step(1);
    });
    this.dialog.addEventListener("click", ({ target }) => target === this.dialog && this.dialog.close());
  }

  /** Show a decision's explanation; what comes after another one was asked for is dropped. */
  async open(id) {
    this.id = id;
    if (!this.dialog.open) this.dialog.showModal();
    byId("explain-title").textContent = "…";
    try {
      const [found, screen] = await Promise.all([getJson(`/v1/decisions/${encodeURIComponent(id)}/explain`), this.decisions.screen(id)]);
      if (this.id === id) this.draw(found, screen);
    } catch (error) {
      if (this.id === id) this.fail(error);
    }
    this.follow();
  }

  step(by) {
    const next = this.decisions.ids[this.decisions.ids.indexOf(this.id) + by];
    if (next) this.open(next);
  }

  /** Which ways there are to go; the list moves on while the dialog is open. */
  follow() {
    const at = this.decisions.ids.indexOf(this.id);
    byId("newer").disabled = at <= 0;
    byId("older").disabled = at < 0 || at + 1 >= this.decisions.ids.length;
  }

  fail(error) {
    byId("explain-title").textContent = "It cannot be explained";
    show(byId("explain-body"), el("p", { text: error.message }));
  }

  draw({ reason, outcome, stored: { decision, completion }, now, nearest }, screen) {
    byId("explain-title").textContent = `Why ${decision.arm}?`;
    show(byId("explain-body"),
      el("p", { class: "reason" }, `Pointsman ${reason}. `, el("span", { class: "quiet", text: `Outcome: ${outcome}.` })),
      el("div", { class: "columns" },
        screen ? el("img", { class: "screen", src: screen, alt: "The screen that the decision was taken on" }) : null,
        el("div", {},
          el("h3", { text: "Scores then" }), scores(decision.scored, decision.arm, decision.supervised),
          el("h3", { text: now ? `Now, on version ${now.policy_version}: ${now.arm}` : "Now" }),
          now ? scores(now.arms, now.arm, now.supervised) : el("p", { class: "what", text: "The trained router is another one by now." }))),
      facts(decision, completion, nearest));
  }
}

/** The best arms and the chosen one: mean ± width on an axis, and the score that decided. */
function scores(all, chosen, supervised) {
  const arms = all.filter(({ arm }, at) => at < MOST || arm === chosen);
  const ends = arms.flatMap(({ mean, width, score }) => [mean - width, mean + width, score]);
  const low = Math.min(0, ...ends), high = Math.max(1, ...ends);
  const place = (value) => PAD + ((value - low) / (high - low)) * (WIDTH - 2 * PAD);
  return el("table", { class: "scores" },
    el("thead", {}, el("tr", {}, ...["Arm", "Mean ± width", "", "Wait", "Score"].map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...arms.map((one) => el("tr", { class: one.arm === chosen ? "chosen" : null },
      el("th", { scope: "row" }, swatch(one.arm), one.arm, one.arm === supervised ? el("span", { class: "badge", title: "what the supervised router would choose", text: "supervised" }) : null),
      el("td", { class: "number", text: `${rate(one.mean)} ± ${rate(one.width)}` }),
      el("td", {}, whisker(one, place)),
      el("td", { class: "number", text: one.cost_ms ? `${Math.round(one.cost_ms)} ms` : "–" }),
      el("td", { class: "number", text: one.score.toFixed(3) })))));
}

function whisker({ arm, mean, width, score }, place) {
  const y = ROW / 2, colour = armColour(arm);
  return svg("svg", { class: "forest", viewBox: `0 0 ${WIDTH} ${ROW}`, width: WIDTH, height: ROW, "aria-hidden": "true" },
    svg("line", { class: "rule", x1: place(0), x2: place(1), y1: y, y2: y }),
    svg("line", { stroke: colour, "stroke-width": 3, x1: place(mean - width), x2: place(mean + width), y1: y, y2: y }),
    svg("circle", { fill: colour, cx: place(mean), cy: y, r: 4 }),
    svg("line", { class: "tick", x1: place(score), x2: place(score), y1: 3, y2: ROW - 3 }));
}

function facts(decision, completion, nearest) {
  const like = nearest.map(([label, distance]) => `${label} (${distance.toFixed(2)})`).join(", ");
  const said = [
    ["Most like, of the supervised examples", like],
    ["Decision", decision.id],
    ["When", new Date(decision.time * 1000).toLocaleString()],
    ["Policy", `${decision.policy}, version ${decision.policy_version}, ${decision.mode}`],
    ["Propensity", decision.propensity.toFixed(4)],
    ["Task", decision.task],
    ["Episode", decision.episode && `${decision.episode}, step ${decision.step?.number ?? "?"}`],
    ["Tenant", decision.tenant],
    ["Adapters", Object.entries(decision.adapters).map(([name, hash]) => `${name} (${hash.slice(0, 8)})`).join(", ")],
    ["Answer", completion && `${completion.completion_tokens} tokens in ${duration(completion.latency_ms / 1000)}`],
  ];
  return el("dl", { class: "facts" }, ...said.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))));
}
