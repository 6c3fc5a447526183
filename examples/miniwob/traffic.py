"""Recorded tasks as live traffic: sent with the OpenAI client, their outcomes posted late."""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import httpx
from openai import AsyncOpenAI

from examples.miniwob.episodes import Episode

_FEEDBACK_BATCH = 20


class Task(NamedTuple):
    """One request of the schedule."""

    phase: str
    episode: Episode


class Served(NamedTuple):
    """What came back for a task."""

    task: Task
    decision_id: str
    arm: str
    supervised: str
    explored: bool
    success: bool


def schedule(phases: dict[str, Sequence[Episode]], sizes: dict[str, int], seed: int) -> list[Task]:
    """The tasks of each phase in turn, drawn evenly over families, an episode again only when all were drawn."""
    chance = random.Random(seed)
    return [
        Task(phase, episode) for phase, episodes in phases.items() for episode in _draw(episodes, sizes[phase], chance)
    ]


def _draw(episodes: Sequence[Episode], n: int, chance: random.Random) -> list[Episode]:
    families = sorted({episode.family for episode in episodes})
    decks: dict[str, list[Episode]] = {family: [] for family in families}
    drawn = []
    for i in range(n):
        family = families[i % len(families)]
        if not decks[family]:
            decks[family] = [episode for episode in episodes if episode.family == family]
            chance.shuffle(decks[family])
        drawn.append(decks[family].pop())
    chance.shuffle(drawn)
    return drawn


class Agents:
    """Clients that send tasks a few at a time, judge the answers, and say so `delay` tasks later."""

    def __init__(self, url: str, *, concurrency: int, delay: int) -> None:
        self._openai = AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", timeout=120)
        self._http = httpx.AsyncClient(base_url=url, timeout=60)
        self._slots = asyncio.Semaphore(concurrency)
        self._delay = delay
        self._unsaid: deque[Served] = deque()
        self.feedback: Counter[str] = Counter(
            {"posted": 0, "recorded": 0, "duplicate": 0, "corrected": 0, "late": 0, "unknown": 0}
        )

    async def run(self, tasks: Sequence[Task], progress: Callable[[Served], None]) -> list[Served]:
        """Every task in order of the schedule; when this returns, every outcome has been posted."""

        async def one(task: Task) -> Served:
            async with self._slots:
                served = await self._send(task)
            progress(served)
            self._unsaid.append(served)
            if len(self._unsaid) >= self._delay + _FEEDBACK_BATCH:
                await self._say(_FEEDBACK_BATCH)
            return served

        served = await asyncio.gather(*[one(task) for task in tasks])
        while self._unsaid:
            await self._say(_FEEDBACK_BATCH)
        return served

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()
        await self._http.aclose()

    async def _send(self, task: Task) -> Served:
        messages: Any = task.episode.messages()
        answer = await self._openai.chat.completions.create(
            model="auto", messages=messages, metadata={"task": task.episode.family}
        )
        routing: Any = (answer.model_extra or {})["routing"]
        success = task.episode.success(answer.choices[0].message.content or "")
        return Served(task, answer.id, routing["arm"], routing["supervised"], routing["explored"], success)

    async def _say(self, n: int) -> None:
        said = [self._unsaid.popleft() for _ in range(min(n, len(self._unsaid)))]
        items = [{"decision_id": served.decision_id, "success": served.success} for served in said]
        response = await self._http.post("/v1/feedback", json=items)
        response.raise_for_status()
        self.feedback["posted"] += len(items)
        self.feedback.update(response.json()["counts"])
