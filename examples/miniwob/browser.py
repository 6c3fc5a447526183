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

_PLAY: Final = """
const [seed, selector, aim, SIDE, BAR] = arguments;
const start = () => { %(start)s };
const all = () => [...document.querySelectorAll(selector)];
start();
const wins = all().map((_, index) => {
    start();
    all()[index].dispatchEvent(new MouseEvent('click', {bubbles: true}));
    return WOB_DONE_GLOBAL && WOB_RAW_REWARD_GLOBAL == 1;
});
start();
const answers = all().filter((_, index) => wins[index]);
const area = e => {
    const r = e.getBoundingClientRect();
    const [x0, y0, x1, y1] = [r.left, r.top - BAR, r.right, r.bottom - BAR];
    return [Math.max(0, x0), Math.max(0, y0), Math.min(SIDE, x1), Math.min(SIDE, y1)];
};
const hits = (e, x, y) => e.contains(document.elementFromPoint(x + .5, y + .5 + BAR));
const runs = e => {
    const [x0, y0, x1, y1] = area(e).map((v, i) => i < 2 ? Math.floor(v) : Math.ceil(v)), out = [];
    for (let y = y0; y < y1; y++) {
        let from = -1;
        for (let x = x0; x <= x1; x++) {
            const hit = x < x1 && hits(e, x, y);
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
        self._play = _PLAY % {"start": _START, "scene": family.scene}

    def play(self, seed: int) -> Played:
        """Start the seed, ask the page for its answers by clicking each candidate, photograph the fresh screen."""
        family = self._family
        said: dict[str, Any] = self._driver.execute_script(self._play, seed, family.candidates, family.aim, SIDE, BAR)
        answers = [(answer["aim"], answer["runs"]) for answer in said["answers"]]
        scene = [(label, box) for label, box in said["scene"]]
        return Played(said["instruction"], answers, scene, self._photograph())

    def reward(self, seed: int, x: float, y: float) -> float:
        """Raw reward of a real mouse click at pixel (x, y) of the task area on a fresh start of the seed."""
        self._driver.execute_script(f"const seed = arguments[0]; {_START}", seed)
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, x, y + BAR, button="left", clickCount=1)
        self._mouse("mouseMoved", 0, 0)
        return float(self._driver.execute_script("return WOB_RAW_REWARD_GLOBAL"))

    def _mouse(self, kind: str, x: float, y: float, **more: str | int) -> None:
        self._driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})

    def _photograph(self) -> bytes:
        clip = {"x": 0, "y": BAR, "width": SIDE, "height": SIDE, "scale": 1}
        shot = self._driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "clip": clip})
        return base64.b64decode(shot["data"])


@contextlib.contextmanager
def open_page(family: Family, chromium: str, chromedriver: str) -> Iterator[Page]:
    """Open the family's page from the miniwob package in a browser of its own, closed on leaving."""
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in _FLAGS:
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(chromedriver))
    try:
        html = Path(str(files("miniwob"))) / "html" / "miniwob" / f"{family.name}.html"
        driver.get(html.as_uri())
        yield Page(driver, family)
    finally:
        driver.quit()
