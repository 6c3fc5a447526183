"""Recorded tasks as live traffic: sent with the OpenAI client, their outcomes posted late."""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import httpx
from openai import AsyncOpenAI

from examples.miniwob.story import Task

_FEEDBACK_BATCH = 20


class Served(NamedTuple):
    """What came back for a task."""

    task: Task
    decision_id: str
    arm: str
    supervised: str
    success: bool


class Agents:
    """Clients that send tasks a few at a time, judge the answers, and say so `delay` tasks later."""

    def __init__(self, url: str, *, concurrency: int, delay: int, key: str | None = None) -> None:
        self._openai = AsyncOpenAI(base_url=f"{url}/v1", api_key=key or "unused", timeout=120)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=60)
        self._slots = asyncio.Semaphore(concurrency)
        self._delay = delay
        self._unsaid: deque[dict[str, Any]] = deque()
        self.feedback: Counter[str] = Counter(
            {"posted": 0, "recorded": 0, "duplicate": 0, "corrected": 0, "late": 0, "unknown": 0}
        )

    async def run(
        self,
        tasks: Sequence[Task],
        progress: Callable[[Task, bool], None],
        meanwhile: Mapping[int, Callable[[], Awaitable[object]]],
    ) -> list[Served]:
        """Every task in order of the schedule; when this returns, every outcome has been posted.

        `meanwhile` is done before the task of that number is sent, while the answers of earlier ones are under way.
        """
        running = []
        for number, task in enumerate(tasks):
            await self._slots.acquire()
            if number in meanwhile:
                await meanwhile[number]()
            running.append(asyncio.create_task(self._one(task, progress)))
        served = await asyncio.gather(*running)
        await self.say_all()
        return served

    async def ask(self, messages: Any, task: str, episode: str | None = None) -> Any:
        """One answer, routed."""
        headers = {"X-Episode-Id": episode} if episode else {}
        return await self._openai.chat.completions.create(
            model="auto", messages=messages, metadata={"task": task}, extra_headers=headers
        )

    async def judge(self, **outcome: Any) -> None:
        """Note an outcome; it is posted once `delay` later ones are known."""
        self._unsaid.append(outcome)
        if len(self._unsaid) >= self._delay + _FEEDBACK_BATCH:
            await self._say(_FEEDBACK_BATCH)

    async def say_all(self) -> None:
        """Post what has not been posted yet."""
        while self._unsaid:
            await self._say(_FEEDBACK_BATCH)

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()
        await self._http.aclose()

    async def _one(self, task: Task, progress: Callable[[Task, bool], None]) -> Served:
        try:
            answer = await self.ask(task.episode.messages(), task.episode.family)
        finally:
            self._slots.release()
        success = task.episode.success(answer.choices[0].message.content or "")
        progress(task, success)
        await self.judge(decision_id=answer.id, success=success)
        routing = answer.model_extra["routing"]
        return Served(task, answer.id, routing["arm"], routing["supervised"], success)

    async def _say(self, n: int) -> None:
        items = [self._unsaid.popleft() for _ in range(min(n, len(self._unsaid)))]
        response = await self._http.post("/v1/feedback", json=items)
        response.raise_for_status()
        self.feedback["posted"] += len(items)
        self.feedback.update(response.json()["counts"])
