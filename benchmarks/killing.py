"""Processes that are there to be killed: a Redis that comes back on its data, a Learner that comes back on Redis."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import SecretStr

from cluster.redis_server import RedisServer
from cluster.settings import Settings
from policies.context import ContextMap
from services.adapters.registry import Registry
from services.configuration import feedback_rules, learning_config, make_store, sealing_config
from services.learner import Learner

Victim = Literal["redis", "learner"]
_SEAL_EVERY_S = 0.1
_forks = multiprocessing.get_context("forkserver")


class Kill(NamedTuple):
    """Whom it hit, and how long until it did its work again."""

    victim: Victim
    recovery_s: float


@dataclass
class Targets:
    """One Redis and one Learner on `directory`, whose hot window is so short that sealing is under fire too."""

    directory: Path
    kills: list[Kill] = field(default_factory=list)
    ended_by_itself: int = 0

    def __post_init__(self) -> None:
        self._server = RedisServer(self.directory / "redis")
        self._learner: BaseProcess | None = None

    @property
    def settings(self) -> Settings:
        """Settings of the service on these processes."""
        store = {"url": SecretStr(self._server.url), "data_dir": self.directory, "hot_s": 1.0, "segment": 500}
        return Settings.model_validate({"store": store, "learner": {"pace_ms": 5, "batch": 200}})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both are up until the block ends."""
        _forks.set_forkserver_preload(["benchmarks.killing"])
        await asyncio.to_thread(self._server.start)
        try:
            self._start_learner()
            yield
        finally:
            if self._learner:
                self._learner.kill()
                self._learner.join()
            await asyncio.to_thread(self._server.stop)

    async def kill(self, victim: Victim) -> None:
        """SIGKILL it, start it again, and wait until it works."""
        began = time.monotonic()
        if victim == "redis":
            os.kill(self._server.pid, signal.SIGKILL)
            await asyncio.to_thread(self._server.stop)
            await asyncio.to_thread(self._server.start)
        else:
            await self._replace_learner()
        self.kills.append(Kill(victim, time.monotonic() - began))

    async def storm(self, kills: int, seed: int, pause_s: tuple[float, float]) -> AsyncIterator[Kill]:
        """Kill one of the two at random, `kills` times, after random pauses; yields each when it has recovered."""
        chance = random.Random(seed)
        for n in range(kills):
            await asyncio.sleep(chance.uniform(*pause_s))
            self._replace_the_dead()
            # Both are hit, however few kills there are.
            await self.kill(("learner", "redis")[n] if n < 2 else chance.choice(("redis", "learner")))
            yield self.kills[-1]

    async def _replace_learner(self) -> None:
        assert self._learner is not None
        async with make_store(self.settings) as store:
            before = (await store.learner_state()).epoch
            self._learner.kill()
            await asyncio.to_thread(self._learner.join)
            self._start_learner()
            while (await store.learner_state()).epoch == before:
                self._replace_the_dead()
                await asyncio.sleep(0.01)

    def _replace_the_dead(self) -> None:
        """What Serve does with a Learner that ended; here none should."""
        if self._learner and not self._learner.is_alive():
            self.ended_by_itself += 1
            self._start_learner()

    def _start_learner(self) -> None:
        self._learner = _forks.Process(target=_learn, args=(self.settings,), daemon=True)
        self._learner.start()


def _learn(settings: Settings) -> None:
    """The Learner as its deployment runs it, until it is killed."""
    logging.disable(logging.CRITICAL)  # a store that goes away is the point
    sealing = replace(sealing_config(settings), every_s=_SEAL_EVERY_S)
    learner = Learner(
        make_store(settings),
        ContextMap.load(settings.router.path),
        learning_config(settings),
        feedback_rules(settings),
        batch=settings.learner.batch,
        pace_ms=settings.learner.pace_ms,
        sealing=sealing,
    )
    asyncio.run(learner.run(Registry(settings.model.adapters)))
