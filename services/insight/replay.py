"""Decisions taken again from the log: each on the posterior that it was based on, with the same policy and seed."""

import math
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np

from cluster.connection import Entry, stream_order
from cluster.events import Basis, Decision
from cluster.request_store import LastStep
from policies.base import Choice, Context, Policy, create
from policies.context import ContextMap
from policies.mixtures import in_blocks
from services.learning.fold import Fold
from services.learning.folded import FoldedPosterior
from services.routing import episodes
from services.routing.offers import drawn_again

_SAME = 1e-9


class Replayed(NamedTuple):
    """A logged decision, what the policy chooses when it is asked again, and what a mixture would turn on again."""

    decision: Decision
    choice: Choice
    gates: dict[str, float]
    layer_gates: dict[str, tuple[float, ...]]

    @property
    def same(self) -> bool:
        """Whether arm, propensity and gates are those of the log."""
        known, again = self.decision, self.choice
        gates = _alike({name: (gate,) for name, gate in known.gates.items()}, {n: (g,) for n, g in self.gates.items()})
        gates = gates and _alike(known.layer_gates, self.layer_gates)
        return gates and known.arm == again.arm and math.isclose(known.propensity, again.propensity, rel_tol=_SAME)


class Replay:
    """Iterates over the decisions of a log that names what each was based on.

    `entries` are the events from the first one on, in stream order; `fold` is empty, and the posterior of `policy` has
    no arms. Both are configured as they were when the decisions were taken. Which policy served, on which beliefs, at
    what costs and with which tunable settings is read from the log: modes may have changed, and the guard may have let
    the supervised one serve.
    """

    def __init__(self, entries: Sequence[Entry], contexts: ContextMap, fold: Fold, policy: Policy) -> None:
        self._ahead = deque(entries)
        self._contexts = contexts
        self._beliefs = FoldedPosterior(fold, policy.posterior)
        self._policy = policy
        self._supervised = create("mlp", policy.posterior, policy.config)
        decisions = [(at, event) for at, event in entries if isinstance(event, Decision) and self._fits(event)]
        self._seen = {at: self._context(decision) for at, decision in decisions}
        self._arm = {at: decision.arm for at, decision in decisions}
        self._own = _own(decisions)
        self._last = dict(_last_steps(decisions))
        self._decisions = [(at, decision, decision.basis) for at, decision in decisions if decision.basis]

    def __iter__(self) -> Iterator[Replayed]:
        """In the order of the snapshots that the decisions were based on."""
        ordered = sorted(self._decisions, key=lambda each: (stream_order(each[2].position), stream_order(each[0])))
        for at, decision, basis in ordered:
            self._advance(basis)
            self._beliefs.know(decision.eligible)
            overlaid = [(self._arm[own], self._seen[own].x) for own in self._overlaid(basis)]
            with_own = self._beliefs.overlay(overlaid)
            rule = decision.mixture
            gates = drawn_again(rule, self._seen[at].gates) if rule else decision.gates
            layers = self._contexts.layer_gates(np.frombuffer(decision.features, np.float16)) if rule else {}
            yield Replayed(decision, self._decide(at, decision), gates, in_blocks(gates, layers) if layers else {})
            self._beliefs.put(with_own)

    def _decide(self, at: str, decision: Decision) -> Choice:
        policy = self._supervised if decision.mode in ("shadow", "fallback") else self._policy
        policy.config = replace(policy.config, **cast(Any, decision.tuning))
        return policy.decide(
            policy.posterior.named(self._seen[at]),
            eligible=decision.eligible,
            costs=dict(zip(decision.eligible, decision.costs, strict=True)),
            seed=decision.episode or decision.id,
            course=episodes.course(self._last[decision.id], self._beliefs.current),
        )

    def _advance(self, basis: Basis) -> None:
        while self._ahead and stream_order(self._ahead[0][0]) <= stream_order(basis.position):
            self._beliefs.fold(self._ahead.popleft()[1])
        if basis.frozen:
            self._beliefs.freeze()
        else:
            self._beliefs.refresh()

    def _overlaid(self, basis: Basis) -> list[str]:
        """Stream ids of the own decisions that counted as pending, in the order in which they became known."""
        if basis.frozen:
            return []
        own, latest = self._own[basis.follower], set(basis.latest)
        start = bisect_right(own, stream_order(basis.position), key=stream_order)
        older: list[str] = []
        while len(older) + len(latest) < basis.pending:
            older += [own[start]] if own[start] not in latest else []
            start += 1
        return older + basis.latest

    def _context(self, decision: Decision) -> Context:
        return self._contexts.map(np.frombuffer(decision.features, np.float16))._replace(task=decision.task)

    def _fits(self, decision: Decision) -> bool:
        return decision.router == self._contexts.fingerprint


def _alike(known: Mapping[str, tuple[float, ...]], again: Mapping[str, tuple[float, ...]]) -> bool:
    return known.keys() == again.keys() and all(
        math.isclose(a, b, rel_tol=_SAME) for name in known for a, b in zip(known[name], again[name], strict=True)
    )


def _own(decisions: Iterable[tuple[str, Decision]]) -> dict[str, list[str]]:
    """Stream ids of each follower's decisions, in stream order."""
    own: dict[str, list[str]] = defaultdict(list)
    for at, decision in decisions:
        if decision.basis:
            own[decision.basis.follower].append(at)
    return own


def _last_steps(decisions: Iterable[tuple[str, Decision]]) -> Iterator[tuple[str, LastStep | None]]:
    """What each decision's episode had come to, by the decision's id."""
    last: dict[str, LastStep] = {}
    for at, decision in decisions:
        yield decision.id, last.get(decision.episode) if decision.episode else None
        if decision.episode and decision.step:
            last[decision.episode] = LastStep(at, decision.arm, decision.step)
