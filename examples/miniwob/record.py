"""Record MiniWoB++ screens with Chromium: training screens for every family and the held-out episodes."""

import logging
import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Final

import typer

from examples.miniwob.browser import Page, open_page
from examples.miniwob.episodes import to_pixel
from examples.miniwob.families import FAMILIES, KEPT, Family
from examples.miniwob.paths import DATA, EPISODES
from examples.miniwob.reporting import log_to, progress_bar
from examples.miniwob.screens import Played, Screen, read_screens, to_episode, to_screen

CHUNK: Final = 250
"""Seeds a job: one browser, one file, and the most work that a kill can lose."""
HELD_OUT: Final = 1_000_000
"""First seed of the held-out episodes; training seeds count from 0."""
EPISODES_A_FAMILY: Final = 270
"""Held-out seeds."""
VALIDATION: Final = 60
"""The first held-out seeds of a family, for choices made while training: they are not published."""
SPARE: Final = 20
"""Held-out seeds beyond those, in place of any whose reward a real click does not confirm."""

Spot = tuple[float, float]
"""x, y in pixels of the task area."""

log = logging.getLogger("record")
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Job:
    """Seeds first..first+count of one family into one file; `verify` really clicks every answer, too."""

    family: str
    first: int
    count: int
    verify: bool
    chromium: str
    chromedriver: str

    @property
    def path(self) -> Path:
        """Where the job's screens go; the file exists only once the job is done."""
        folder = "held-out" if self.verify else "screens"
        return DATA / folder / self.family / f"{self.first:08d}.jsonl"

    def run(self) -> int:
        """Record the job; returns how many of its seeds gave no usable screen."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        kept: set[int] = set()
        with open_page(FAMILIES[self.family], self.chromium, self.chromedriver) as page, part.open("w") as file:
            for screen in self._screens(page):
                file.write(screen.to_json() + "\n")
                kept.add(screen.seed)
        part.rename(self.path)
        return self.count - len(kept)

    def _screens(self, page: Page) -> Iterator[Screen]:
        for seed in range(self.first, self.first + self.count):
            yield from play(page, FAMILIES[self.family], seed, self.verify)


def play(page: Page, family: Family, seed: int, verify: bool) -> list[Screen]:
    """A screen for each step of the seed, the right click made in between.

    Empty where a step has no answer inside the picture or where, if `verify`, a real click does not earn the reward.
    """
    page.start(seed)
    played: list[Played] = []
    screens: list[Screen] = []
    for step in range(len(family.steps)):
        if screens:
            page.click(*_pixel(screens[-1]))
        played.append(page.look(seed, step))
        screen = to_screen(seed, step + 1, played[-1])
        if screen is None:
            return []
        screens.append(screen)
    return screens if not verify or _really_pays(page, family, seed, played, screens) else []


def _pixel(screen: Screen) -> Spot:
    return to_pixel(screen.click[0]), to_pixel(screen.click[1])


def _really_pays(page: Page, family: Family, seed: int, played: list[Played], screens: list[Screen]) -> bool:
    """Whether real clicks earn the goal at the screens' own clicks and at one random pixel of every answer."""
    own = [_pixel(screen) for screen in screens]
    ways = [own]
    for step, one in enumerate(played):
        ways += [[*own[:step], spot, *own[step + 1 :]] for spot in _random_spots(one, random.Random(seed))]
    return all(_earned(page, seed, way) >= family.goal for way in ways)


def _random_spots(played: Played, chance: random.Random) -> Iterator[Spot]:
    """The middle of a random clickable pixel of every answer."""
    for _, runs in played.answers:
        if runs:
            y, x0, x1 = chance.choice(runs)
            yield chance.randrange(x0, x1) + 0.5, y + 0.5


def _earned(page: Page, seed: int, spots: list[Spot]) -> float:
    page.start(seed)
    for spot in spots:
        page.click(*spot)
    return page.reward()


def publish(family: Family) -> int:
    """Write the family's held-out screens, all but those to validate on; returns how many."""
    steps = len(family.steps)
    screens = read_screens(DATA / "held-out" / family.name, EPISODES_A_FAMILY * steps)[VALIDATION * steps :]
    lines = [to_episode(family.name, screen).to_json() + "\n" for screen in screens]
    EPISODES.mkdir(exist_ok=True)
    part = EPISODES / f"{family.name}.part"
    part.write_text("".join(lines), encoding="utf-8")
    part.rename(EPISODES / f"{family.name}.jsonl")
    return len(lines)


def _jobs(families: list[str], chromium: str, chromedriver: str) -> list[Job]:
    """Every job that is not done yet: the held-out ones first, then a chunk of every family in turn."""
    jobs = [Job(family, HELD_OUT, EPISODES_A_FAMILY + SPARE, True, chromium, chromedriver) for family in families]
    chunks = [(first, family) for family in families for first in range(0, FAMILIES[family].screens, CHUNK)]
    jobs += [Job(family, first, CHUNK, False, chromium, chromedriver) for first, family in sorted(chunks)]
    return [job for job in jobs if not job.path.exists()]


@app.command()
def record(
    families: Annotated[str, typer.Option(help="Comma-separated families.")] = ",".join(FAMILIES),
    browsers: Annotated[int, typer.Option(help="Browsers at a time.")] = 2,
    chromium: Annotated[str, typer.Option(help="Chromium's binary.")] = "/usr/bin/chromium",
    chromedriver: Annotated[str, typer.Option(help="Its WebDriver.")] = "/usr/bin/chromedriver",
) -> None:
    """Record what is missing; run it again after a kill and it goes on."""
    log_to("record")
    names = families.split(",")
    jobs = _jobs(names, chromium, chromedriver)
    pool = ProcessPoolExecutor(browsers, mp_context=get_context("spawn"))
    with pool, progress_bar("recording", len(jobs)) as advance:
        running = {pool.submit(job.run): job for job in jobs}
        for done in as_completed(running):
            job = running[done]
            log.info("%s from seed %d: %d of %d dropped", job.family, job.first, done.result(), job.count)
            advance()
    for name in set(names) & set(KEPT):
        log.info("%s: %d held-out screens", name, publish(FAMILIES[name]))


if __name__ == "__main__":
    app()
