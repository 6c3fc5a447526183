"""The demo's story: what happens when, what other ways of choosing earn, and that nothing is forgotten on the way."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from examples.miniwob import plot
from examples.miniwob.comparison import LAST, Lived, agreement, courses, line
from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.families import NEWER
from examples.miniwob.outcomes import Outcomes, own, worse
from examples.miniwob.story import ALL, KNOWN, REGRESSED, Story, Task, regressing, tell

N = 400


@pytest.fixture(scope="module")
def table() -> Outcomes:
    return Outcomes.load()


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return load_all()


@pytest.fixture(scope="module")
def story(episodes: list[Episode], table: Outcomes) -> Story:
    return tell(episodes, table, N, seed=1)


def test_newer_families_come_after_a_quarter_and_the_swap_half_way(story: Story) -> None:
    assert (len(story.tasks), story.begins) == (N, {KNOWN: 0, ALL: N // 4, REGRESSED: N // 2})
    assert not {task.episode.family for task in story.tasks[: N // 4]} & set(NEWER)
    for phase in (ALL, REGRESSED):
        counts = Counter(task.episode.family for task in story.tasks if task.phase == phase)
        assert set(NEWER) < set(counts)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_an_episode_comes_again_only_when_all_of_its_family_have_come(story: Story) -> None:
    for phase in (KNOWN, ALL, REGRESSED):
        assert max(Counter(task.episode.id for task in story.tasks if task.phase == phase).values()) == 1


def test_a_seed_tells_one_story(episodes: list[Episode], table: Outcomes, story: Story) -> None:
    assert tell(episodes, table, N, seed=1).tasks == story.tasks
    assert tell(episodes, table, N, seed=2).tasks != story.tasks


def test_the_adapter_that_regresses_gets_worse_and_another_one_could_serve(table: Outcomes, story: Story) -> None:
    family = table.families[str(own(story.regressing))]
    others = [arm for arm in table.arms if own(arm) == own(story.regressing) and arm != story.regressing]
    assert table.rate(family, worse(story.regressing)) <= table.rate(family, story.regressing) - 0.2
    assert max(table.rate(family, arm) for arm in others) >= table.rate(family, story.regressing) - 0.1
    assert story.column(story.regressing, ALL) == story.regressing
    assert story.column(story.regressing, REGRESSED) == worse(story.regressing)
    assert story.column("base", REGRESSED) == "base"


def test_without_a_second_adapter_there_is_no_story(table: Outcomes) -> None:
    lonely = Outcomes(table.adapters, ("base", regressing(table)), table.others, {})
    with pytest.raises(ValueError, match="expected a worse version of an adapter that is not alone"):
        regressing(lonely)


class TestComparison:
    """On a table made for it: `a` is good at family a until it regresses, `b` always at b."""

    @pytest.fixture
    def made(self) -> Outcomes:
        rows = {"a/1": (0, 1, 0, 0), "a/2": (0, 1, 1, 0), "b/1": (1, 0, 1, 0)}
        hashes = {"a": "hash-a", "b": "hash-b", "worse/a": "hash-worse"}
        table = {id_: tuple(bool(solved) for solved in row) for id_, row in rows.items()}
        return Outcomes(hashes, ("base", "a", "b"), ("worse/a",), table)

    @pytest.fixture
    def lived(self) -> list[Lived]:
        before, after = [("a/1", "a"), ("a/2", "a"), ("b/1", "b")], [("a/2", "a"), ("a/2", "b")]
        steps = [*((ALL, *step) for step in before), *((REGRESSED, *step) for step in after)]
        success = [True, True, True, False, True]
        return [Lived(*step, "a", won) for step, won in zip(steps, success, strict=True)]

    @pytest.fixture
    def told(self) -> Story:
        return Story(tuple(Task(phase, Episode("a", 1, 1, "", "", ())) for phase in (KNOWN, ALL, REGRESSED)), "a")

    def test_every_way_of_choosing(self, lived: list[Lived], made: Outcomes, told: Story) -> None:
        assert courses(lived, made, told) == {
            "routed": [True, True, True, False, True],
            "supervised": [True, True, False, False, False],
            "best_single": [False, True, True, True, True],
            "base": [False, False, True, False, False],
            "oracle": [True, True, True, True, True],
        }

    def test_agreement_goes_by_the_weights_that_served(self, lived: list[Lived], made: Outcomes) -> None:
        served = [{"a": "hash-a"}, {"a": "hash-a"}, {"b": "hash-b"}, {"a": "hash-worse"}, {"b": "hash-b"}]
        assert agreement(lived, served, made) == 1
        served[3] = {"a": "hash-a"}
        assert agreement(lived, served, made) == 0.8

    def test_mixtures_agree_where_they_were_measured(self, made: Outcomes) -> None:
        rows: dict[str, tuple[bool, ...]] = {
            "a/1": (False, True, True, False, True),
            "a/2": (False, True, True, False, False),
        }
        table = replace(made, others=("worse/a", "soft"), table=rows)
        lived = [Lived(ALL, "a/1", "soft", "a", True), Lived(ALL, "a/2", "soft", "a", True)]
        both, one_worse = {"a": "hash-a", "b": "hash-b"}, {"a": "hash-worse", "b": "hash-b"}
        assert agreement(lived, [both, both], table) == 0.5
        assert agreement(lived, [both, one_worse], table) == 1

    def test_a_line_is_success_and_that_of_the_last_hundred(self) -> None:
        assert line([True] * 100 + [False] * LAST) == (0.5, 0.0)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    names = ("routed", "supervised", "best_single", "base", "oracle")
    success = {name: [bool(i % 3) for i in range(230)] for name in names}
    arms = ["base" if i % 2 else "count-sides" for i in range(230)]
    plot.draw(success, arms, {50: "newer families", 100: "worse"}, tmp_path / "p.png", ["base", "count-sides"])
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
