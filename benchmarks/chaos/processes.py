"""Redis and the Learner alone, with clients that write straight to the store: many faults in little time."""

import asyncio
import contextlib
import logging
import multiprocessing
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from pydantic import SecretStr

from benchmarks.chaos.stage import Kind, until
from benchmarks.chaos.store_load import StoreLoad
from benchmarks.reporting import Check
from cluster.learner_store import Fenced
from cluster.redis_server import RedisServer
from cluster.settings import Settings
from services.adapters.registry import Registry
from services.assembly import make_learner
from services.configuration import make_store, sealing_config

_SEAL_EVERY_S = 0.1
_PATIENCE_S = 60.0
_forks = multiprocessing.get_context("forkserver")


class Processes:
    """One Redis and one Learner on `directory`, whose hot window is so short that sealing is under fire too."""

    where = "processes"

    def __init__(self, directory: Path) -> None:
        self.redis = RedisServer(directory / "redis")
        self._directory = directory
        self._learner: BaseProcess
        self._superseded: list[BaseProcess] = []
        self._skew_s = 0.0

    @property
    def settings(self) -> Settings:
        """Settings of the service on these processes."""
        store = {"url": SecretStr(self.redis.url), "data_dir": self._directory, "hot_s": 1.0, "segment": 200}
        learner = {"pace_ms": 5, "batch": 200, "reward_window_s": 86_400.0}
        return Settings.model_validate({"store": store, "learner": learner})

    @contextlib.contextmanager
    def running(self) -> Iterator["Processes"]:
        """Both are up until the block ends."""
        _forks.set_forkserver_preload(["benchmarks.chaos.processes"])
        with self.redis:
            self._learner = self._started()
            try:
                yield self
            finally:
                for learner in (self._learner, *self._superseded):
                    learner.kill()
                    learner.join()

    @contextlib.asynccontextmanager
    async def load(self, seed: int) -> AsyncIterator[StoreLoad]:
        async with make_store(self.settings) as store:
            self._load = StoreLoad(store, self.settings, seed)
            yield self._load

    def checks(self) -> list[Check]:
        """What must hold besides the books."""
        for learner in self._superseded:
            learner.join(_PATIENCE_S)
        left, segments = sum(learner.is_alive() for learner in self._superseded), self._load.segments
        return [
            Check("superseded Learners that went on", left, "0", left == 0),
            Check("sealed segments", segments, "at least 1", segments > 0),
        ]

    def pids(self, kind: Kind) -> set[int]:
        return {self.redis.pid if kind == "redis" else self._learner.pid or 0}

    async def replaced(self, kind: Kind, victim: int) -> None:
        """Redis comes back by itself; for the Learner this does what Serve does."""
        if kind == "learner":
            await asyncio.to_thread(self._learner.join)
            self._learner = self._started()
            return

        async def is_back() -> bool:
            return self.redis.pid != victim

        await until(is_back)

    async def stand_in(self, kind: Kind) -> None:
        """Another Learner leads: the frozen one has to end when it finds that out."""
        if kind != "learner":
            return
        async with make_store(self.settings) as store:
            before = (await store.learner_state()).epoch
            self._superseded.append(self._learner)
            self._learner = self._started()

            async def is_led() -> bool:
                return (await store.learner_state()).epoch != before

            await until(is_led)

    async def lose_node(self, chance: random.Random) -> float:
        raise NotImplementedError("there are no nodes here")

    async def skew(self, learner_s: float, clients_s: float) -> None:
        """A Learner reads its clock from the start on: it is started anew."""
        self._load.skew_s, self._skew_s = clients_s, learner_s
        self._learner.kill()
        await self.replaced("learner", 0)

    def _started(self) -> BaseProcess:
        learner = _forks.Process(target=_learn, args=(self.settings, self._skew_s), daemon=True)
        learner.start()
        return learner


def _learn(settings: Settings, skew_s: float) -> None:
    """The Learner as its deployment runs it, until it is killed."""
    logging.disable(logging.CRITICAL)  # a store that goes away is the point
    sealing = replace(sealing_config(settings), every_s=_SEAL_EVERY_S)
    learner = make_learner(settings, sealing=sealing, clock=lambda: time.time() + skew_s)
    with contextlib.suppress(Fenced):  # another one leads
        asyncio.run(learner.run(Registry(settings.model.adapters)))
