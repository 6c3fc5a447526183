// The four charts over time.

import { pooled } from "../buckets.js";
import { IntervalChart, StackChart } from "../charts.js";
import { byId, count, rate, signed } from "../dom.js";
import { armColour, coloured, fateColour, ink, restColour } from "../palette.js";

const FATES = [
  ["success", "success", (bucket) => (bucket.success ?? 0) * bucket.rewarded],
  ["failure", "failure", (bucket) => (1 - (bucket.success ?? 0)) * bucket.rewarded],
  ["unanswered", "nobody said", (bucket) => bucket.unanswered],
  ["dropped", "cancelled", (bucket) => bucket.dropped],
  ["waiting", "waiting", (bucket) => bucket.waiting],
];
const OTHERS = "other arms";

export class Courses {
  constructor() {
    this.success = new IntervalChart(byId("success"), { text: rate, range: [0, 1] });
    this.regret = new IntervalChart(byId("regret"), { text: signed, range: [null, null], line: 0 });
    this.served = new StackChart(byId("served"));
    this.outcomes = new StackChart(byId("outcomes"));
  }

  draw(all, shortest) {
    const { buckets, seconds } = pooled(all, shortest);
    const times = buckets.map((bucket) => bucket.start + seconds / 2);
    const last = buckets.findLast((bucket) => bucket.rewarded);
    this.success.draw(times, [mean("success", "success", buckets)],
      last ? `Success over time, last ${rate(last.success)} of ${count(last.rewarded)} rewards` : "Success over time, no rewards yet", seconds);
    this.regret.draw(times, [mean("regret", "regret a request", buckets)],
      last ? `Estimated regret over time, last ${signed(last.regret)} a request` : "Estimated regret over time, no rewards yet", seconds);
    const served = byArm(buckets);
    this.served.draw(times, served, `Requests by arm: ${served.map(({ label, values }) => `${label} ${count(total(values))}`).join(", ")}`, seconds);
    const fates = FATES.map(([fate, label, of]) => ({ label, colour: fateColour(fate), values: buckets.map(of) }));
    this.outcomes.draw(times, fates, `Outcomes: ${fates.map(({ label, values }) => `${label} ${count(total(values))}`).join(", ")}`, seconds);
  }
}

const total = (values) => values.reduce((sum, value) => sum + value, 0);

function mean(name, label, buckets) {
  const ends = (at) => buckets.map((bucket) => bucket[`${name}_interval`]?.[at] ?? null);
  const colour = ink(name);
  return { label, colour, soft: ink(`${name}-soft`), values: buckets.map((bucket) => bucket[name]), low: ends(0), high: ends(1), counts: buckets.map((bucket) => bucket.rewarded) };
}

function byArm(buckets) {
  const arms = coloured();
  const requests = (bucket, fits) => total(bucket.cells.filter(({ arm }) => fits(arm)).map((cell) => cell.requests));
  const series = arms.map((arm) => ({ label: arm, colour: armColour(arm), values: buckets.map((bucket) => requests(bucket, (name) => name === arm)) }));
  const others = buckets.map((bucket) => requests(bucket, (name) => !arms.includes(name)));
  return total(others) ? [...series, { label: OTHERS, colour: restColour(), values: others }] : series;
}
