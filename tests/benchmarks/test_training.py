"""The benchmark of training: what its data are, and that each promise can be broken."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.routers.world import World
from benchmarks.training import checks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world") / "d.jsonl", 6)


def test_whole_seeds_are_held_out_and_every_target_is_right(world: World) -> None:
    examples = world.examples
    assert [i for i, e in enumerate(examples) if e.is_held_out] == world.judged
    assert len(world.judged) * 3 == len(examples) == 6 * 10
    assert all(episode.success(e.target) for episode, e in zip(world.episodes, examples, strict=True))
    assert all(
        e.label.removesuffix("-b") == episode.family for episode, e in zip(world.episodes, examples, strict=True)
    )


def test_without_labels_a_row_says_nothing_of_adapters(tmp_path: Path) -> None:
    for e in World.make(tmp_path / "d.jsonl", 2, labelled=False).examples:
        assert (e.label, e.task, dict(e.outcomes)) == ("", "", {})
        assert e.target


def test_success_is_that_of_the_outcome_table_by_family(world: World) -> None:
    own = [world.table.best_own(world.episodes[i].family) for i in world.judged]
    assert world.success(own) == pytest.approx(world.oracle(), abs=0.1)
    assert world.alone("base") < world.alone("one-for-all") < 1.0
    assert set(world.found(own).values()) == {1.0}


def figures(**changes: Any) -> dict[str, Any]:
    def decided(stage: str) -> dict[str, Any]:
        return {"stage": stage, "against": "before", "success": 0.9, "before": 0.9, "kept": True}

    good: dict[str, Any] = {
        "quick": False,
        "accuracy": 0.99,
        "oracle": 0.9,
        "success": {"stage 1": 0.9, "stage 2, no labels": 0.85, "one-for-all": 0.8},
        "decisions": [decided("stage 2"), decided("stage 3")],
        "unbalanced": {"on": {"rare_recall": 0.95, "alarms": []}, "off": {"rare_recall": 0.2, "alarms": ["a is lost"]}},
    }
    return good | changes


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        ({"accuracy": 0.9}, "stage 1 accuracy"),
        ({"oracle": 1.0}, "share of the oracle without labels"),
        ({"success": {"stage 1": 0.7, "stage 2, no labels": 0.85, "one-for-all": 0.8}}, "routed specialists"),
    ],
)
def test_a_promise_that_is_not_kept_is_seen(broken: dict[str, Any], name: str) -> None:
    assert all(check.ok for check in checks(figures()))
    assert next(check.name for check in checks(figures(**broken)) if not check.ok).startswith(name)
