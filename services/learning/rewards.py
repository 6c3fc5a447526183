"""What a decision teaches, given all that was said of it: rows of the ledger in, rows out. Pure.

Whose word it is: sources are names within a key. A key's word is the mean of its sources' last words; the decision's
reward is the mean over the keys, each weighted by its voice: so nobody outvotes others by inventing sources.
"""

from dataclasses import dataclass
from typing import NamedTuple

from cluster.events import Feedback
from cluster.learner_store import LedgerRow
from policies import checks


@dataclass(frozen=True)
class FeedbackRules:
    """How messy feedback is taken.

    learn_late: whether feedback after the reward window is learned.  timeout_reward: what an answered decision without
    feedback in its window earns; None teaches nothing.  key_cap: the most evidence, in decisions on the arm's clock,
    that one key may hold of an arm; 0 is no limit.
    """

    learn_late: bool = False
    timeout_reward: float | None = None
    key_cap: float = 0.0

    def __post_init__(self) -> None:
        if self.timeout_reward is not None:
            checks.number("timeout_reward", self.timeout_reward, 0, 1)
        checks.number("key_cap", self.key_cap, 0)


class Lesson(NamedTuple):
    """One observation of the arm: a reward and how much it weighs."""

    reward: float
    weight: float


def lesson(row: LedgerRow, rules: FeedbackRules) -> Lesson | None:
    """What the decision teaches as it stands; None while nothing, or nothing that counts, is known."""
    words: dict[str, list[float]] = {}
    for label, reward in row.rewards.items():
        words.setdefault(label.partition("/")[0], []).append(reward)
    voices = {key: row.voices.get(key, 1.0) for key in words}
    if total := sum(voices.values()):
        mean = sum(voices[key] * sum(said) / len(said) for key, said in words.items()) / total
        return Lesson(mean, row.weight * max(voices.values()))
    if rules.timeout_reward is not None and row.status == "timed_out" and row.answered:
        return Lesson(rules.timeout_reward, row.weight)
    return None


def hears(row: LedgerRow, feedback: Feedback, rules: FeedbackRules) -> bool:
    """Whether feedback says something of a decision: not if its window closed, nor of a step that was not taken."""
    if row.rewards:
        return True
    timed_out = row.status == "timed_out" and not rules.learn_late
    return not timed_out and not (row.status == "cancelled" and feedback.episode_id is not None)


def has_word(feedback: Feedback) -> bool:
    """Whether the feedback gives a reward; a truncated episode is censored whatever it earned so far."""
    return feedback.reward is not None and not feedback.truncated


def observed(row: LedgerRow, feedback: Feedback, weight: float, voice: float) -> LedgerRow:
    """The row with this source's newest word in place of its older one; `weight` and `voice` hold from a first word."""
    rewards = {label: reward for label, reward in row.rewards.items() if label != feedback.label}
    voices = row.voices
    if has_word(feedback) and feedback.reward is not None:
        rewards[feedback.label] = feedback.reward
        voices = voices if voice == 1 or feedback.key in voices else {**voices, feedback.key: voice}
    counts = any(voices.get(label.partition("/")[0], 1.0) for label in rewards)
    changes = {
        "rewards": rewards,
        "voices": voices,
        "weight": row.weight if row.rewards else weight,
        "status": "matured" if counts else "censored",
    }
    return row.model_copy(update=changes)


def completed(row: LedgerRow) -> LedgerRow:
    """The answer was generated; where an earlier attempt had given up, a retry has taken the step after all."""
    status = "censored" if row.status == "cancelled" else row.status
    return row.model_copy(update={"answered": True, "status": status})


def closed(row: LedgerRow, status: str, weight: float = 1.0) -> LedgerRow:
    """The row of a pending decision that was cancelled or timed out; others keep what they are."""
    return row.model_copy(update={"status": status, "weight": weight}) if row.status == "pending" else row
