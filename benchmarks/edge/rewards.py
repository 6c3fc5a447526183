"""Rewards a second, by the batch, counted only when the service says that they are on disk, and looked for there."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from benchmarks.edge.traffic import Line
from benchmarks.reporting import Check
from cluster.events import Decision, Feedback
from cluster.settings import Settings
from cluster.store import Store
from policies.context import ContextMap
from services.configuration import make_store

GOAL: Final = 5000
_BATCH: Final = 500
_POSTS: Final = 4
_WRITERS: Final = 32


class Rewards(NamedTuple):
    """What was acknowledged in which time, and how often it is in the log."""

    acknowledged: int
    seconds: float
    lost: int
    doubled: int

    @property
    def per_s(self) -> float:
        return self.acknowledged / self.seconds


async def measure(line: Line, settings: Settings, n: int) -> Rewards:
    """Reward `n` decisions, written beforehand, `_BATCH` an HTTP call, `_POSTS` calls at a time."""
    async with make_store(settings) as store:
        ids = await _decide(store, settings, n)
        batches = [ids[start : start + _BATCH] for start in range(0, n, _BATCH)]
        bodies = [json.dumps([{"decision_id": id_, "reward": 0.5} for id_ in batch]).encode() for batch in batches]
        burst = await line.burst("/v1/feedback", bodies, _POSTS)
        said = [result for reply in burst.replies if reply.status == 200 for result in reply.json["results"]]
        recorded = [result["decision_id"] for result in said if result["status"] == "recorded"]
        logged: Counter[str] = Counter()
        async for entries in store.history():
            logged.update(
                event.decision_id for _, event in entries if isinstance(event, Feedback) and event.decision_id
            )
    lost = sum(logged[id_] == 0 for id_ in recorded)
    doubled = sum(logged[id_] - 1 for id_ in ids if logged[id_] > 1)
    return Rewards(len(recorded), burst.seconds, lost, doubled)


async def _decide(store: Store, settings: Settings, n: int) -> Sequence[str]:
    """The ids of `n` decisions, as a Router would have written them."""
    features = np.zeros(ContextMap.load(settings.router.path).input_dimension, np.float16).tobytes()
    ids = [f"load-{number}" for number in range(n)]
    left = iter(ids)

    async def write() -> None:
        for id_ in left:
            await store.decide(_decision(id_, features))

    await asyncio.gather(*(write() for _ in range(_WRITERS)))
    return ids


def _decision(id_: str, features: bytes) -> Decision:
    return Decision(
        time=time.time(), id=id_, model="load", arm="base", gates={}, adapters={}, propensity=1.0,
        explored=False, supervised="base", policy="load", policy_version=0, mode="online", router="load",
        eligible=["base"], resident=[], scored=[], features=features,
    )  # fmt: skip


def checks(rewards: Rewards) -> list[Check]:
    return [
        Check("rewards/s, durable", rewards.per_s, f"at least {GOAL}", rewards.per_s >= GOAL),
        Check("acknowledged rewards lost", rewards.lost, "0", rewards.lost == 0),
        Check("acknowledged rewards doubled", rewards.doubled, "0", rewards.doubled == 0),
    ]
