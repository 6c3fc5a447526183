"""Who gives feedback, and when: coverage and delay of each arm's rewards, and what in them would bias the means."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from policies.delays import later, quantile
from policies.evidence import ArmStatistics

_SURE = 4.0  # standard errors from which a difference is no chance
_LARGE = 0.1  # difference in a share from which it matters


class Answers(NamedTuple):
    """Of an arm's decisions whose waiting is over: how many got an outcome, their share, and its delay in seconds."""

    answered: int
    unanswered: int
    coverage: float | None
    delay_median_s: float | None
    delay_p90_s: float | None


def answers(known: ArmStatistics) -> Answers:
    """What an arm's statistics say of its feedback."""
    delays = _both(known)
    answered, over = sum(delays), sum(delays) + known.unanswered
    share = answered / over if over else None
    return Answers(answered, known.unanswered, share, quantile(delays, 0.5), quantile(delays, 0.9))


def warnings(arms: Mapping[str, ArmStatistics]) -> list[str]:
    """Where feedback depends on the arm or on the reward, so that what has come so far misleads."""
    found = [said for arm, known in arms.items() for said in _by_reward(arm, known)]
    for arm, known in arms.items():
        rest = [other for name, other in arms.items() if name != arm]
        found += _coverage(arm, known, rest)
        found += _delay(arm, known, rest)
    return found


def _by_reward(arm: str, known: ArmStatistics) -> list[str]:
    failures, successes = known.delays
    if not (sum(failures) and sum(successes)):
        return []
    share, errors = later(failures, successes)
    if abs(errors) < _SURE or abs(share - 0.5) < _LARGE:
        return []
    slow, means = ("failures", "too high") if share > 0.5 else ("successes", "too low")
    return [f"{arm}: {slow} come later than the others, so its mean is {means} while rewards are under way"]


def _coverage(arm: str, known: ArmStatistics, rest: Sequence[ArmStatistics]) -> list[str]:
    own, n = sum(_both(known)), sum(_both(known)) + known.unanswered
    others = sum(sum(_both(other)) for other in rest)
    m = others + sum(other.unanswered for other in rest)
    if not n or not m:
        return []
    p, q, pooled = own / n, others / m, (own + others) / (n + m)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    if abs(p - q) < _LARGE or abs(p - q) < _SURE * error:
        return []
    return [f"{arm}: {p:.0%} of its decisions get an outcome, {q:.0%} of the others': whoever is silent may differ"]


def _delay(arm: str, known: ArmStatistics, rest: Sequence[ArmStatistics]) -> list[str]:
    own, others = _both(known), [sum(counts) for counts in zip(*map(_both, rest), strict=True)]
    if not sum(own) or not sum(others):
        return []
    share, errors = later(own, others)
    if abs(errors) < _SURE or abs(share - 0.5) < _LARGE:
        return []
    return [f"{arm}: its outcomes come {'later' if share > 0.5 else 'sooner'} than those of the other arms"]


def _both(known: ArmStatistics) -> list[int]:
    return [sum(counts) for counts in zip(*known.delays, strict=True)]
