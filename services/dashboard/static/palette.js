// Colours that most people can tell apart (after Okabe and Ito), in light and dark.

const ARMS = {
  light: ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7c6a00", "#5b4a9e"],
  dark: ["#4fa3e0", "#f2b134", "#2fc495", "#e29cc3", "#9bd5f7", "#ff8a4c", "#c9b84a", "#a79bea"],
};
const REST = { light: "#b4bbc4", dark: "#5d6875" };
const FATES = {
  light: { success: "#0072b2", failure: "#d55e00", waiting: "#c3cad3", unanswered: "#e69f00", dropped: "#6b7480" },
  dark: { success: "#4fa3e0", failure: "#ff8a4c", waiting: "#4a545f", unanswered: "#f2b134", dropped: "#8a949f" },
};
const THEME = "pointsman-theme";

const probe = document.documentElement.appendChild(document.createElement("span"));
let order = [];

/** "light" or "dark": what was chosen here, else what the system prefers. */
export function theme() {
  const chosen = localStorage.getItem(THEME);
  return chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

export function applyTheme() {
  document.documentElement.dataset.theme = theme();
}

export function switchTheme() {
  localStorage.setItem(THEME, theme() === "dark" ? "light" : "dark");
  applyTheme();
}

/** Give colours to the arms that are pulled most; an arm keeps its colour while the page is open. */
export function rankArms(arms) {
  const named = arms.map((arm) => arm.arm);
  order = order.filter((arm) => named.includes(arm));
  const pulled = arms.filter((arm) => arm.pulls && !order.includes(arm.arm)).map((arm) => arm.arm);
  order.push(...pulled.slice(0, ARMS.light.length - order.length));
}

/** Arms with a colour of their own. */
export const coloured = () => order;

export const armColour = (arm) => ARMS[theme()][order.indexOf(arm)] ?? REST[theme()];
export const restColour = () => REST[theme()];
export const fateColour = (fate) => FATES[theme()][fate];

/** What a colour of the style sheet comes to now. */
export function ink(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color;
}
