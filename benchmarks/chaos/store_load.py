"""Clients that decide and reward straight in the store, as Routers do for theirs; messy, and persistent."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import count
from typing import TypeVar

import numpy as np

from benchmarks.chaos.ledger import Ledger, account
from benchmarks.chaos.stage import Books, until
from cluster.connection import UNAVAILABLE
from cluster.events import Cancellation, Completion, Decision, Feedback
from cluster.request_store import Decided
from cluster.settings import Settings
from cluster.store import Store
from policies.context import ContextMap
from services.adapters.registry import Registry
from services.configuration import feedback_rules, learning_config
from services.learning.folding import Folding
from services.learning.verification import Verification, verify

T = TypeVar("T")
_RETRY_S = 0.05
_WORKERS = 6
_PAUSE_S = 0.1  # between decisions of a worker, at most


class StoreLoad:
    """Decides, rewards, corrects, withdraws and cancels; asks again until it has an answer.

    Its clock is wrong by `skew_s`.
    """

    def __init__(self, store: Store, settings: Settings, seed: int) -> None:
        self.ledger = Ledger()
        self.skew_s = 0.0
        self._store = store
        self._contexts = ContextMap.load(settings.router.path)
        self._folding = Folding(self._contexts, learning_config(settings), feedback_rules(settings))
        self._arms = Registry(settings.model.adapters).arms
        self._chance = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self._ids = (f"d{n}" for n in count())

    @property
    def segments(self) -> int:
        """Sealed so far."""
        return len(self._store.archive.segments()) if self._store.archive else 0

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        stopped = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work(stopped))
            try:
                yield
            finally:
                stopped.set()

    async def whole(self) -> None:
        decided = await self._decide()
        word = self._feedback(decided.decision.id, "judge", "judge", 1.0)
        while await self._say(word) == "late":  # its clock was set in between
            decided = await self._decide()
            word = self._feedback(decided.decision.id, "judge", "judge", 1.0)
        await until(partial(self._is_matured, decided.decision.id))

    async def books(self) -> Books:
        await until(self._is_folded)
        found = [await verify(self._store, self._folding, whole=whole) for whole in (True, False)]
        return Books(await account(self._store, self.ledger), max(map(_difference, found)))

    async def _work(self, stopped: asyncio.Event) -> None:
        later: list[str] = []
        while not stopped.is_set():
            await asyncio.sleep(self._chance.uniform(0, _PAUSE_S))
            decided = await self._decide()
            later.append(decided.decision.id)
            if self._chance.random() < 0.1:
                self.ledger.promises[later.pop()].cancelled = True
                reason = "the client left"
                left = Cancellation(time=self._now, decision_id=decided.decision.id, reason=reason)
                await self._insist(lambda left=left: self._store.cancel(left))  # type: ignore[misc]
            else:
                await self._insist(partial(self._store.complete, _completion(decided.decision.id, self._now)))
            if len(later) > 10:
                await self._words(later.pop(self._chance.randrange(len(later))))
        for decision_id in later[::2]:  # the others stay pending
            await self._words(decision_id)

    async def _decide(self) -> Decided:
        decision, began = self._decision(next(self._ids), self._chance.choice(self._arms)), time.monotonic()
        decided = await self._insist(partial(self._store.decide, decision), "failed")
        self.ledger.promised(decision.id, decision.arm, took_s=time.monotonic() - began)
        return decided

    async def _words(self, decision_id: str) -> None:
        """One to four words from up to three sources of two keys; later ones may correct or withdraw earlier ones."""
        for _ in range(self._chance.randint(1, 4)):
            key, source = self._chance.choice([("judge", "judge"), ("judge", "nightly"), ("user", "user")])
            reward = None if self._chance.random() < 0.1 else self._chance.random()
            await self._say(self._feedback(decision_id, key, source, reward))

    async def _say(self, word: Feedback) -> str:
        (status,) = await self._insist(partial(self._store.feedback, [word]), "refused")
        self.ledger.heard(word.decision_id or "", word.label, word.reward, status)
        return status

    def _feedback(self, decision_id: str, key: str, source: str, reward: float | None) -> Feedback:
        said = {"reward": reward, "truncated": reward is None}
        values = {"time": self._now, "decision_id": decision_id, "source": source, "key": key, **said}
        return Feedback.model_validate(values)

    async def _insist(self, call: Callable[[], Awaitable[T]], failing: str = "") -> T:
        while True:
            try:
                return await call()
            except UNAVAILABLE:
                if failing:
                    self.ledger.saw(failing)
                await asyncio.sleep(_RETRY_S)

    @property
    def _now(self) -> float:
        return time.time() + self.skew_s

    def _decision(self, decision_id: str, arm: str) -> Decision:
        h = self._numbers.normal(size=self._contexts.input_dimension).astype(np.float16)
        return Decision(
            time=self._now, id=decision_id, model="chaos", arm=arm, gates={}, adapters={}, propensity=1.0,
            explored=False, supervised=arm, policy="chaos", policy_version=0, mode="online", router="chaos",
            eligible=[arm], resident=[], scored=[], features=h.tobytes(),
        )  # fmt: skip

    async def _is_matured(self, decision_id: str) -> bool:
        _, row = (await self._store.ledger([decision_id])).get(decision_id, (None, None))
        return row is not None and row.status == "matured"

    async def _is_folded(self) -> bool:
        state = await self._store.learner_state()
        return (await self._store.behind(state.position, state.folded)).events == 0 and not state.rebuilding


def _completion(decision_id: str, now: float) -> Completion:
    return Completion(
        time=now, decision_id=decision_id, latency_ms=1.0, prompt_tokens=1, completion_tokens=1, finish_reason="stop"
    )


def _difference(found: Verification) -> float:
    """The largest relative difference of S, e, P; infinite where a count differs."""
    return max((arm.largest if arm.counts_equal else float("inf") for arm in found.arms), default=0.0)
