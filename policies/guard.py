"""Whether a policy is worse than its reference, asked after every reward: a test that may be looked at at any time.

Capital is bet on "worse". At each unit of the log it multiplies by 1 + λz, where λ is set before the unit and z is at
most zero on average while the policy is at most `margin` worse. So the capital ever reaches 1/δ with a probability of
at most δ (Ville). With w what the unit weighs under the policy, w' under its reference, q and q' their mean rewards:
    plain  z = w'r − (1 − w(1−r)) − margin                       never below −1 − margin, whatever the weights
    sharp  z = q' + w'(r−q') − (q + w(r−q)) − margin             less noise, but needs bounds on the weights
Where both choose the same z is −margin (Waudby-Smith, Wu, Ramdas, Karampatziakis, Mineiro 2022; Howard et al. 2021).

The capital is spread over both, over several λ, and over bets that begin later, so that a policy which turns bad after
a good time is found too (kin to the e-detectors of Shin, Ramdas and Rinaldo 2023). Dropping a bet only loses capital.
"""

import json
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from policies import checks
from policies.checks import Array

_STAKES = 2.0 ** -np.arange(1, 8)  # shares of a bet's capital that one unit may cost
_SHAPE = (2, len(_STAKES))
_SHARE = 1 / (2 * len(_STAKES))
_MOST = 700.0  # the logarithm of about the largest float


@dataclass(frozen=True)
class GuardConfig:
    """What the guard promises, and what it needs to know of the logging.

    delta: chance that a policy which is not worse ever raises the alarm.  margin: reward by which it may be worse.
    weight, reference_weight: most that a unit can weigh under the policy and under its reference; 1/p of their arms.
    restart: units after which another bet begins.  bets: how many are kept.
    """

    delta: float = 0.01
    margin: float = 0.01
    weight: float = 1 / 0.95
    reference_weight: float = 50.0
    restart: int = 500
    bets: int = 12

    def __post_init__(self) -> None:
        checks.number("delta", self.delta, np.finfo(np.float64).tiny, 1)
        checks.number("margin", self.margin, 0, 1)
        for name in ("weight", "reference_weight", "restart", "bets"):
            checks.number(name, getattr(self, name), 1)


@dataclass(eq=False)
class Guard:
    """`capital` [bets, 2, stakes] in logarithms; `alarm` is the number of the unit at which their sum reached 1/δ."""

    config: GuardConfig
    units: int = 0
    differing: int = 0
    begun: int = 0
    alarm: int | None = None
    own: tuple[float, float] = (1.0, 0.5)  # Σw, Σwr where the policies differ, after one unit of reward 0.5
    other: tuple[float, float] = (1.0, 0.5)
    capital: Array = field(default_factory=lambda: np.zeros((0, *_SHAPE)))

    def observe(self, weight: float, reference: float, reward: float, *, same: bool) -> bool:
        """Take one unit: its weights w and w', its reward in [0, 1], whether both policies choose the same there.

        True if this raised the alarm. `same` must be known without the arm that served.
        """
        checks.number("reward", reward, 0, 1)
        checks.number("weight", weight, 0)
        checks.number("reference", reference, 0)
        if self.units % self.config.restart == 0:
            self._begin()
        self.units += 1
        self.capital = self.capital + np.log1p(np.multiply.outer(self._gains(weight, reference, reward, same), _STAKES))
        if not same:
            self.differing += 1
            self.own = self.own[0] + weight, self.own[1] + weight * reward
            self.other = self.other[0] + reference, self.other[1] + reference * reward
        if self.alarm is None and self.evidence >= 1:
            self.alarm = self.units
            return True
        return False

    @property
    def evidence(self) -> float:
        """The capital as a share of 1/δ: the alarm is raised at 1. Finite, however long it has been growing since."""
        if not self.units:
            return 0.0
        most = float(self.capital.max())
        logarithm = most + float(np.log(np.exp(self.capital - most).sum() * self.config.delta))
        return float(np.exp(min(logarithm, _MOST)))

    def to_json(self) -> str:
        """Exact serialisation."""
        return json.dumps(vars(self) | {"config": vars(self.config), "capital": self.capital.tolist()})

    @classmethod
    def from_json(cls, text: str, config: GuardConfig) -> Self:
        """What `to_json` wrote; a fresh guard if it was configured otherwise, as its promise would not hold."""
        stored = json.loads(text)
        if stored.pop("config") != vars(config):
            return cls(config)
        capital = np.array(stored.pop("capital"), dtype=np.float64).reshape(-1, *_SHAPE)
        return cls(config, capital=capital, **stored)

    def _gains(self, weight: float, reference: float, reward: float, same: bool) -> tuple[float, float]:
        """z of both kinds of bet, each as a share of the most that it can lose."""
        limits, margin = self.config, self.config.margin
        own, other = self.own[1] / self.own[0], self.other[1] / self.other[0]
        plain = 0.0 if same else reference * reward - 1 + weight * (1 - reward)
        sharp = 0.0 if same else other + reference * (reward - other) - own - weight * (reward - own)
        least = 1 + margin + max(limits.reference_weight * other, limits.weight * (1 - own))
        return (plain - margin) / (1 + margin), max((sharp - margin) / least, -1.0)

    def _begin(self) -> None:
        """Another bet with its share 1/((k+1)(k+2)) of the capital; the poorest goes where there are too many."""
        share = _SHARE / ((self.begun + 1) * (self.begun + 2))
        self.begun += 1
        self.capital = np.concatenate([self.capital, np.full((1, *_SHAPE), np.log(share))])
        if len(self.capital) > self.config.bets:
            poorest = int(self.capital[:-1].max(axis=(1, 2)).argmin())
            self.capital = np.delete(self.capital, poorest, axis=0)
