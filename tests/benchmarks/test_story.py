"""The story offline: the bandit recovers from what the supervised router does not notice, and the books are kept."""

import numpy as np
import pytest

from benchmarks import story as benchmark
from benchmarks.story import REQUESTS, Memory, checks, differences, experience, interval, memory, play
from examples.miniwob.comparison import Line, Lived
from examples.miniwob.outcomes import own
from examples.miniwob.story import REGRESSED, Story, tell


@pytest.fixture(scope="module")
def known() -> Memory:
    return memory()


@pytest.fixture(scope="module")
def story(known: Memory) -> Story:
    return tell(known.episodes, known.table, REQUESTS, seed=0)


@pytest.fixture(scope="module")
def lived(known: Memory, story: Story) -> list[Lived]:
    return experience(story, known, seed=0)


def test_every_request_is_served_once_and_its_outcome_is_the_tables(
    known: Memory, story: Story, lived: list[Lived]
) -> None:
    assert [(one.phase, one.episode) for one in lived] == [(task.phase, task.episode.id) for task in story.tasks]
    for one in lived:
        assert one.success == known.table.success(one.episode, story.column(one.arm, one.phase))


def test_the_bandit_leaves_the_adapter_that_got_worse_for_the_one_beside_it(story: Story, lived: list[Lived]) -> None:
    family = own(story.regressing)
    mine = [one for one in lived if one.phase == REGRESSED and one.episode.startswith(f"{family}/")]
    early, late = mine[: len(mine) // 5], mine[-(len(mine) // 3) :]
    assert {one.supervised for one in mine} == {story.regressing}
    assert np.mean([one.arm == story.regressing for one in early]) > 0.5
    assert np.mean([one.arm == story.regressing for one in late]) < 0.5
    assert np.mean([one.success for one in late]) > np.mean([one.success for one in early]) + 0.15


def test_a_seed_is_reproducible(known: Memory, story: Story, lived: list[Lived]) -> None:
    assert experience(story, known, seed=0) == lived


def test_without_rewards_nothing_is_noticed(
    known: Memory, story: Story, lived: list[Lived], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "DELAY", len(story.tasks))
    deaf = experience(story, known, seed=0)
    assert np.mean([one.success for one in deaf]) < np.mean([one.success for one in lived]) - 0.05


def test_one_seed_keeps_what_the_demo_promises() -> None:
    lines = play(1)
    assert lines["routed"].last_hundred >= lines["supervised"].last_hundred
    assert lines["routed"].success >= lines["best_single"].success + 0.2
    assert lines["oracle"].success >= max(lines[name].success for name in ("routed", "supervised", "base"))


def test_intervals_are_paired_and_checked_at_their_lower_ends() -> None:
    rng = np.random.default_rng(0)
    hard = rng.uniform(-0.2, 0.2, 50)  # the same hard and easy seeds for all: they cancel in the differences
    of = {"routed": 0.9, "supervised": 0.7, "best_single": 0.5, "oracle": 0.95}
    lines = {name: [Line(value + each, value + each) for each in hard] for name, value in of.items()}
    found = differences(lines)
    assert found["last hundred, routed − oracle"] == pytest.approx((-0.05, -0.05, -0.05))
    assert all(check.ok for check in checks(found))
    lines["oracle"] = [Line(0.99 + each, 0.99 + each) for each in hard]
    assert [check.ok for check in checks(differences(lines))] == [False, True, True]
    mean, low, high = interval(rng.normal(0.3, 0.1, 200))
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / 200**0.5, rel=0.15)
