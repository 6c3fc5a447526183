"""`pointsman demo --url URL`: the story's requests to a service that runs already, for example on a cluster.

The story ends where an adapter's files would be overwritten: on other people's nodes that is not for a client to do.
"""

import asyncio
import time
from typing import Any

from benchmarks.reporting import Check
from examples.miniwob.comparison import Course, Lived, courses, line
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.progress import SuccessBar
from examples.miniwob.story import Story, Task
from examples.miniwob.traffic import Agents, Served
from services.cli.client import Client

_PATIENCE_S = 60.0


class Visit:
    """A service by its URL, and what it knew before anything was asked."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Raises ServiceError where nobody answers, ValueError for one that does not serve the embedded world."""
        self._url = url.rstrip("/")
        self._key = key
        self._table = Outcomes.load()
        arms = {arm["arm"] for arm in self.beliefs()["arms"]}
        if missing := sorted(set(self._table.arms) - arms):
            raise ValueError(f"{url} has no arm {missing[0]!r}, expected a service of the embedded model's adapters")
        self._before = self._matured()

    def beliefs(self) -> dict[str, Any]:
        """What the service believes of every arm."""
        with Client(self._url, self._key) as client:
            state: dict[str, Any] = client.get("/v1/bandit")
            return state

    def run(self, story: Story, n: int, concurrency: int, delay: int) -> tuple[dict[str, Any], dict[str, Course]]:
        """Ask the first `n` requests of the story and post their outcomes; figures, and the courses of success."""
        began = time.monotonic()
        served, feedback = asyncio.run(self._drive(story.tasks[: min(n, story.swap)], concurrency, delay))
        lived = [Lived(one.task.phase, one.task.episode.id, one.arm, one.supervised, one.success) for one in served]
        success = courses(lived, self._table, story)
        figures = {
            "n": len(served),
            "seconds": round(time.monotonic() - began, 1),
            "feedback": feedback,
            "matured": self._settled(feedback["recorded"]),
            "verified": self._verified(),
            **{name: line(course)._asdict() for name, course in success.items()},
        }
        return figures, success

    async def _drive(
        self, tasks: tuple[Task, ...], concurrency: int, delay: int
    ) -> tuple[list[Served], dict[str, int]]:
        agents = Agents(self._url, concurrency=concurrency, delay=delay, key=self._key)
        try:
            with SuccessBar(len(tasks)) as progress:
                served = await agents.run(tasks, lambda task, success: progress.add(task.phase, success), {})
        finally:
            await agents.close()
        return served, dict(agents.feedback)

    def _matured(self) -> int:
        return sum(arm["matured"] for arm in self.beliefs()["arms"])

    def _settled(self, rewards: int) -> int:
        """Rewards learned since the visit began, once there are as many as expected; fewer when that takes too long."""
        deadline = time.monotonic() + _PATIENCE_S
        while (learned := self._matured() - self._before) < rewards and time.monotonic() < deadline:
            time.sleep(0.2)
        return learned

    def _verified(self) -> bool:
        """Whether what is believed is what the service's log comes to."""
        with Client(self._url, self._key, timeout_s=600) as client:
            return bool(client.get("/v1/bandit/verify")["ok"])


def checks(figures: dict[str, Any]) -> list[Check]:
    """What a visit promises."""
    feedback, n = figures["feedback"], figures["n"]
    ahead = figures["routed"]["success"] - figures["best_single"]["success"]
    counts = {
        "a reward for every request": (feedback["posted"], n),
        "rewards that are recorded": (feedback["recorded"], n),
        "rewards that are learned": (figures["matured"], feedback["recorded"]),
    }
    return [
        Check("success, routed − best single", ahead, "≥ 0.2", round(ahead, 9) >= 0.2),
        *(Check(name, value, f"= {expected}", value == expected) for name, (value, expected) in counts.items()),
        Check("the log comes to what is believed", figures["verified"], "= 1", figures["verified"]),
    ]
