"""What clients were told, and what the service must therefore hold."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

import numpy as np

from cluster.events import Cancellation, Decision
from cluster.store import Store
from policies.evidence import ArmStatistics
from services.learning.states import is_state

LEARNED = frozenset({"recorded", "duplicate", "corrected"})
"""Answers to feedback that promise that it is learned."""
_PAGE = 1000


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


class Counts(NamedTuple):
    """What clients saw. `failed` and `refused` are tries, each repeated until it was answered; seconds of the slowest
    request that was answered. `unknown`: rewards of acknowledged decisions that the service did not know."""

    requests: int = 0
    failed: int = 0
    undurable: int = 0
    words: int = 0
    refused: int = 0
    late: int = 0
    unknown: int = 0
    slowest_s: float = 0.0


class Ledger:
    """A client's own books: every promise ever made, and what was seen since the last `turn`."""

    def __init__(self) -> None:
        self.promises: dict[str, Promise] = {}
        self.unknown = 0
        self._seen: Counter[str] = Counter()
        self._slowest_s = 0.0

    def saw(self, what: str) -> None:
        """Count one of what `Counts` has."""
        self._seen[what] += 1

    def promised(self, decision_id: str, arm: str, *, took_s: float = 0.0, durable: bool = True) -> Promise:
        """A request was answered."""
        self._seen.update(["requests"] if durable else ["requests", "undurable"])
        self._slowest_s = max(self._slowest_s, took_s)
        return self.promises.setdefault(decision_id, Promise(arm))

    def heard(self, decision_id: str, label: str, reward: float | None, status: str) -> None:
        """Feedback was answered."""
        if status in LEARNED:
            self._seen["words"] += 1
            self.promises[decision_id].words[label] = reward
        else:
            self._seen[status] += 1
            self.unknown += status == "unknown"

    def turn(self) -> Counts:
        """What was seen, and begin to count anew."""
        counts = Counts(**self._seen, slowest_s=self._slowest_s)
        self._seen.clear()
        self._slowest_s = 0.0
        return counts


class Account(NamedTuple):
    """How the books compare with the service."""

    lost: int
    doubled: int


async def account(store: Store, ledger: Ledger) -> Account:
    """Compare what was promised with the log, and with what the Learner has made of it.

    A decision that nobody was told of may be there if it was withdrawn, as a Router does that had no answer in time.
    """
    promises, (logged, withdrawn) = ledger.promises, await _log(store)
    unasked = {id_: arm for id_, (arm, _) in logged.items() if id_ not in promises}
    lost = ledger.unknown + sum(id_ not in logged for id_ in promises)
    doubled = sum(times - 1 for _, times in logged.values()) + len(unasked.keys() - withdrawn)
    ids = list(promises)
    for start in range(0, len(ids), _PAGE):
        rows = await store.ledger(ids[start : start + _PAGE])
        for id_ in ids[start : start + _PAGE]:
            row = rows[id_][1] if id_ in rows else None
            lost += (row.rewards if row else None) != promises[id_].rewards
    changes = await store.changes()
    for arm in [arm for arm in changes.blobs if not is_state(arm)]:
        held = ArmStatistics.from_bytes(changes.blobs[arm])
        owed = [promise for promise in promises.values() if promise.arm == arm]
        matured = [promise for promise in owed if promise.rewards]
        pulls = len(owed) + sum(of == arm for of in unasked.values())
        lost += max(0, pulls - held.pulls) + max(0, len(matured) - held.matured)
        doubled += max(0, held.pulls - pulls) + max(0, held.matured - len(matured))
        doubled += not np.isclose(held.reward_sum, sum(promise.reward for promise in matured), rtol=1e-9, atol=1e-9)
    return Account(lost, doubled)


async def _log(store: Store) -> tuple[dict[str, tuple[str, int]], set[str]]:
    """Every decision's arm and how often it is in the log, and which were withdrawn."""
    logged: dict[str, tuple[str, int]] = {}
    withdrawn: set[str] = set()
    async for batch in store.history():
        for _, event in batch:
            if isinstance(event, Decision):
                logged[event.id] = event.arm, logged.get(event.id, ("", 0))[1] + 1
            elif isinstance(event, Cancellation):
                withdrawn.add(event.decision_id)
    return logged, withdrawn
