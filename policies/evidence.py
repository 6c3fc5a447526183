"""What one arm has taught: discounted sums over its own decisions, exact whatever the order and lateness of rewards."""

import json
from dataclasses import dataclass, field, fields
from math import prod
from typing import Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from policies import checks
from policies.checks import Array
from policies.delays import BUCKETS, bucket
from policies.drift import Alarm, Run, Watch

_WHISPER = 1e-9  # what rounding leaves of a room that is full


@dataclass(eq=False)
class ArmStatistics:
    """Evidence of one arm, over its decisions i with context xᵢ [d], weight wᵢ, reward rᵢ, and tick tᵢ.

    S = Σ wᵢ δᵢ xᵢxᵢᵀ and e = Σ wᵢ δᵢ rᵢ xᵢ over the matured; P = Σ xᵢxᵢᵀ over the pending. δᵢ is the product of the
    discounts γ in force at each later decision of the arm, and of the cuts since: `discount` is γ now, `rates` lists
    (last tick, γ) of the earlier ones, `cuts` (last tick, share) of what a new version or a drift left of the decisions
    up to that tick. κ is `kappa`, and `standing` what the versions left of it; `released` counts the pulls
    before the last new version. `latest` is the last tick that matured.
    `updated` is the time of the last folded event in unix seconds, `former` are the arm's earlier names, oldest first,
    `like` the known arms that a new one is expected to earn as.
    Reward sums are over matured decisions, neither weighted nor discounted. `contributed` maps a feedback key to the
    evidence that its words brought, as (tick, number of cuts by then, weight at that tick). `unanswered` counts
    decisions that nobody said anything of in time, `delays` those with a reward by how long it took
    (policies/delays.py): failures, and successes (½ and more).
    """

    S: Array
    e: Array
    P: Array
    discount: float
    adapter_hash: str | None = None
    kappa: float = 1.0
    tick: int = 0
    pulls: int = 0
    pending: int = 0
    matured: int = 0
    reward_sum: float = 0.0
    reward_square_sum: float = 0.0
    updated: float = 0.0
    standing: float = 1.0
    released: int | None = None
    latest: int = 0
    watch: Watch = field(default_factory=Watch)
    rates: list[tuple[int, float]] = field(default_factory=list)
    cuts: list[tuple[int, float]] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    contributed: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    former: list[str] = field(default_factory=list)
    like: list[str] = field(default_factory=list)
    unanswered: int = 0
    delays: list[list[int]] = field(default_factory=lambda: [[0] * BUCKETS, [0] * BUCKETS])

    def __post_init__(self) -> None:
        d = len(self.e)
        self.S = checks.array("S", self.S, (d, d))
        self.e = checks.array("e", self.e, (d,))
        self.P = checks.array("P", self.P, (d, d))
        checks.number("discount", self.discount, 0, 1)
        checks.number("kappa", self.kappa, 0, 1)
        checks.number("pending", self.pending, 0)

    @classmethod
    def empty(cls, dimension: int, discount: float, adapter_hash: str | None = None) -> Self:
        """An arm that was never pulled."""
        shape = (dimension, dimension)
        return cls(np.zeros(shape), np.zeros(dimension), np.zeros(shape), discount, adapter_hash)

    def label(self, arm: str) -> str:
        """What the trained router calls the arm that is named `arm` now: its first name."""
        return self.former[0] if self.former else arm

    def pull(self, x: Array, time: float) -> int:
        """Fold a decision for this arm: its clock advances, x is pending. Returns the decision's tick."""
        x, self.updated = self._vector(x), checks.number("time", time)
        self.S *= self.discount
        self.e *= self.discount
        self.P += np.outer(x, x)
        self.tick += 1
        self.pulls += 1
        self.pending += 1
        return self.tick

    def observe(self, x: Array, reward: float, weight: float, time: float) -> None:
        """Fold a decision together with its reward: `pull` and `mature` in one, without a while of being pending."""
        x, self.updated = self._vector(x), checks.number("time", time)
        checks.number("reward", reward)
        checks.number("weight", weight, 0)
        if self.discount != 1:
            self.S *= self.discount
            self.e *= self.discount
        outer = np.dot(x[:, np.newaxis], x[np.newaxis])  # a third faster than np.outer
        self.S += outer if weight == 1 else weight * outer
        self.e += (reward * weight) * x
        self.tick += 1
        self.pulls += 1
        self.matured += 1
        self.latest = self.tick
        self.reward_sum += reward
        self.reward_square_sum += reward**2

    def mature(self, x: Array, tick: int, reward: float, weight: float, time: float, was_pending: bool) -> None:
        """Fold the first reward of the decision taken at `tick`. It was not pending if `forget` came before."""
        x, strength = self._vector(x), self.strength(tick, weight)
        checks.number("reward", reward)
        if was_pending:
            self.forget(x, time)
        self.updated = checks.number("time", time)
        self.S += strength * np.outer(x, x)
        self.e += (strength * reward) * x
        self.matured += 1
        self.latest = max(self.latest, tick)
        self.reward_sum += reward
        self.reward_square_sum += reward**2

    def correct(self, x: Array, tick: int, previous: float, reward: float, weight: float, time: float) -> None:
        """Replace the reward `previous` of a matured decision by `reward`."""
        x, strength = self._vector(x), self.strength(tick, weight)
        delta = checks.number("reward", reward) - checks.number("previous", previous)
        self.updated = checks.number("time", time)
        self.e += (strength * delta) * x
        self.reward_sum += delta
        self.reward_square_sum += reward**2 - previous**2

    def retract(self, x: Array, tick: int, reward: float, weight: float, time: float) -> None:
        """Undo `mature`: the decision's only reward was withdrawn, its episode turned out to be cut off."""
        x, strength = self._vector(x), self.strength(tick, weight)
        if self.matured == 0:
            raise ValueError("matured is 0, expected at least 1 decision with a reward")
        checks.number("reward", reward)
        self.updated = checks.number("time", time)
        self.S -= strength * np.outer(x, x)
        self.e -= (strength * reward) * x
        self.matured -= 1
        self.reward_sum -= reward
        self.reward_square_sum -= reward**2

    def forget(self, x: Array, time: float) -> None:
        """Take a decision out of the pending: it was cancelled, timed out or censored."""
        x = self._vector(x)
        if self.pending == 0:
            raise ValueError("pending is 0, expected at least 1 decision without an outcome")
        self.updated = checks.number("time", time)
        self.pending -= 1
        # With nothing pending P is exactly zero, so rounding cannot build up.
        self.P = self.P - np.outer(x, x) if self.pending else np.zeros_like(self.P)

    def answered(self, reward: float, delay_s: float) -> None:
        """Count the first reward of a decision, `delay_s` after it was taken."""
        self.delays[reward >= 0.5][bucket(delay_s)] += 1

    def new_version(self, adapter_hash: str, carry: float) -> None:
        """Other weights under the same name: what was known, and what still comes from before, counts `carry`.

        Drifts lowered κ for the weights that are gone: the new ones are trusted as far as the versions leave it.
        """
        checks.number("carry", carry, 0, 1)
        self._cut(self.tick, carry)
        self.standing *= carry
        self.kappa = self.standing
        self.released = self.pulls
        self.adapter_hash = adapter_hash
        self.watch = Watch()

    def drifted(self, alarm: Alarm, carry: float) -> None:
        """The arm changed: the evidence up to the latest decision that matured counts `carry`, κ is the alarm's.

        Decisions after that one count fully, whenever their rewards come.
        """
        checks.number("carry", carry, 0, 1)
        self._cut(self.latest, carry)
        self.kappa = checks.number("kappa", alarm.kappa, 0, 1)
        self.watch = Watch()
        self.alarms.append(alarm)

    def is_current(self, tick: int) -> bool:
        """Whether the decision taken at `tick` came after every new version and drift."""
        return not self.cuts or tick > self.cuts[-1][0]

    def change_discount(self, discount: float) -> None:
        """Another γ from the next decision on; every decision keeps the weight that it has now."""
        checks.number("discount", discount, 0, 1)
        if discount != self.discount:
            self.rates.append((self.tick, self.discount))
            self.discount = discount

    def contribution(self, key: str) -> float:
        """Σ wᵢ δᵢ that a feedback key's words have brought: what is left of it on the arm's clock.

        Its words are on matured decisions, so that every later cut is of all of it.
        """
        if key not in self.contributed:
            return 0.0
        tick, cuts, weight = self.contributed[key]
        return weight * self._decay(tick) * prod(share for _, share in self.cuts[cuts:])

    def admit(self, key: str, tick: int, weight: float, cap: float) -> float:
        """The share of its `weight` with which a key's word on the decision taken at `tick` counts, noted for the next.

        It is less than 1 where the key's words would hold more than `cap` decisions of the evidence.
        """
        full, held = self.strength(tick, weight), self.contribution(key)
        voice = min(1.0, (cap - held) / full) if full else 1.0
        if voice < _WHISPER:
            return 0.0
        self.contributed[key] = (self.tick, len(self.cuts), held + voice * full)
        return voice

    def to_bytes(self) -> bytes:
        """Exact serialisation: safetensors for the arrays, JSON in its metadata for the rest."""
        arrays = {"S": self.S, "e": self.e, "P": self.P}
        scalars = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in arrays}
        return save(arrays, metadata={"scalars": json.dumps(scalars, allow_nan=False)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` wrote. ValueError: anything else."""
        try:
            arrays = load(data)
            S, e, P = (np.array(arrays[name]) for name in ("S", "e", "P"))
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            scalars = json.loads(header["__metadata__"]["scalars"])
            for name in ("rates", "cuts"):
                scalars[name] = [(int(tick), float(factor)) for tick, factor in scalars[name]]
            scalars["watch"] = Watch(*(Run(*side) for side in scalars["watch"]))
            scalars["alarms"] = [Alarm(*alarm) for alarm in scalars["alarms"]]
            contributed = scalars["contributed"].items()
            scalars["contributed"] = {key: (int(at), int(cuts), float(w)) for key, (at, cuts, w) in contributed}
            return cls(S, e, P, **scalars)
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"arm statistics of {len(data)} bytes are not readable: {error}") from error

    def _vector(self, x: Array) -> Array:
        return checks.array("x", x, self.e.shape)

    def strength(self, tick: int, weight: float) -> float:
        """wᵢ δᵢ of the decision taken at `tick`."""
        if not 1 <= tick <= self.tick:
            raise ValueError(f"tick is {tick}, expected 1 to {self.tick}, the arm's decisions so far")
        left = checks.number("weight", weight, 0) * self._decay(tick)
        for last, share in self.cuts:
            left *= share if tick <= last else 1.0
        return float(left)

    def _decay(self, tick: int) -> float:
        """The product of the discounts since `tick`."""
        left, since = 1.0, tick
        for until, discount in (*self.rates, (self.tick, self.discount)):
            left *= discount ** max(0, until - since)
            since = max(since, until)
        return left

    def _cut(self, last: int, share: float) -> None:
        self.S *= share
        self.e *= share
        self.cuts.append((last, share))
