"""The fold of the event stream: events in, statistics of the arms and ledger rows out. Pure: no clock, no I/O."""

from collections.abc import Iterable, Mapping

import numpy as np

from cluster.events import ArmRegistered, Cancellation, Completion, Decision, Event, Feedback, Timeout
from cluster.learner_store import LedgerRow
from policies.checks import Array
from policies.context import ContextMap
from policies.credit import credit
from policies.detector import Detector
from policies.drift import Alarm
from policies.evidence import ArmStatistics
from policies.prior import LearningConfig, Prior

Ledger = Mapping[str, tuple[Decision, LedgerRow | None]]


class Fold:
    """Folds events in stream order and remembers what they touched since `clear`.

    Several sources for one decision count as their mean. An episode's feedback counts as one observation: the weights
    of its decisions, set by the credit scheme, sum to 1. Truncated means censored: the decision is no longer pending
    and teaches nothing. An arm that is removed keeps what it learned, for its decisions under way and for its return.
    """

    def __init__(self, contexts: ContextMap, config: LearningConfig, arms: Mapping[str, ArmStatistics]) -> None:
        self._contexts = contexts
        self._config = config
        self._detector = Detector(Prior(contexts.statistics, config))
        self._size = contexts.input_dimension * np.dtype(np.float16).itemsize
        self.arms = dict(arms)
        for statistics in self.arms.values():
            statistics.change_discount(config.discount)
        self.clear()

    def clear(self) -> None:
        """Forget what was touched: it has been committed."""
        self.touched: set[str] = set()
        self.rows: dict[str, LedgerRow] = {}
        self.alarms: list[tuple[str, Alarm]] = []
        self._decisions: dict[str, Decision] = {}

    @staticmethod
    def references(events: Iterable[Event]) -> set[str]:
        """Ids of the decisions that `apply` needs the ledger of."""
        ids: set[str] = set()
        for event in events:
            if isinstance(event, Feedback):
                ids.update(event.members)
            elif isinstance(event, Completion | Cancellation | Timeout):
                ids.add(event.decision_id)
        return ids

    def apply(self, event: Event, ledger: Ledger) -> None:
        """Fold one event. `ledger` holds the decisions that it refers to, as of the last commit."""
        match event:
            case Decision():
                self._decide(event)
            case Feedback(late=True):
                for member in event.members:
                    self._settle(member, "timed_out", event.time, ledger)
            case Feedback():
                counted = [member for member in event.members if self._counts(member, event, ledger)]
                shares = credit(self._config.credit, len(counted), self._config.credit_discount)
                for member, share in zip(counted, shares, strict=True):
                    self._observe(event, member, share, ledger)
            case Completion():
                self._complete(event.decision_id, ledger)
            case Cancellation():
                self._settle(event.decision_id, "cancelled", event.time, ledger)
            case Timeout():
                self._settle(event.decision_id, "timed_out", event.time, ledger)
            case ArmRegistered():
                self._register(event)

    def _decide(self, decision: Decision) -> None:
        if not self._fits(decision):
            return
        statistics = self._arm(decision.arm)
        if statistics.adapter_hash is None:
            statistics.adapter_hash = decision.adapters.get(decision.arm)
        tick = statistics.pull(self._context(decision), decision.time)
        self._decisions[decision.id] = decision
        self.rows[decision.id] = LedgerRow(tick=tick, arm=decision.arm, status="pending", weight=1.0, rewards={})

    def _counts(self, decision_id: str, feedback: Feedback, ledger: Ledger) -> bool:
        """Whether feedback says something of a decision: not if its window closed, nor of a step that was not taken."""
        found = self._find(decision_id, ledger)
        if found is None:
            return False
        row = found[1]
        closed = row.status == "timed_out" or (row.status == "cancelled" and feedback.episode_id is not None)
        return bool(row.rewards) or not closed

    def _complete(self, decision_id: str, ledger: Ledger) -> None:
        """A retry finished what an earlier attempt had given up: the step was taken after all."""
        found = self._find(decision_id, ledger)
        if found and found[1].status == "cancelled":
            self.rows[decision_id] = found[1].model_copy(update={"status": "censored"})

    def _observe(self, feedback: Feedback, decision_id: str, share: float, ledger: Ledger) -> None:
        found = self._find(decision_id, ledger)
        if found is None:
            return
        decision, row = found
        rewards = {source: reward for source, reward in row.rewards.items() if source != feedback.source}
        if not feedback.truncated and feedback.reward is not None:
            rewards[feedback.source] = feedback.reward
        weight = row.weight if row.rewards else share
        status = "matured" if rewards else "censored"
        updated = row.model_copy(update={"rewards": rewards, "weight": weight, "status": status})
        self._learn(decision, row, updated, feedback.time)
        self.rows[decision_id] = updated

    def _learn(self, decision: Decision, before: LedgerRow, after: LedgerRow, time: float) -> None:
        """Move the arm's evidence from one row of the ledger to the next."""
        x, statistics = self._context(decision), self._arm(after.arm)
        if before.rewards and after.rewards:
            statistics.correct(x, after.tick, _mean(before), _mean(after), after.weight, time)
        elif before.rewards:
            statistics.retract(x, before.tick, _mean(before), before.weight, time)
        elif after.rewards:
            pending = before.status == "pending"
            taught = (x, after.tick, _mean(after), after.weight, time, pending)
            if alarm := self._detector.mature(after.arm, statistics, *taught):
                self.alarms.append((after.arm, alarm))
        elif before.status == "pending":
            statistics.forget(x, time)

    def _settle(self, decision_id: str, status: str, time: float, ledger: Ledger) -> None:
        found = self._find(decision_id, ledger)
        if found and found[1].status == "pending":
            decision, row = found
            self.rows[decision_id] = row.model_copy(update={"status": status})
            self._arm(row.arm).forget(self._context(decision), time)

    def _find(self, decision_id: str, ledger: Ledger) -> tuple[Decision, LedgerRow] | None:
        """The decision and its row, unless it is unknown or was not folded."""
        decision, row = ledger.get(decision_id, (None, None))
        decision = self._decisions.get(decision_id, decision)
        row = self.rows.get(decision_id, row)
        if decision and row and row.arm in self.arms and self._fits(decision):
            return decision, row
        return None

    def _fits(self, decision: Decision) -> bool:
        """Whether the features are of the model that the context map was made for."""
        return len(decision.features) == self._size

    def _register(self, event: ArmRegistered) -> None:
        known = self._arm(event.arm)
        if known.adapter_hash is None:
            known.adapter_hash = event.adapter_hash
        elif event.adapter_hash is not None and known.adapter_hash != event.adapter_hash:
            known.new_version(event.adapter_hash, self._config.version_carry)

    def _arm(self, arm: str) -> ArmStatistics:
        """The arm's statistics, to be changed; an unknown arm starts empty."""
        self.touched.add(arm)
        if arm not in self.arms:
            self.arms[arm] = ArmStatistics.empty(self._contexts.dimension, self._config.discount)
        return self.arms[arm]

    def _context(self, decision: Decision) -> Array:
        return self._contexts.map(np.frombuffer(decision.features, np.float16)).x


def _mean(row: LedgerRow) -> float:
    return sum(row.rewards.values()) / len(row.rewards)
