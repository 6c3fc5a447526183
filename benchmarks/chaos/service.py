"""The whole service on a Ray cluster of a head and two workers, all on this machine."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from benchmarks.chaos.http_load import HttpLoad
from benchmarks.chaos.stage import Kind, until
from benchmarks.reporting import Check
from cluster.redis_server import RedisServer, free_port
from cluster.settings import Settings
from services.configuration import make_store
from services.launch import running

_REPLICAS = {"Router": 2, "Model": 2, "Learner": 1}
_ACTORS: dict[Kind, str] = {
    "router": ":Router",
    "model": ":Model",
    "learner": ":Learner",
    "controller": "Controller",
}
_STORE = 100_000_000


class Service:
    """Two Routers, two Models and a Learner on the workers, a controller wherever Ray puts it, and a Redis."""

    where = "Serve"

    def __init__(self, directory: Path) -> None:
        self.redis = RedisServer(directory / "redis")
        self._directory = directory
        self._settings = Settings()
        self._url = ""
        self._ray: Any = None
        self._workers: list[Any] = []

    @contextlib.contextmanager
    def running(self) -> Iterator["Service"]:
        """It serves until the block ends."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"  # before anything of Ray starts
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _STORE}
        self._ray = Cluster(initialize_head=True, head_node_args=head)
        try:
            self._workers = [self._node(), self._node()]
            with self.redis:
                self._settings = Settings.model_validate(
                    {
                        "server": {"port": free_port(), "routers": _REPLICAS["Router"]},
                        "model": {"replicas": _REPLICAS["Model"], "max_tokens": 8, "threads": 1},
                        "store": {
                            "url": SecretStr(self.redis.url),
                            "data_dir": self._directory,
                            "hot_s": 5.0,
                            "segment": 200,
                        },
                    }
                )
                with running(self._settings, address=self._ray.address) as self._url:
                    yield self
        finally:
            self._ray.shutdown()

    @contextlib.asynccontextmanager
    async def load(self, seed: int) -> AsyncIterator[HttpLoad]:
        async with httpx.AsyncClient(base_url=self._url, timeout=60) as http, make_store(self._settings) as store:
            yield HttpLoad(http, store, seed)

    def checks(self) -> list[Check]:
        return []

    def pids(self, kind: Kind) -> set[int]:
        return {self.redis.pid} if kind == "redis" else {actor["Pid"] for actor in self._actors(kind)}

    async def replaced(self, kind: Kind, victim: int) -> None:
        wanted = {"router": _REPLICAS["Router"], "model": _REPLICAS["Model"]}.get(kind, 1)

        async def is_replaced() -> bool:
            alive = self.pids(kind)
            return victim not in alive and len(alive) >= wanted

        await until(is_replaced)

    async def stand_in(self, kind: Kind) -> None:
        """Serve replaces what fails its health checks for long enough; here nothing is frozen for so long."""

    async def lose_node(self, chance: random.Random) -> float:
        """End a worker that has replicas; an empty one is there already."""
        self._workers.append(self._node())  # not in a thread: it sets signal handlers
        kinds: tuple[Kind, ...] = ("router", "model", "learner")
        busy = {actor["Address"]["NodeID"] for kind in kinds for actor in self._actors(kind)}
        victim, began = chance.choice([worker for worker in self._workers if worker.node_id in busy]), time.monotonic()
        await asyncio.to_thread(self._ray.remove_node, victim, allow_graceful=False)
        self._workers.remove(victim)

        async def is_elsewhere() -> bool:
            actors = {kind: self._actors(kind) for kind in kinds}
            there = {actor["Address"]["NodeID"] for found in actors.values() for actor in found}
            whole = all(len(actors[kind]) >= _REPLICAS[kind.capitalize()] for kind in kinds)
            return whole and victim.node_id not in there

        await until(is_elsewhere)
        return began

    async def skew(self, learner_s: float, clients_s: float) -> None:
        raise NotImplementedError("replicas read the clock of their machine")

    def _node(self) -> Any:
        return self._ray.add_node(num_cpus=4, object_store_memory=_STORE)

    def _actors(self, kind: Kind) -> list[dict[str, Any]]:
        """Living actors of a kind in this Ray cluster."""
        import ray._private.state as state  # without its dashboard Ray has no other way to ask

        actors = state.actors().values()
        return [each for each in actors if each["ActorClassName"].endswith(_ACTORS[kind]) and each["State"] == "ALIVE"]
