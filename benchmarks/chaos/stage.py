"""A stage is where faults happen; its load asks and rewards meanwhile. One fault after another leaves a row each."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

from benchmarks.chaos.ledger import Account, Counts, Ledger
from cluster.connection import UNAVAILABLE
from cluster.redis_server import RedisServer

_PATIENCE_S = 150.0
_LOOK_S = 0.02

Kind = Literal["router", "model", "learner", "redis", "controller", "node"]

Name = Literal[
    "learner",
    "kill-router",
    "kill-model",
    "kill-learner",
    "kill-redis",
    "kill-controller",
    "kill-node",
    "freeze-learner",
    "freeze-redis",
    "full-redis",
    "skew-clock",
]


class Books(NamedTuple):
    """How the books compare, and the largest relative difference of S, e, P from a fold of the whole log."""

    account: Account
    difference: float


class Load(Protocol):
    """Clients that ask, reward, and try again until they have an answer."""

    ledger: Ledger

    def working(self) -> AbstractAsyncContextManager[None]:
        """They work inside; what they began is finished when it ends."""

    async def whole(self) -> None:
        """Wait until a new request is served durably, and its reward is acknowledged and folded."""

    async def books(self) -> Books:
        """Wait until everything is folded, and compare."""


class Stage(Protocol):
    """Processes that faults happen to."""

    where: str
    redis: RedisServer

    def load(self, seed: int) -> AbstractAsyncContextManager[Load]:
        """Clients of what runs here."""

    def pids(self, kind: Kind) -> set[int]:
        """The processes of a kind that live."""

    async def replaced(self, kind: Kind, victim: int) -> None:
        """Wait until another one is in the place of a dead process."""

    async def stand_in(self, kind: Kind) -> None:
        """What is done about a process that has not answered for long."""

    async def lose_node(self, chance: random.Random) -> float:
        """End a node with everything on it, and wait until what ran there runs elsewhere; when it ended."""

    async def skew(self, learner_s: float, clients_s: float) -> None:
        """Set the clocks that are read wrong by so many seconds."""


class Fault(NamedTuple):
    """`inject` returns when its cause was over (monotonic, s): all is well within `within_s` of that.

    `served`: requests are answered all the while, none fails.
    """

    name: Name
    inject: Callable[[Stage, random.Random], Awaitable[float]]
    within_s: float
    served: bool = False


class Row(NamedTuple):
    """What a fault did."""

    fault: Name
    where: str
    within_s: float
    served: bool
    recovery_s: list[float]
    counts: Counts
    lost: int
    doubled: int
    difference: float


async def suffer(
    stage: Stage, plan: Sequence[tuple[Fault, int]], seed: int, rows: list[Row], over: Callable[[], None]
) -> None:
    """Inject each fault so many times under load, compare the books, and add a row; `over` is told of every time."""
    chance, before = random.Random(seed), Account(0, 0)
    async with stage.load(seed) as load:
        for fault, times in plan:
            recovery_s = []
            async with load.working():
                for _ in range(times):
                    await asyncio.sleep(chance.uniform(0.2, 1.0))
                    ended = await fault.inject(stage, chance)
                    await load.whole()
                    recovery_s.append(time.monotonic() - ended)
                    over()
            books, counts = await load.books(), load.ledger.turn()
            lost, doubled = (now - then for now, then in zip(books.account, before, strict=True))
            what = fault.name, stage.where, fault.within_s, fault.served
            rows.append(Row(*what, recovery_s, counts, lost, doubled, books.difference))
            before = books.account


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the condition holds, whatever of the store is away meanwhile; RuntimeError if it never does."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(*UNAVAILABLE):
            if await condition():
                return
        await asyncio.sleep(_LOOK_S)
    raise RuntimeError(f"it did not come true within {_PATIENCE_S:g} s")
