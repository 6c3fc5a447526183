"""What happens: processes are killed and frozen, a disk is full, clocks are wrong."""

import asyncio
import contextlib
import os
import random
import resource
import signal
import time
from collections.abc import Awaitable, Callable

from benchmarks.chaos.stage import Fault, Kind, Stage

Inject = Callable[[Stage, random.Random], Awaitable[float]]
_HOURS = 3600.0


def kill(*kinds: Kind) -> Inject:
    """SIGKILL a process of one of the kinds."""

    async def inject(stage: Stage, chance: random.Random) -> float:
        kind = chance.choice(kinds)
        victim, began = chance.choice(sorted(stage.pids(kind))), time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await stage.replaced(kind, victim)
        return began

    return inject


def freeze(kind: Kind, for_s: float) -> Inject:
    """SIGSTOP, and SIGCONT after a while, when somebody else may have its place."""

    async def inject(stage: Stage, chance: random.Random) -> float:
        victim = chance.choice(sorted(stage.pids(kind)))
        os.kill(victim, signal.SIGSTOP)
        try:
            await asyncio.sleep(for_s)
            await stage.stand_in(kind)
        finally:
            os.kill(victim, signal.SIGCONT)
        return time.monotonic()

    return inject


def fill_redis(for_s: float) -> Inject:
    """No file of Redis may grow, whoever starts it again, until there is room."""

    async def inject(stage: Stage, _: random.Random) -> float:
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            _limit(stage.redis.pid, 0)
            await asyncio.sleep(0.01)
        _limit(stage.redis.pid, resource.RLIM_INFINITY)
        return time.monotonic()

    return inject


def _limit(pid: int, size: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def _lose_node(stage: Stage, chance: random.Random) -> float:
    return await stage.lose_node(chance)


def skew_clocks(by_h: float, for_s: float) -> Inject:
    """The Learner's clock, then the clients', hours ahead and behind, one after another; then all are right again."""

    async def inject(stage: Stage, _: random.Random) -> float:
        by_s = by_h * _HOURS
        for learner_s, clients_s in ((by_s, 0.0), (-by_s, 0.0), (0.0, by_s), (0.0, -by_s)):
            await stage.skew(learner_s, clients_s)
            await asyncio.sleep(for_s)
        await stage.skew(0.0, 0.0)
        return time.monotonic()

    return inject


STORM = Fault("learner", kill("learner", "redis"), 15)
ON_PROCESSES = (
    STORM,
    Fault("freeze-learner", freeze("learner", 1), 15),
    Fault("freeze-redis", freeze("redis", 6), 15),
    Fault("full-redis", fill_redis(3), 15),
    Fault("skew-clock", skew_clocks(by_h=30, for_s=1.5), 15),
)
ON_SERVE = (
    Fault("kill-router", kill("router"), 60),
    Fault("kill-model", kill("model"), 60),
    Fault("kill-learner", kill("learner"), 60, served=True),
    Fault("kill-redis", kill("redis"), 15, served=True),
    Fault("kill-controller", kill("controller"), 60, served=True),
    Fault("freeze-learner", freeze("learner", 8), 15, served=True),
    Fault("freeze-redis", freeze("redis", 8), 15, served=True),
    Fault("full-redis", fill_redis(8), 15, served=True),
    Fault("kill-node", _lose_node, 120),
)
