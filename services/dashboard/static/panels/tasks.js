// Which arm serves which task: shares of a task's requests, and their success.

import { count, el, percent, rate, show } from "../dom.js";

const MOST_ARMS = 14, MOST_TASKS = 16;
const UNTAGGED = "no tag", OTHERS = "others";

export function drawTasks(node, { buckets }) {
  const cells = buckets.flatMap((bucket) => bucket.cells).filter(({ requests }) => requests);
  if (!cells.length) return show(node, el("p", { class: "empty", text: "No requests in this time." }));
  const arms = ranked(cells, "arm", MOST_ARMS), tasks = ranked(cells, "task", MOST_TASKS).sort();
  const table = new Map();
  for (const { task, arm, requests, rewarded, reward } of cells) {
    const key = JSON.stringify([named(tasks, task), named(arms, arm)]);
    const sums = table.get(key) ?? { requests: 0, rewarded: 0, reward: 0 };
    table.set(key, { requests: sums.requests + requests, rewarded: sums.rewarded + rewarded, reward: sums.reward + reward });
  }
  const columns = order(arms, cells, "arm"), rows = order(tasks, cells, "task");
  const get = (task, arm) => table.get(JSON.stringify([task, arm]));
  return show(node, el("table", { class: "tasks" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "Task" }), el("th", { scope: "col", class: "number", text: "Requests" }),
      ...columns.map((arm) => el("th", { scope: "col", class: "upright" }, el("span", { text: arm }))))),
    el("tbody", {}, ...rows.map((task) => row(task, columns, get)))));
}

function row(task, arms, get) {
  const all = arms.reduce((sum, arm) => sum + (get(task, arm)?.requests ?? 0), 0);
  return el("tr", { "data-key": `task ${task}` }, el("th", { scope: "row", text: task || UNTAGGED }), el("td", { class: "number", text: count(all) }),
    ...arms.map((arm) => cell(task, arm, get(task, arm), all)));
}

function cell(task, arm, sums, all) {
  if (!sums) return el("td", { class: "cell" }, el("span", { class: "hidden", text: "none" }));
  const share = sums.requests / all, success = sums.rewarded ? sums.reward / sums.rewarded : NaN;
  const title = `${task || UNTAGGED} → ${arm}: ${count(sums.requests)} requests, success ${rate(success)} of ${count(sums.rewarded)} rewards`;
  return el("td", { class: "cell", title, css: { "--share": share.toFixed(3) } },
    el("b", { text: percent(share) }), el("small", { text: rate(success) }));
}

function ranked(cells, of, most) {
  const totals = new Map();
  for (const cell of cells) totals.set(cell[of], (totals.get(cell[of]) ?? 0) + cell.requests);
  return [...totals].sort((one, other) => other[1] - one[1]).slice(0, most).map(([name]) => name);
}

const named = (names, name) => (names.includes(name) ? name : OTHERS);
const order = (names, cells, of) => (cells.some((cell) => !names.includes(cell[of])) ? [...names, OTHERS] : names);
