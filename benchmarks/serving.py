"""The service on Ray Serve under fire: kill -9 of Learner, Router and Model replicas while clients ask and reward."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import httpx
from pydantic import SecretStr
from rich.table import Table

from benchmarks.ledger import Account, Promise, account
from benchmarks.reporting import Check
from cluster.redis_server import RedisServer, free_port
from cluster.settings import Settings
from services.configuration import make_store
from services.launch import running

Deployment = Literal["Learner", "Router", "Model"]
DEPLOYMENTS: tuple[Deployment, ...] = ("Learner", "Router", "Model")
_REPLICAS = {"Learner": 1, "Router": 2, "Model": 2}
_INSTRUCTIONS = ("Click on the red box.", "Pick the third tab.", "Select the circle.", "Press the button.")
_PATIENCE_S = 600.0
_WORKERS = 4


class ReplicaKill(NamedTuple):
    """What was hit, and the seconds until all its replicas were there again and a request was served."""

    deployment: Deployment
    recovery_s: float


class ServeOutcome(NamedTuple):
    """What a storm left: the books, and what `GET /v1/bandit/verify` found."""

    account: Account
    kills: list[ReplicaKill]
    verification: dict[str, Any]


def storm(directory: Path, each: int, seed: int, hit: Callable[[ReplicaKill], None]) -> ServeOutcome:
    """Kill every deployment `each` times, in a random order; `hit` is called after each recovery."""
    with RedisServer(directory / "redis") as server:
        settings = Settings.model_validate(
            {
                "server": {"port": free_port(), "routers": _REPLICAS["Router"]},
                "model": {"replicas": _REPLICAS["Model"], "max_tokens": 8, "threads": 1},
                "store": {"url": SecretStr(server.url), "data_dir": directory, "hot_s": 5.0, "segment": 200},
            }
        )
        with running(settings) as url:
            return asyncio.run(_storm(settings, url, each, seed, hit))


async def _storm(
    settings: Settings, url: str, each: int, seed: int, hit: Callable[[ReplicaKill], None]
) -> ServeOutcome:
    chance = random.Random(seed)
    order = chance.sample(DEPLOYMENTS * each, len(DEPLOYMENTS) * each)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        crowd = _Crowd(http, seed)
        asking = asyncio.create_task(crowd.ask())
        kills = []
        for deployment in order:
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            kills.append(await _kill(deployment, chance, crowd))
            hit(kills[-1])
        crowd.stopped = True
        await asking
        async with make_store(settings) as store:
            await _until(lambda: _level(http))
            found = await crowd.insist("GET", "/v1/bandit/verify", params={"whole": True})
            return ServeOutcome(await account(store, crowd.promises), kills, found)


class _Crowd:
    """Clients that ask, reward, and try again with the same request id until they have an answer."""

    def __init__(self, http: httpx.AsyncClient, seed: int) -> None:
        self.promises: dict[str, Promise] = {}
        self.stopped = False
        self._http = http
        self._chance = random.Random(seed)

    async def ask(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._ask())

    async def _ask(self) -> None:
        while not self.stopped:
            await self.one()

    async def one(self) -> None:
        """A request, and mostly its reward."""
        body = {"messages": [{"role": "user", "content": self._chance.choice(_INSTRUCTIONS)}], "model": "auto"}
        answer = await self.insist(
            "POST", "/v1/chat/completions", json=body, headers={"x-client-request-id": uuid4().hex}
        )
        promise = self.promises[answer["id"]] = Promise(answer["routing"]["arm"])
        if self._chance.random() < 0.8:
            reward = self._chance.random()
            await self.insist("POST", "/v1/feedback", json={"decision_id": answer["id"], "reward": reward})
            promise.words["anonymous"] = reward

    async def insist(self, method: str, path: str, **arguments: Any) -> Any:
        """The JSON of an answer, however often it takes."""
        deadline = time.monotonic() + _PATIENCE_S
        said = ""
        while time.monotonic() < deadline:
            try:
                response = await self._http.request(method, path, **arguments)
                if response.is_success:
                    return response.json()
                said = response.text
            except httpx.HTTPError as error:
                said = repr(error)
            await asyncio.sleep(0.1)
        raise RuntimeError(f"{method} {path} was not answered within {_PATIENCE_S:g} s: {said[:200]}")


async def _kill(deployment: Deployment, chance: random.Random, crowd: _Crowd) -> ReplicaKill:
    """SIGKILL one replica, and wait until another one is in its place and the service serves."""
    victim, began = chance.choice(sorted(replicas(deployment))), time.monotonic()
    os.kill(victim, signal.SIGKILL)

    async def replaced() -> bool:
        alive = replicas(deployment)
        return victim not in alive and len(alive) >= _REPLICAS[deployment]

    await _until(replaced)
    await crowd.one()
    return ReplicaKill(deployment, time.monotonic() - began)


def replicas(deployment: Deployment) -> set[int]:
    """The process ids of a deployment's replicas in the Ray cluster of this process, and of no other."""
    import ray._private.state as state  # without its dashboard Ray has no other way to ask

    actors = state.actors().values()
    ours = [actor for actor in actors if actor["ActorClassName"].endswith(f":{deployment}")]
    return {actor["Pid"] for actor in ours if actor["State"] == "ALIVE"}


async def _level(http: httpx.AsyncClient) -> bool:
    """Whether everything is folded and followed."""
    response = await http.get("/v1/bandit")
    return response.is_success and response.json()["behind_events"] == 0


async def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not await condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"it did not come true within {_PATIENCE_S:g} s")
        await asyncio.sleep(0.05)


def table(outcome: ServeOutcome) -> Table:
    """How soon each deployment was whole again."""
    made = Table("deployment", "kills", "median s", "most s", title="kill -9 on Ray Serve", title_justify="left")
    for deployment in DEPLOYMENTS:
        times = sorted(kill.recovery_s for kill in outcome.kills if kill.deployment == deployment)
        made.add_row(deployment, str(len(times)), f"{times[len(times) // 2]:.1f}", f"{times[-1]:.1f}")
    made.caption = f"{outcome.account.decisions} requests answered, {outcome.account.words} rewards acknowledged"
    return made


def checks(outcome: ServeOutcome, each: int) -> list[Check]:
    """What must hold after a storm."""
    kills = len(outcome.kills)
    largest = max((arm[name] for arm in outcome.verification["arms"] for name in ("S", "e", "P")), default=0.0)
    return [
        Check("replica kills", kills, f"at least {each * len(DEPLOYMENTS)}", kills >= each * len(DEPLOYMENTS)),
        Check("lost on Serve", outcome.account.lost, "0", outcome.account.lost == 0),
        Check("doubled on Serve", outcome.account.doubled, "0", outcome.account.doubled == 0),
        Check("largest relative difference on Serve", largest, "at most 1e-9", bool(outcome.verification["ok"])),
    ]
