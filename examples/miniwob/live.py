"""Live episodes: real pages in Chromium, played through the service, rewarded by the pages themselves."""

import asyncio
import base64
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from examples.miniwob.episodes import chat_messages, parse_click, to_pixel
from examples.miniwob.families import FAMILIES, Family
from examples.miniwob.screens import shrink
from examples.miniwob.traffic import Agents

if TYPE_CHECKING:
    from examples.miniwob.browser import Page

T = TypeVar("T")
_FRESH: Final = 2_000_000
"""First seed of live episodes: beyond those of the recorded screens."""
_SEEDS: Final = 1 << 31


class LiveTask(NamedTuple):
    """One episode to play."""

    phase: str
    family: str
    seed: int


class Played(NamedTuple):
    """What became of an episode: the arm of each step, the page's raw reward, and whether that is success."""

    task: LiveTask
    arms: tuple[str, ...]
    reward: float
    success: bool


class NoBrowser(RuntimeError):
    """Chromium or its driver is not there; the message says what to do."""


def fresh(phases: Mapping[str, tuple[list[str], int]], seed: int) -> list[LiveTask]:
    """For each phase as many episodes as it says, evenly over its families, on seeds that nobody has recorded."""
    chance = random.Random(seed)
    tasks = []
    for phase, (families, n) in phases.items():
        named = [families[i % len(families)] for i in range(n)]
        chance.shuffle(named)
        tasks += [LiveTask(phase, family, chance.randrange(_FRESH, _SEEDS)) for family in named]
    return tasks


def find_browser() -> tuple[str, str]:
    """Paths of Chromium and of its driver. Raises NoBrowser."""
    if absent := [package for package in ("selenium", "miniwob") if find_spec(package) is None]:
        raise NoBrowser(f"--live needs {' and '.join(absent)}: `make demo ARGS=--live` installs them")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        missing = "chromedriver" if chromium else "chromium"
        raise NoBrowser(f"--live plays real pages, but there is no {missing} (Debian: chromium and chromium-driver)")
    return chromium, driver


async def play(
    tasks: list[LiveTask],
    agents: Agents,
    players: int,
    progress: Callable[[LiveTask, bool], None],
    meanwhile: Mapping[int, Callable[[], Awaitable[object]]],
) -> list[Played]:
    """Every episode, `players` browsers at a time; when this returns, every reward has been posted.

    `meanwhile` is done before the episode of that number begins, while earlier ones are under way.
    """
    chromium, driver = find_browser()
    queue = iter(enumerate(tasks))
    played: dict[int, Played] = {}

    async def work() -> None:
        async with _browsing(agents, chromium, driver) as player:
            for number, task in queue:
                if number in meanwhile:
                    await meanwhile[number]()
                played[number] = await player.play(task)
                progress(task, played[number].success)

    await asyncio.gather(*[work() for _ in range(players)])
    await agents.say_all()
    return [played[number] for number in sorted(played)]


class Player:
    """One browser, driven from a thread of its own: looks, asks, clicks, until the page ends the episode."""

    def __init__(
        self, agents: Agents, run: Callable[[Callable[[], Any]], Awaitable[Any]], visit: Callable[[Family], "Page"]
    ) -> None:
        self._agents = agents
        self._run = run
        self._visit = visit

    async def play(self, task: LiveTask) -> Played:
        """Play one episode, and say later how it went. An answer that calls for no click ends it unrewarded."""
        family, episode = FAMILIES[task.family], f"{task.family}-{task.seed}"
        page: Page = await self._run(partial(self._visit, family))
        await self._run(partial(page.start, task.seed))
        arms: list[str] = []
        while len(arms) <= len(family.steps) and not await self._run(page.is_done):
            if not await self._step(page, family, episode, arms):
                break
        raw = await self._run(page.reward)
        await self._agents.judge(episode_id=episode, reward=min(max(raw, 0.0), 1.0), terminated=True)
        return Played(task, tuple(arms), raw, raw >= family.goal)

    async def _step(self, page: "Page", family: Family, episode: str, arms: list[str]) -> bool:
        """Ask for the current screen and click where the answer says; False where it calls for no click."""
        screen = base64.b64encode(shrink(await self._run(page.photograph))).decode()
        instruction = await self._run(page.instruction)
        answer = await self._agents.ask(chat_messages(screen, instruction), family.name, episode)
        arms.append(answer.model_extra["routing"]["arm"])
        click = parse_click(answer.choices[0].message.content or "")
        if click:
            await self._run(partial(page.click, to_pixel(click[0]), to_pixel(click[1])))
        return click is not None


@contextlib.asynccontextmanager
async def _browsing(agents: Agents, chromium: str, chromedriver: str) -> AsyncIterator[Player]:
    from examples.miniwob.browser import open_browser, visit  # needs Selenium

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "browser") as thread, contextlib.ExitStack() as stack:

        async def run(work: Callable[[], T]) -> T:
            return await loop.run_in_executor(thread, work)

        browser = await run(lambda: stack.enter_context(open_browser(chromium, chromedriver)))
        try:
            yield Player(agents, run, partial(visit, browser))
        finally:
            await run(stack.close)
