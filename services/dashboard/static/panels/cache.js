// Which replica holds which adapter where, and how often one had to be brought in.

import { count, el, percent, show } from "../dom.js";
import { swatch } from "./arms.js";

const MOST = 24;
const COLUMNS = [
  ["Replica"],
  ["Pages in use", "number", "Pages on the device that hold adapters"],
  ["On the device"],
  ["In host memory", "number", "Read from disk already; they need a copy to the device"],
  ["Found there", "number", "Of the requests that wanted an adapter: how often it was on the device already"],
  ["Page-ins", "number", "How often an adapter was brought to the device, and the latest median · 99% of its duration"],
  ["Made to leave", "number"],
  ["Waiting", "number", "Requests that wait for an adapter"],
];

export function drawCaches(node, caches) {
  if (!caches) return show(node, el("p", { class: "empty", text: "The replicas do not answer." }));
  return show(node, el("table", { class: "caches" },
    el("thead", {}, el("tr", {}, ...COLUMNS.map(([text, kind, title]) => el("th", { scope: "col", class: kind, title, text })))),
    el("tbody", {}, ...caches.map(row))));
}

function row(cache) {
  const used = cache.pages - cache.free, asked = cache.hits + cache.misses;
  const { p50, p99 } = cache.page_in_ms;
  return el("tr", { "data-key": cache.replica },
    el("th", { scope: "row", title: cache.replica, text: cache.replica.slice(0, 8) }),
    el("td", { class: "number" }, el("meter", { class: "small", min: 0, max: cache.pages, value: used, "aria-label": "pages in use" }), ` ${count(used)} of ${count(cache.pages)}`),
    el("td", { class: "chips" }, ...cache.device.slice(0, MOST).map(chip), cache.device.length > MOST ? ` and ${count(cache.device.length - MOST)} more` : null,
      ...Object.entries(cache.broken).map(lost)),
    el("td", { class: "number", title: cache.host.slice(0, MOST).join(", "), text: `${count(cache.host.length)} · ${megabytes(cache.host_bytes)}` }),
    el("td", { class: "number", text: asked ? percent(cache.hits / asked) : "–" }),
    el("td", { class: "number" }, count(cache.page_ins), el("small", { text: p50 === null ? "" : ` · ${milliseconds(p50)} · ${milliseconds(p99)}` })),
    el("td", { class: "number", title: reasons(cache.evictions), text: count(Object.values(cache.evictions).reduce((sum, n) => sum + n, 0)) }),
    el("td", { class: "number", text: count(cache.waiting) }));
}

function chip({ name, pages, pins, ready, kept, outdated }) {
  const title = `${name}: ${count(pages.length)} pages, held by ${count(pins)} requests${kept ? ", kept by an operator" : ""}${ready ? "" : ", on its way"}${outdated ? ", an older version" : ""}`;
  return el("span", { class: `chip${ready && !outdated ? "" : " passing"}`, title }, swatch(name), name, pins ? el("small", { text: ` ${count(pins)}` }) : null);
}

function lost([name, why]) {
  return el("span", { class: "chip bad", title: `${name} cannot be loaded: ${why}` }, swatch(name), name);
}

const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
const megabytes = (bytes) => `${bytes < 1e7 ? (bytes / 1e6).toFixed(1) : count(bytes / 1e6)} MB`;
const reasons = (evictions) => Object.entries(evictions).map(([reason, n]) => `${reason}: ${count(n)}`).join(", ");
