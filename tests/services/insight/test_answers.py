"""Coverage and delay of feedback: counted as decisions end, shown, and warned of where they would mislead."""

import numpy as np
import pytest

from cluster.events import Event, Timeout
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from policies.prior import LearningConfig
from services.insight.answers import Answers, answers, warnings
from services.learning.fold import Fold
from tests.services.learning.test_fold import decision, reward
from tests.services.world import World


def arm(failures: list[float], successes: list[float], unanswered: int = 0) -> ArmStatistics:
    made = ArmStatistics.empty(2, 1.0)
    for value, delays in ((0.0, failures), (1.0, successes)):
        for delay in delays:
            made.answered(value, delay)
    made.unanswered = unanswered
    return made


def test_what_is_counted(contexts: ContextMap) -> None:
    fold = Fold(contexts, LearningConfig(), {})
    events: list[Event] = [
        *(decision(f"d{i}") for i in range(5)),
        reward("d0", 1.0, time=3.0),
        reward("d0", 0.0, time=900.0),
        reward("d1", 0.4, time=9.0),
        reward("d2", None, time=4.0),
        Timeout(time=500.0, decision_id="d3"),
    ]
    for event in events:
        fold.apply(event, {})
    known = ArmStatistics.from_bytes(fold.arms["inbox"].to_bytes())
    assert known.unanswered == 1
    assert [sum(counts) for counts in known.delays] == [1, 1]
    found = answers(known)
    assert (found.answered, found.unanswered) == (2, 1)
    assert found.coverage == pytest.approx(2 / 3)
    assert 1 < (found.delay_median_s or 0) < 4 < (found.delay_p90_s or 0) < 16


def test_an_arm_of_which_nothing_is_known() -> None:
    assert answers(ArmStatistics.empty(2, 1.0)) == Answers(0, 0, None, None, None)
    assert warnings({"a": ArmStatistics.empty(2, 1.0), "b": ArmStatistics.empty(2, 1.0)}) == []
    assert warnings({}) == []


def test_feedback_that_depends_on_nothing_is_no_warning() -> None:
    rng = np.random.default_rng(0)
    drawn = [rng.exponential(60, size=200).tolist() for _ in range(6)]
    arms = {name: arm(drawn[2 * i], drawn[2 * i + 1], unanswered=80 + i) for i, name in enumerate("abc")}
    assert warnings(arms) == []


def test_a_reward_that_comes_late_because_of_what_it_is() -> None:
    fast, slow = [1.0] * 60, [100.0] * 60
    (said,) = warnings({"a": arm(slow, fast)})
    assert said == "a: failures come later than the others, so its mean is too high while rewards are under way"
    (said,) = warnings({"a": arm(fast, slow)})
    assert "a: successes come later" in said
    assert "too low" in said


def test_coverage_that_depends_on_the_arm() -> None:
    delays = [5.0] * 50
    said = warnings({"quiet": arm(delays, delays, unanswered=400), "a": arm(delays, delays), "b": arm(delays, delays)})
    assert said[0] == "quiet: 20% of its decisions get an outcome, 100% of the others': whoever is silent may differ"


def test_delay_that_depends_on_the_arm() -> None:
    said = warnings({"slow": arm([500.0] * 60, [500.0] * 60), "a": arm([5.0] * 60, [5.0] * 60)})
    assert said == [
        "slow: its outcomes come later than those of the other arms",
        "a: its outcomes come sooner than those of the other arms",
    ]


async def test_it_is_shown(world: World) -> None:
    answer = await world.ask("open the inbox")
    await world.ask("open the inbox")
    await world.say({"decision_id": answer["id"], "reward": 1})
    await world.store.post_timeouts(1e12)
    known = await world.arm("inbox")
    answered, unanswered, coverage, median, p90 = known["answers"]
    assert (answered, unanswered, coverage) == (1, 1, 0.5)
    assert 0 < median == p90
    assert (await world.get("/v1/bandit"))["warnings"] == []
    text = (await world.http.get("/metrics")).text
    assert 'pointsman_feedback_coverage{arm="inbox"} 0.5' in text
    assert f'pointsman_feedback_delay_seconds{{arm="inbox",quantile="0.9"}} {p90}' in text
    assert 'pointsman_feedback_coverage{arm="claims"}' not in text
