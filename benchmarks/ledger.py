"""A client that keeps its own books: what was acknowledged to it, and what the service must therefore hold."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import NamedTuple, TypeVar

import numpy as np

from cluster.connection import UNAVAILABLE
from cluster.events import Cancellation, Completion, Decision, Feedback
from cluster.store import Store
from policies.evidence import ArmStatistics
from services.learning.states import is_state

T = TypeVar("T")
_RETRY_S = 0.05


@dataclass
class Promise:
    """A decision that was acknowledged, and the last word of each source that was."""

    arm: str
    words: dict[str, float | None] = field(default_factory=dict)
    cancelled: bool = False

    @property
    def rewards(self) -> dict[str, float]:
        """The words that teach something."""
        return {label: word for label, word in self.words.items() if word is not None}

    @property
    def reward(self) -> float:
        """The mean over the keys of the mean over each key's sources."""
        keys = {label.partition("/")[0] for label in self.rewards}
        return fmean(fmean(r for label, r in self.rewards.items() if label.partition("/")[0] == key) for key in keys)


class Account(NamedTuple):
    """How the books compare with the service."""

    decisions: int
    words: int
    lost: int
    doubled: int


class Client:
    """Sends decisions and messy feedback straight to the store, and asks again until it has an answer."""

    def __init__(self, store: Store, arms: Sequence[str], features: int, seed: int) -> None:
        self.promises: dict[str, Promise] = {}
        self._store = store
        self._arms = arms
        self._features = features
        self._chance = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Begin no further decision."""
        self._stopped.set()

    async def work(self, workers: int) -> None:
        """Decide and reward until stopped, and finish what was begun."""
        async with asyncio.TaskGroup() as group:
            for worker in range(workers):
                group.create_task(self._work(worker))

    async def _work(self, worker: int) -> None:
        later: list[str] = []
        for n in range(10**9):
            if self._stopped.is_set():
                break
            later.append(await self._decide(f"d{worker}-{n}"))
            if len(later) > 10:
                await self._say(later.pop(self._chance.randrange(len(later))))
        for decision_id in later[::2]:  # the others stay pending
            await self._say(decision_id)

    async def _decide(self, decision_id: str) -> str:
        decision = self._decision(decision_id, self._chance.choice(self._arms))
        await self._insist(lambda: self._store.decide(decision))
        promise = self.promises[decision_id] = Promise(decision.arm)
        if self._chance.random() < 0.1:
            promise.cancelled = True
            cancellation = Cancellation(time=time.time(), decision_id=decision_id, reason="the client left")
            await self._insist(lambda: self._store.cancel(cancellation))
        else:
            await self._insist(lambda: self._store.complete(_completion(decision_id)))
        return decision_id

    async def _say(self, decision_id: str) -> None:
        """One to four words from up to three sources of two keys; later ones may correct or withdraw earlier ones."""
        promise = self.promises[decision_id]
        if promise.cancelled:
            return
        for _ in range(self._chance.randint(1, 4)):
            word = self._word(decision_id)
            await self._insist(partial(self._store.feedback, [word]))
            promise.words[word.label] = word.reward

    def _word(self, decision_id: str) -> Feedback:
        key, source = self._chance.choice([("judge", "judge"), ("judge", "nightly"), ("user", "user")])
        reward = None if self._chance.random() < 0.1 else self._chance.random()
        said = {"reward": reward, "truncated": reward is None}
        return Feedback.model_validate(
            {"time": time.time(), "decision_id": decision_id, "source": source, "key": key, **said}
        )

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except UNAVAILABLE:
                await asyncio.sleep(_RETRY_S)

    def _decision(self, decision_id: str, arm: str) -> Decision:
        h = self._numbers.normal(size=self._features).astype(np.float16)
        return Decision(
            time=time.time(), id=decision_id, model="chaos", arm=arm, gates={}, adapters={}, propensity=1.0,
            explored=False, supervised=arm, policy="chaos", policy_version=0, mode="online", router="chaos",
            eligible=[arm], resident=[], scored=[], features=h.tobytes(),
        )  # fmt: skip


def _completion(decision_id: str) -> Completion:
    return Completion(
        time=time.time(),
        decision_id=decision_id,
        latency_ms=1.0,
        prompt_tokens=1,
        completion_tokens=1,
        finish_reason="stop",
    )


async def account(store: Store, promises: dict[str, Promise]) -> Account:
    """Compare what was promised with the log, and with what the Learner has made of it."""
    logged: Counter[str] = Counter()
    async for batch in store.history():
        logged.update(event.id for _, event in batch if isinstance(event, Decision))
    lost = sum(id_ not in logged for id_ in promises)
    doubled = sum(n - 1 for n in logged.values()) + len(logged.keys() - promises.keys())
    ids = list(promises)
    for start in range(0, len(ids), 1000):
        ledger = await store.ledger(ids[start : start + 1000])
        for id_ in ids[start : start + 1000]:
            row = ledger[id_][1] if id_ in ledger else None
            lost += (row.rewards if row else None) != promises[id_].rewards
    changes = await store.changes()
    for arm, blob in changes.blobs.items():
        if is_state(arm):
            continue
        held = ArmStatistics.from_bytes(blob)
        owed = [promise for promise in promises.values() if promise.arm == arm]
        matured = [promise for promise in owed if promise.rewards]
        lost += max(0, len(owed) - held.pulls) + max(0, len(matured) - held.matured)
        doubled += max(0, held.pulls - len(owed)) + max(0, held.matured - len(matured))
        doubled += not np.isclose(held.reward_sum, sum(promise.reward for promise in matured), rtol=1e-9, atol=1e-9)
    return Account(len(promises), sum(len(promise.words) for promise in promises.values()), lost, doubled)
