"""A headless Chromium that plays one MiniWoB++ page: start a seed, photograph it, find the answer, really click."""

import base64
import contextlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from examples.miniwob.families import Family
from examples.miniwob.screens import Played

SIDE: Final = 160
"""Width and height of the task area, in pixels."""
BAR: Final = 50
"""Height of the instruction bar above it, in pixels."""

_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
    "--window-size=500,400",
)

_START: Final = "core.endEpisode(0); Math.seedrandom(seed); core.startEpisodeReal();"
_AT_ONCE: Final = "if (window.jQuery) jQuery.fx.off = true;"
"""Pages that move things after a click show where they end at once."""
_PATIENT: Final = "core.EPISODE_MAX_TIME = 3600 * 1000;"
"""Milliseconds until a page gives an episode up; its own ten seconds are short for a model on a busy machine."""

_ASK: Final = """
const [seed, selector, aim, single, SIDE, BAR] = arguments;
const start = () => { %(start)s };
const all = () => [...document.querySelectorAll(selector)];
const wins = all().map((_, index) => {
    if (!single) return true;
    start();
    all()[index].dispatchEvent(new MouseEvent('click', {bubbles: true}));
    return WOB_DONE_GLOBAL && WOB_RAW_REWARD_GLOBAL == 1;
});
if (single) start();
const answers = all().filter((_, index) => wins[index]);
const area = e => {
    const r = e.getBoundingClientRect();
    const [x0, y0, x1, y1] = [r.left, r.top - BAR, r.right, r.bottom - BAR];
    return [Math.max(0, x0), Math.max(0, y0), Math.min(SIDE, x1), Math.min(SIDE, y1)];
};
const counts = (e, x, y) => { %(counts)s };
const hits = (e, x, y) => e.contains(document.elementFromPoint(x, y)) && counts(e, x, y);
const runs = e => {
    const [x0, y0, x1, y1] = area(e).map((v, i) => i < 2 ? Math.floor(v) : Math.ceil(v)), out = [];
    for (let y = y0; y < y1; y++) {
        let from = -1;
        for (let x = x0; x <= x1; x++) {
            const hit = x < x1 && hits(e, x + .5, y + .5 + BAR);
            if (hit && from < 0) from = x;
            if (!hit && from >= 0) { out.push([y, from, x]); from = -1; }
        }
    }
    return out;
};
const scene = (answers => { %(scene)s })(answers);
const said = core.getUtterance();
return {
    instruction: (said.utterance ?? said).trim(),
    answers: answers.map(e => ({aim: area((aim && e.querySelector(aim)) || e), runs: runs(e)})),
    scene: scene.map(([label, e]) => [label, area(e)]),
};
"""


class Page:
    """One family's page in one browser; use `open_page`."""

    def __init__(self, driver: Chrome, family: Family) -> None:
        self._driver = driver
        self._family = family
        self._driver.execute_script(_AT_ONCE + _PATIENT)

    def start(self, seed: int) -> None:
        """Start the seed's episode afresh."""
        self._driver.execute_script(f"const seed = arguments[0]; {_START}", seed)

    def look(self, seed: int, step: int) -> Played:
        """Ask the page, which must be at this step (0-based) of the seed, for its answers; photograph it.

        Where the task is a single click each candidate is clicked on a fresh start of the seed, and the page judges.
        """
        asked, single = self._family.steps[step], len(self._family.steps) == 1
        script = _ASK % {"start": _START, "scene": asked.scene, "counts": asked.counts}
        said: dict[str, Any] = self._driver.execute_script(script, seed, asked.candidates, asked.aim, single, SIDE, BAR)
        answers = [(answer["aim"], answer["runs"]) for answer in said["answers"]]
        scene = [(label, box) for label, box in said["scene"]]
        return Played(said["instruction"], answers, scene, self.photograph())

    def click(self, x: float, y: float) -> None:
        """A real mouse click at pixel (x, y) of the task area; the mouse leaves it at once."""
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, x, y + BAR, button="left", clickCount=1)
        self._mouse("mouseMoved", 0, 0)

    def instruction(self) -> str:
        """What the episode asks for."""
        said: str = self._driver.execute_script("const said = core.getUtterance(); return said.utterance ?? said;")
        return said.strip()

    def is_done(self) -> bool:
        """Whether the page has ended the episode."""
        return bool(self._driver.execute_script("return WOB_DONE_GLOBAL"))

    def reward(self) -> float:
        """Raw reward of the episode so far: 0 until it ends, never decayed by time."""
        return float(self._driver.execute_script("return WOB_RAW_REWARD_GLOBAL"))

    def photograph(self) -> bytes:
        """The task area as a PNG."""
        clip = {"x": 0, "y": BAR, "width": SIDE, "height": SIDE, "scale": 1}
        shot = self._driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
        return base64.b64decode(shot["data"])

    def _mouse(self, kind: str, x: float, y: float, **more: str | int) -> None:
        self._driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})


@contextlib.contextmanager
def open_page(family: Family, chromium: str, chromedriver: str) -> Iterator[Page]:
    """Open the family's page from the miniwob package in a browser of its own, closed on leaving."""
    with open_browser(chromium, chromedriver) as driver:
        yield visit(driver, family)


@contextlib.contextmanager
def open_browser(chromium: str, chromedriver: str) -> Iterator[Chrome]:
    """A browser without a window, closed on leaving."""
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in _FLAGS:
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


def visit(driver: Chrome, family: Family) -> Page:
    """Go to the family's page, from the miniwob package."""
    html = Path(str(files("miniwob"))) / "html" / "miniwob" / f"{family.name}.html"
    driver.get(html.as_uri())
    return Page(driver, family)
