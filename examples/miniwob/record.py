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
from examples.miniwob.episodes import Episode, to_pixel
from examples.miniwob.families import FAMILIES, KEPT
from examples.miniwob.paths import DATA, EPISODES
from examples.miniwob.reporting import log_to, progress_bar
from examples.miniwob.screens import Played, Screen, read_screens, to_screen

CHUNK: Final = 250
"""Seeds a job: one browser, one file, and the most work that a kill can lose."""
HELD_OUT: Final = 1_000_000
"""First seed of the held-out episodes; training seeds count from 0."""
EPISODES_A_FAMILY: Final = 250
VALIDATION: Final = 60
"""The first held-out screens of a family, for choices made while training: they are not published."""
SPARE: Final = 20
"""Held-out seeds beyond those, in place of any whose reward a real click does not confirm."""

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
        kept = 0
        with open_page(FAMILIES[self.family], self.chromium, self.chromedriver) as page, part.open("w") as file:
            for screen in self._screens(page):
                file.write(screen.to_json() + "\n")
                kept += 1
        part.rename(self.path)
        return self.count - kept

    def _screens(self, page: Page) -> Iterator[Screen]:
        for seed in range(self.first, self.first + self.count):
            played = page.play(seed)
            screen = to_screen(seed, played)
            if screen is not None and (not self.verify or _really_pays(page, seed, played, screen)):
                yield screen


def _really_pays(page: Page, seed: int, played: Played, screen: Screen) -> bool:
    """Whether real clicks earn 1 at the screen's own click and at one random pixel of every answer."""
    chance = random.Random(seed)
    spots = [(to_pixel(screen.click[0]), to_pixel(screen.click[1]))]
    for _, runs in played.answers:
        if runs:
            y, x0, x1 = chance.choice(runs)
            spots.append((chance.randrange(x0, x1) + 0.5, y + 0.5))
    return all(page.reward(seed, x, y) == 1 for x, y in spots)


def publish(family: str) -> int:
    """Write the family's held-out episodes, all but those to validate on; returns how many."""
    screens = read_screens(DATA / "held-out" / family, EPISODES_A_FAMILY)[VALIDATION:]
    lines = [
        Episode(f"{family}/{s.seed}", family, s.seed, s.instruction, s.image, s.boxes).to_json() + "\n" for s in screens
    ]
    EPISODES.mkdir(exist_ok=True)
    part = EPISODES / f"{family}.part"
    part.write_text("".join(lines), encoding="utf-8")
    part.rename(EPISODES / f"{family}.jsonl")
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
        log.info("%s: %d held-out episodes", name, publish(name))


if __name__ == "__main__":
    app()
