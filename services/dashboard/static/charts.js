// Charts over time: a line with its interval, and stacked bars. Each can also be read as a table.

import uPlot from "./vendor/uplot/uPlot.esm.js";
import { el, show } from "./dom.js";
import { ink } from "./palette.js";

const HEIGHT = 210;
const TABLE_ROWS = 12;

class Chart {
  constructor(node) {
    this.legend = el("ul", { class: "legend" });
    this.plot = el("div", { class: "plot", role: "img" });
    this.tip = el("div", { class: "tip", "aria-hidden": "true" });
    this.table = el("div", { class: "scroll" });
    this.values = el("details", { class: "values", ontoggle: () => this.fillTable() }, el("summary", { text: "As a table" }), this.table);
    this.empty = el("p", { class: "empty", text: "No requests in this time." });
    node.replaceChildren(this.legend, this.plot, this.empty, this.values);
    new ResizeObserver(() => this.uplot?.setSize({ width: this.plot.clientWidth, height: HEIGHT })).observe(this.plot);
  }

  /** Draw `series` [{label, colour, values, …}] at `times`; a new shape makes a new plot, new values are only set. */
  draw(times, series, summary, span) {
    this.times = times;
    this.series = series;
    this.span = span;
    this.plot.setAttribute("aria-label", summary);
    this.plot.hidden = !times.length;
    this.empty.hidden = Boolean(times.length);
    if (times.length) {
      const shape = JSON.stringify([series.map(({ label, colour }) => [label, colour]), ink("line"), span]);
      if (shape === this.shape) this.uplot.setData(this.data());
      else this.make(shape);
    }
    show(this.legend, ...this.marks().map(([label, colour, kind]) =>
      el("li", {}, el("span", { class: kind, css: { background: colour } }), label)));
    this.fillTable();
  }

  make(shape) {
    this.shape = shape;
    this.uplot?.destroy();
    const axis = { stroke: ink("soft"), grid: { stroke: ink("line"), width: 1 }, ticks: { stroke: ink("line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const options = {
      width: this.plot.clientWidth || 400,
      height: HEIGHT,
      legend: { show: false },
      padding: [8, 12, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      hooks: { setCursor: [(plot) => this.showTip(plot)] },
      scales: { x: { range: (_, low, high) => [low - this.span, high + this.span] }, ...this.scales() },
      axes: [
        { ...axis, grid: { show: false }, space: 70, size: 32, values: (_, at) => at.map((time) => this.clock(time)) },
        { ...axis, size: 46, ...this.axis() },
      ],
      ...this.shapes(),
    }
    this.uplot = new uPlot(options, this.data(), this.plot);
    this.uplot.over.append(this.tip);
    this.tip.hidden = true;
  }

  clock(time) {
    const date = new Date(time * 1000);
    if (this.span >= 43200) return date.toLocaleDateString([], { day: "numeric", month: "short" });
    const seconds = this.span < 60 ? { second: "2-digit" } : {};
    return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false, ...seconds });
  }

  showTip(plot) {
    const at = plot.cursor.idx;
    this.tip.hidden = at === null || at === undefined || plot.cursor.left < 0;
    if (this.tip.hidden) return;
    const lines = this.said(at).map(([label, value, colour]) =>
      el("div", {}, el("span", { class: "dot", css: { background: colour } }), `${label} `, el("b", { text: value })));
    this.tip.replaceChildren(el("div", { class: "when", text: this.clock(this.times[at]) }), ...lines);
    const left = plot.valToPos(this.times[at], "x"), right = left > plot.over.clientWidth / 2;
    this.tip.style.left = right ? "auto" : `${left + 12}px`;
    this.tip.style.right = right ? `${plot.over.clientWidth - left + 12}px` : "auto";
  }

  fillTable() {
    if (!this.values.open || !this.times) return;
    const rows = this.times.map((_, at) => at).slice(-TABLE_ROWS).reverse();
    const names = rows.length ? this.said(rows[0], true).map(([label]) => label) : [];
    show(this.table, el("table", {},
      el("thead", {}, el("tr", {}, ...["time", ...names].map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, ...rows.map((at) => el("tr", {},
        el("th", { scope: "row", text: this.clock(this.times[at]) }),
        ...this.said(at, true).map(([, value]) => el("td", { class: "number", text: value })))))));
  }
}

/** A mean over time, with its interval as a band. `range` are the ends of the axis, either may be null. */
export class IntervalChart extends Chart {
  constructor(node, { text, range, line = null }) {
    super(node);
    this.text = text;
    this.range = range;
    this.line = line;
  }

  data() {
    const [{ values, low, high }] = this.series;
    return [this.times, low, high, values, this.times.map(() => this.line)];
  }

  marks() {
    const [{ label, colour, soft }] = this.series;
    return [[label, colour, "stroke"], ["95% interval", soft, "area"]];
  }

  scales() {
    return { y: { range: (_, low, high) => [this.range[0] ?? Math.min(0, low) - 0.05, this.range[1] ?? Math.max(0, high) + 0.05] } };
  }

  axis() {
    return { values: (_, at) => at.map((value) => (value < 0 ? `−${Math.abs(value).toFixed(1)}` : value.toFixed(1))), incrs: [0.1, 0.2, 0.5, 1], space: 30 };
  }

  shapes() {
    const [{ colour, soft }] = this.series;
    const hidden = { stroke: "transparent", points: { show: false }, spanGaps: true };
    return {
      series: [{}, hidden, hidden,
        { stroke: colour, width: 2, points: { show: true, size: 5, fill: colour }, spanGaps: true },
        { stroke: ink("soft"), width: 1, dash: [4, 4], points: { show: false } }],
      bands: [{ series: [2, 1], fill: soft }],
    }
  }

  said(at) {
    const [{ label, values, low, high, counts, colour }] = this.series;
    if (values[at] === null) return [[label, "no rewards yet", colour], ["95%", "", "transparent"], ["rewards", "0", "transparent"]];
    const ends = `${this.text(low[at])} – ${this.text(high[at])}`;
    return [[label, this.text(values[at]), colour], ["95%", ends, "transparent"], ["rewards", String(counts[at]), "transparent"]];
  }
}

/** Counts over time, one bar a bucket, its parts on each other. */
export class StackChart extends Chart {
  data() {
    const sums = this.times.map(() => 0);
    const tops = this.series.map(({ values }) => values.map((value, at) => (sums[at] += value)));
    return [this.times, ...tops.reverse()]; // the whole bar first, then what stands in front of its upper parts
  }

  marks() {
    return this.series.map(({ label, colour }) => [label, colour, "area"]);
  }

  scales() {
    return { y: { range: (_, __, high) => [0, Math.max(1, high * 1.05)] } };
  }

  axis() {
    return { values: (_, at) => at.map((value) => (Number.isInteger(value) ? value.toLocaleString("en") : "")), space: 34 };
  }

  shapes() {
    const paths = uPlot.paths.bars({ size: [0.92, 60] });
    const bar = ({ colour }) => ({ fill: colour, stroke: ink("card"), width: 0.5, points: { show: false }, paths });
    return { series: [{}, ...[...this.series].reverse().map(bar)] };
  }

  said(at, all = false) {
    return this.series.filter(({ values }) => all || values[at] > 0)
      .map(({ label, values, colour }) => [label, String(Math.round(values[at] * 10) / 10), colour]);
  }
}
