"""The tally: what SNIPS over the whole log says, from a few numbers."""

import numpy as np
import pytest

from policies.likelihood import Moment, interval
from policies.tally import Tally


def rows(n: int = 3000) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(0)
    weight = np.where(rng.random(n) < 0.1, rng.uniform(5, 60, n), rng.uniform(1, 1.1, n)) * (rng.random(n) < 0.8)
    reward = np.where(rng.random(n) < 0.5, rng.integers(0, 2, n), rng.random(n))
    return weight.tolist(), reward.tolist()


def tally(weight: list[float], reward: list[float]) -> Tally:
    made = Tally()
    for w, r in zip(weight, reward, strict=True):
        made.add(w, r)
    return made


def test_it_says_what_the_rows_say() -> None:
    weight, reward = rows()
    score = tally(weight, reward).score(0.9)
    moment = Moment(np.array(weight), np.array(reward), np.ones(3000), 0.0, 1.0)
    assert score.units == 3000
    assert score.value == pytest.approx(moment.estimate, abs=2e-4)
    assert score.effective == pytest.approx(moment.effective, rel=1e-3)
    assert score.mean_weight == pytest.approx(np.mean(weight))
    assert (score.low, score.high) == pytest.approx(interval(moment, 0.9, moment.effective), abs=1e-3)


def test_what_is_taken_back_was_never_there() -> None:
    weight, reward = rows(200)
    made = tally(weight, reward)
    for w, r in zip(weight[100:], reward[100:], strict=True):
        made.add(w, r, -1)
    once = tally(weight[:100], reward[:100]).score()
    assert made.score() == pytest.approx(once, abs=1e-6)


def test_without_weight_there_is_no_value() -> None:
    made = Tally()
    assert made.score() == (0, 0.0, 0.0, None, None, None)
    made.add(0.0, 1.0)
    assert made.score() == (1, 0.0, 0.0, None, None, None)


def test_it_goes_on_where_it_was() -> None:
    made = tally(*rows(500))
    again = Tally.from_json(made.to_json())
    assert again.to_json() == made.to_json()
    assert again.score() == made.score()


@pytest.mark.parametrize(("weight", "reward"), [(-1.0, 0.5), (float("inf"), 0.5), (1.0, 1.5)])
def test_what_is_no_unit_is_refused(weight: float, reward: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number"):
        Tally().add(weight, reward)
