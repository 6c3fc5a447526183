"""The fold of the event stream: events in, statistics of the arms and ledger rows out. Pure: no clock, no I/O."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np

from cluster.events import (
    CUSTOM,
    ArmRegistered,
    ArmRenamed,
    Cancellation,
    Completion,
    Decision,
    DriftFound,
    Event,
    Feedback,
    GuardReset,
    ModeChanged,
    RouterActivated,
    Timeout,
)
from cluster.learner_store import LedgerRow
from policies import Context
from policies.checks import Array
from policies.context import ContextMap
from policies.credit import credit
from policies.detector import Detector
from policies.evidence import ArmStatistics
from policies.prior import LearningConfig, Prior
from services.learning import rewards
from services.learning.population import Population
from services.learning.rewards import FeedbackRules
from services.learning.states import WATCH, States
from services.learning.timeline import TIMELINE, Timeline
from services.learning.watch import Watch, WatchConfig

Ledger = Mapping[str, tuple[Decision, LedgerRow | None]]


class Fold:
    """Folds events in stream order and remembers what they touched since `clear`.

    A decision's row says what it teaches (`services/learning/rewards.py`); the evidence of its arm follows the row. An
    episode's feedback counts as one observation: the weights of its decisions, set by the credit scheme, sum to 1.
    Truncated means censored: the decision is no longer pending and teaches nothing. An arm that is removed keeps what
    it learned, for its decisions under way and for its return. `drifts` are the alarms that rewards raised.
    """

    def __init__(
        self,
        contexts: ContextMap,
        config: LearningConfig,
        arms: Mapping[str, ArmStatistics],
        rules: FeedbackRules = FeedbackRules(),
        watching: WatchConfig = WatchConfig(),
        states: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        self._contexts = contexts
        self._config = config
        self._detector = Detector(Prior(contexts.statistics, config))
        self._rules = rules
        self._size = contexts.input_dimension * np.dtype(np.float16).itemsize
        self.states = States({name: data for name, data in states.items() if not name.startswith(TIMELINE)})
        self.watch = Watch(watching, contexts, config, states.get(WATCH))
        self.timeline = Timeline({name: data for name, data in states.items() if name.startswith(TIMELINE)})
        self.population = Population(arms, contexts.dimension, config, self.watch.change)
        self.clear()

    @property
    def arms(self) -> dict[str, ArmStatistics]:
        """The statistics of every arm by its name now."""
        return self.population.arms

    def clear(self) -> None:
        """Forget what was touched: it has been committed."""
        self.population.clear()
        self.states.clear()
        self.watch.touched = False
        self.timeline.clear()
        self.rows: dict[str, LedgerRow] = {}
        self.drifts: list[DriftFound] = []
        self._decisions: dict[str, Decision] = {}

    @property
    def gone(self) -> set[str]:
        """Names of arms and states that are no more."""
        return self.population.removed | self.timeline.removed

    def changed(self) -> dict[str, bytes]:
        """What was touched, serialised: arms by name, and states, whose names no arm has."""
        if self.watch.touched:
            self.states.put(WATCH, self.watch.to_bytes())
        arms = {arm: self.arms[arm].to_bytes() for arm in sorted(self.population.touched)}
        return arms | self.states.changed | self.timeline.changed()

    @staticmethod
    def references(*events: Event) -> set[str]:
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
            case Feedback():
                self._hear(event, ledger)
            case Completion():
                self._change(event.decision_id, event.time, ledger, rewards.completed)
            case Cancellation():
                self._change(event.decision_id, event.time, ledger, lambda row: rewards.closed(row, "cancelled"))
            case Timeout():
                weight = 1.0 / event.members
                expire = partial(rewards.closed, status="timed_out", weight=weight)
                self._change(event.decision_id, event.time, ledger, expire)
            case ArmRegistered():
                self.population.register(event)
            case ArmRenamed():
                self.population.rename(event.arm, event.to)
                self.states.rename(event.arm, event.to)
            case ModeChanged():
                self.states.change_mode(event.mode, self.arms)
            case GuardReset() | RouterActivated():  # the supervised router that it compares with is another now
                self.watch.reset_guard()
            case _:  # it says what others have done, and changes nothing that is known
                pass

    def _decide(self, decision: Decision) -> None:
        if not self._fits(decision) or decision.arm == CUSTOM:
            return
        context = self._mapped(decision)
        known = {arm: found for arm in decision.eligible if (found := self.population.known(arm))}
        watched = self.watch.weigh(decision, context, known)
        statistics = self.population.change(decision.arm)
        if statistics.adapter_hash is None and len(decision.adapters) == 1:
            (statistics.adapter_hash,) = decision.adapters.values()
        tick = statistics.pull(context.x, decision.time)
        self._decisions[decision.id] = decision
        self.timeline.decide(decision)
        row = LedgerRow(tick=tick, arm=decision.arm, status="pending", weight=1.0, rewards={}, watched=watched)
        self.rows[decision.id] = row

    def _hear(self, feedback: Feedback, ledger: Ledger) -> None:
        known = {member: found for member in feedback.members if (found := self._find(member, ledger))}
        if feedback.late and not self._rules.learn_late:
            expire = partial(rewards.closed, status="timed_out", weight=1.0 / len(feedback.members))
            for member in known:  # its time-out will not come any more
                self._change(member, feedback.time, ledger, expire)
            return
        heard = [member for member, (_, row) in known.items() if rewards.hears(row, feedback, self._rules)]
        shares = credit(self._config.credit, len(heard), self._config.credit_discount)
        for member, share in zip(heard, shares, strict=True):
            self._observe(feedback, member, share, ledger)
        if heard:
            self._score(feedback, heard, ledger)

    def _score(self, feedback: Feedback, heard: Sequence[str], ledger: Ledger) -> None:
        """Score the policies by a unit: a decision by itself, or an episode that is rewarded as a whole."""
        steps = [found for member in heard if (found := self._find(member, ledger))]
        if not steps or (feedback.decision_id and steps[0][0].step):
            return
        rows = dict(zip(heard, (row for _, row in steps), strict=True))
        keeper = next((member for member, row in rows.items() if row.counted), heard[0])
        lesson = rewards.lesson(rows[heard[0]], self._rules)
        unit = [row.watched for row in rows.values() if row.watched]
        counted = self.watch.count(unit, rows[keeper].counted, lesson.reward if lesson else None)
        self.rows[keeper] = rows[keeper].model_copy(update={"counted": counted})

    def _observe(self, feedback: Feedback, decision_id: str, share: float, ledger: Ledger) -> None:
        def follow(row: LedgerRow) -> LedgerRow:
            weight = row.weight if row.rewards else share
            return rewards.observed(row, feedback, weight, self._voice(row, feedback, weight))

        self._change(decision_id, feedback.time, ledger, follow)

    def _voice(self, row: LedgerRow, feedback: Feedback, weight: float) -> float:
        """The key's share of a full voice in a decision: less than 1 where it would hold more evidence than it may.

        Room that a first word took stays taken, even if the word is withdrawn.
        """
        key, cap = feedback.key, self._rules.key_cap
        if not cap or not rewards.has_word(feedback) or any(of.partition("/")[0] == key for of in row.rewards):
            return 1.0
        return self.population.change(row.arm).admit(key, row.tick, weight, cap)

    def _change(self, decision_id: str, time: float, ledger: Ledger, step: Callable[[LedgerRow], LedgerRow]) -> None:
        """Take a decision's row one step further, and the arm's evidence with it."""
        if found := self._find(decision_id, ledger):
            decision, before = found
            after = step(before)
            if after != before:
                self.rows[decision_id] = after
                self._teach(decision, before, after, time)
                self._count(decision, before, after, time)
                self.timeline.change(decision, before, after, self._rules)

    def _teach(self, decision: Decision, before: LedgerRow, after: LedgerRow, time: float) -> None:
        """Move the arm's evidence from one row of the ledger to the next."""
        was, now = rewards.lesson(before, self._rules), rewards.lesson(after, self._rules)
        released = before.status == "pending" and after.status != "pending"
        if was == now and not released:
            return
        x, statistics, tick = self._context(decision), self.population.change(after.arm), after.tick
        if was and now and was.weight == now.weight:
            statistics.correct(x, tick, was.reward, now.reward, now.weight, time)
            return
        if was:
            statistics.retract(x, tick, was.reward, was.weight, time)
            if now:
                statistics.mature(x, tick, now.reward, now.weight, time, was_pending=False)
        elif now:
            taught = (x, tick, now.reward, now.weight, time, released)
            if alarm := self._detector.mature(after.arm, statistics, *taught):
                arm = self.population.current(after.arm)
                self.drifts.append(DriftFound(arm=arm, decision_id=decision.id, **alarm._asdict()))
        elif released:
            statistics.forget(x, time)

    def _count(self, decision: Decision, before: LedgerRow, after: LedgerRow, time: float) -> None:
        """Keep account of who gets an answer, and when."""
        statistics = self.population.change(after.arm)
        if after.rewards and not before.rewards:
            mean = sum(after.rewards.values()) / len(after.rewards)
            statistics.answered(mean, time - decision.time)
            statistics.unanswered -= before.status == "timed_out"
        elif after.status == "timed_out" != before.status:
            statistics.unanswered += 1

    def _find(self, decision_id: str, ledger: Ledger) -> tuple[Decision, LedgerRow] | None:
        """The decision and its row, unless it is unknown or was not folded."""
        decision, row = ledger.get(decision_id, (None, None))
        decision = self._decisions.get(decision_id, decision)
        row = self.rows.get(decision_id, row)
        if decision and row and self.population.known(row.arm) and self._fits(decision):
            return decision, row
        return None

    def _fits(self, decision: Decision) -> bool:
        """Whether the features are of the model that the context map was made for."""
        return len(decision.features) == self._size

    def _context(self, decision: Decision) -> Array:
        return self._mapped(decision).x

    def _mapped(self, decision: Decision) -> Context:
        return self._contexts.map(np.frombuffer(decision.features, np.float16))._replace(task=decision.task)
