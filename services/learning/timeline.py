"""How requests went over time, for those who look: buckets of several lengths, folded from the log. Pure and bounded.

A request counts in the bucket of its own time, whenever its outcome comes: what is recent is still waiting for rewards.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.events import Decision
from cluster.learner_store import LedgerRow
from services.learning.rewards import FeedbackRules, lesson

TIMELINE = "@timeline/"
"""What the name of a bucket's state begins with, before its length in seconds and its number."""

LENGTHS = {5: 120, 60: 120, 1800: 96, 43200: 120}
"""Lengths of a bucket in seconds, and how many of each are kept: ten minutes, two hours, two days, sixty days."""

MOST_CELLS = 128
REST = ("…", "…")
"""Task and arm of the requests beyond the first `MOST_CELLS` pairs of a bucket."""

Pair = tuple[str, str]


class Standing(NamedTuple):
    """What one decision adds to its bucket, as its ledger row stands.

    `expected` is what the best arm was believed to earn when the decision was taken, of those with a reward.
    """

    rewarded: int = 0
    reward: float = 0.0
    expected: float = 0.0
    unanswered: int = 0
    dropped: int = 0


@dataclass
class Cell:
    """The requests of one task that one arm served: how many, of how many the reward is known, and its sum."""

    pulls: int = 0
    rewarded: int = 0
    reward: float = 0.0


@dataclass
class Bucket:
    """Sums over the requests of one stretch of time; those neither rewarded, unanswered nor dropped are waiting.

    unanswered: nobody said anything in time.  dropped: cancelled, or censored.
    """

    cells: dict[Pair, Cell] = field(default_factory=dict)
    explored: int = 0
    expected: float = 0.0
    unanswered: int = 0
    dropped: int = 0

    def pull(self, pair: Pair, *, explored: bool) -> None:
        """Count a decision."""
        self._cell(pair).pulls += 1
        self.explored += explored

    def move(self, pair: Pair, before: Standing, after: Standing) -> None:
        """Count a decision as `after` that was counted as `before`."""
        cell = self._cell(pair)
        cell.rewarded += after.rewarded - before.rewarded
        cell.reward = cell.reward + after.reward - before.reward if cell.rewarded else 0.0
        self.expected += after.expected - before.expected
        self.unanswered += after.unanswered - before.unanswered
        self.dropped += after.dropped - before.dropped

    def to_bytes(self) -> bytes:
        """Exact serialisation."""
        cells = [[*pair, *vars(cell).values()] for pair, cell in self.cells.items()]
        return json.dumps(vars(self) | {"cells": cells}, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Bucket":
        """What `to_bytes` wrote."""
        stored = json.loads(data)
        cells = {(task, arm): Cell(*sums) for task, arm, *sums in stored.pop("cells")}
        return cls(cells, **stored)

    def _cell(self, pair: Pair) -> Cell:
        if pair not in self.cells:
            pair = pair if len(self.cells) < MOST_CELLS else REST
        return self.cells.setdefault(pair, Cell())


class Place(NamedTuple):
    """Which bucket: its length in seconds, and how many of that length lie before it since the epoch."""

    length: int
    number: int

    @property
    def name(self) -> str:
        """The name of its state."""
        return f"{TIMELINE}{self.length}/{self.number}"

    @classmethod
    def named(cls, name: str) -> "Place":
        """The place of a state's name."""
        length, number = name.removeprefix(TIMELINE).split("/")
        return cls(int(length), int(number))


class Timeline:
    """The buckets that are kept: of each length the latest that have requests. What falls out is counted no more."""

    def __init__(self, states: Mapping[str, bytes]) -> None:
        self.buckets = {Place.named(name): Bucket.from_bytes(data) for name, data in sorted(states.items())}
        self.touched: set[Place] = set()
        self.removed: set[str] = set()

    def clear(self) -> None:
        """Forget what was touched."""
        self.touched, self.removed = set(), set()

    def decide(self, decision: Decision) -> None:
        """Count a decision."""
        for place in places(decision.time):
            if place in self.buckets or self._make_room(place):
                self.buckets.setdefault(place, Bucket()).pull(pair(decision), explored=decision.explored)
                self.touched.add(place)

    def change(self, decision: Decision, before: LedgerRow, after: LedgerRow, rules: FeedbackRules) -> None:
        """Follow a decision's row from one state to the next."""
        was, now = standing(decision, before, rules), standing(decision, after, rules)
        if was == now:
            return
        for place in places(decision.time):
            if bucket := self.buckets.get(place):
                bucket.move(pair(decision), was, now)
                self.touched.add(place)

    def changed(self) -> dict[str, bytes]:
        """The touched buckets, serialised, by the names of their states."""
        return {place.name: self.buckets[place].to_bytes() for place in sorted(self.touched) if place in self.buckets}

    def _make_room(self, place: Place) -> bool:
        """Drop the oldest bucket of the length where there are enough; False if the new one would be older."""
        there = [other for other in self.buckets if other.length == place.length]
        if len(there) < LENGTHS[place.length]:
            return True
        oldest = min(there)
        if place < oldest:
            return False
        del self.buckets[oldest]
        self.removed.add(oldest.name)
        return True


def places(time: float) -> Iterator[Place]:
    """The buckets of a moment (unix s), one of each length."""
    return (Place(length, math.floor(time / length)) for length in LENGTHS)


def pair(decision: Decision) -> Pair:
    """Task and arm of a decision."""
    return decision.task or "", decision.arm


def standing(decision: Decision, row: LedgerRow, rules: FeedbackRules) -> Standing:
    """What a decision counts as, by its row."""
    if taught := lesson(row, rules):
        return Standing(rewarded=1, reward=taught.reward, expected=believed_best(decision))
    return Standing(unanswered=row.status == "timed_out", dropped=row.status in ("cancelled", "censored"))


def believed_best(decision: Decision) -> float:
    """The largest mean reward of an eligible arm as believed at the decision, in [0, 1], of those that were logged."""
    return min(1.0, max(0.0, *(one.mean for one in decision.scored))) if decision.scored else 0.0
