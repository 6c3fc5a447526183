// Elements, and numbers as people read them.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties (`class`, `text`, `on…`, attributes) and children. */
export function el(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** The same, inside an <svg>. */
export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

function fill(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "css") for (const [rule, how] of Object.entries(value)) node.style.setProperty(rule, how);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const byId = (id) => document.getElementById(id);

/**
 * Let a node have `children`. What is there already is changed in place, children with `data-key` by their key: so focus,
 * selection and a click under way survive. Whoever listens must listen at the node itself.
 */
export function show(node, ...children) {
  const fresh = document.createDocumentFragment();
  fresh.append(...children.filter(Boolean));
  takeChildren(node, fresh);
}

function take(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (name !== "style" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.style.cssText !== fresh.style.cssText) old.style.cssText = fresh.style.cssText;
  takeChildren(old, fresh);
}

function takeChildren(old, fresh) {
  const keyed = new Map([...old.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  let next = old.firstChild;
  for (const child of [...fresh.childNodes]) {
    const key = child.dataset?.key;
    const match = key ? keyed.get(key) : next?.nodeName === child.nodeName && !next.dataset?.key && next;
    if (!match) {
      old.insertBefore(child, next);
      continue;
    }
    if (match === next) next = next.nextSibling;
    else old.insertBefore(match, next);
    take(match, child);
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

export const rate = (value) => (known(value) ? value.toFixed(2).replace("-", "−") : "–");
export const percent = (value) => (known(value) ? `${Math.round(100 * value)}%` : "–");
export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : "–");
export const signed = (value) => (known(value) ? `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}` : "–");
export const interval = (ends, text = rate) => (ends ? `${text(ends[0])} – ${text(ends[1])}` : "");

/** Seconds as a length of time. */
export function duration(seconds) {
  if (!known(seconds)) return "–";
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, unit] = units.find(([size]) => seconds >= 1.5 * size) ?? [0.001, "ms"];
  const value = seconds / size;
  return `${value < 9.95 && unit !== "ms" ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

/** How long ago a moment (unix s) was. */
export const ago = (time, now) => (now - time < 2 ? "now" : `${duration(now - time)} ago`);

/** 95% interval of a mean of n rewards in [0, 1] that sum to `total` (Wilson 1927). */
export function wilson(total, n) {
  if (!n) return null;
  const z2 = 1.959963984540054 ** 2, mean = Math.min(1, Math.max(0, total / n));
  const centre = (mean + z2 / (2 * n)) / (1 + z2 / n);
  const half = (Math.sqrt(z2) / (1 + z2 / n)) * Math.sqrt((mean * (1 - mean)) / n + z2 / (4 * n * n));
  return [Math.max(0, centre - half), Math.min(1, centre + half)];
}
