"""The benchmark of training: what its data are, and that each promise can be broken."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.routers.learning import found
from benchmarks.routers.world import World
from benchmarks.training import ONE_FOR_ALL, checks, parameters
from examples.miniwob.paths import COMPARISONS
from services.training.examples import divide, read


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.make(tmp_path_factory.mktemp("world") / "d.jsonl", 6, 3)


def test_whole_seeds_are_held_out_others_are_never_seen_and_every_target_is_right(world: World) -> None:
    examples = divide(read(world.path), 0.3, 0)
    assert sum(e.is_held_out for e in examples) * 3 == len(examples) == 6 * 10
    assert len(world.unseen) == 3 * 10
    assert all(e.boxes and e.target for e in examples)
    seeds = {int(e.group.rpartition("/")[2]) for e in examples}
    assert seeds.isdisjoint({episode.seed for episode in world.unseen})
    with pytest.raises(ValueError, match="at most 210 of a family"):
        World.make(world.path.with_name("e.jsonl"), 200, 11)


def test_without_labels_a_row_says_nothing_of_adapters(tmp_path: Path) -> None:
    made = World.make(tmp_path / "d.jsonl", 2, 1, labelled=False)
    for e in read(made.path):
        assert (e.label, e.task, dict(e.outcomes)) == ("", "", {})
        assert e.target


def test_success_is_that_of_the_outcome_table_by_family(world: World) -> None:
    assert world.success(world.own()) == pytest.approx(world.success(world.best()), abs=0.1)
    base, one = (world.success(world.alone(column)) for column in ("base", ONE_FOR_ALL))
    assert base < one <= world.success(world.best())
    assert set(found(world, world.own()).values()) == {1.0}
    by_family = world.by_family(world.earned(world.alone("base")))
    assert base == pytest.approx(np.mean(list(by_family.values())))


def test_one_for_all_has_as_many_weights_as_the_specialists(world: World) -> None:
    assert parameters([ONE_FOR_ALL], COMPARISONS) == 936_192
    assert parameters(set(world.own())) <= 1.01 * 936_192


GOOD: dict[str, Any] = {
    "accuracy": 0.99,
    "success": {
        "oracle": 0.9, "stage 1": 0.9, "stage 2": 0.9, "as kept": 0.9, "no labels": 0.85, ONE_FOR_ALL: 0.8,
    },
    "parameters": {"routed": 100, ONE_FOR_ALL: 100},
    "unbalanced": {"on": {"rare_recall": 0.95, "alarms": []}, "off": {"rare_recall": 0.2, "alarms": ["a is lost"]}},
    "kept": "stage 2",
    "answers": {"episodes": 9, "stage 2": 0.9},
    "served": {"hard": {"success": 0.9}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("at", "value", "name"),
    [
        (("accuracy",), 0.9, "stage 1 accuracy"),
        (("success", "no labels"), 0.8, "share of the oracle without labels"),
        (("success", "stage 2"), 0.89, "stage 2 over stage 1"),
        (("success", "as kept"), 0.89, "what was kept over stage 1"),
        (("unbalanced", "on", "rare_recall"), 0.8, "rare recall, balanced"),
        (("unbalanced", "off", "rare_recall"), 0.7, "rare recall, not balanced"),
        (("unbalanced", "on", "alarms"), ["a takes over"], "alarms, balanced"),
        (("unbalanced", "off", "alarms"), [], "alarms, not balanced"),
        (("success", ONE_FOR_ALL), 0.9, "routed specialists over one LoRA for all"),
        (("parameters", "routed"), 102, "weights of the specialists"),
        (("served", "hard", "success"), 0.85, "hard through HTTP"),
    ],
)
def test_a_promise_that_is_not_kept_is_seen(at: tuple[str, ...], value: Any, name: str) -> None:
    assert all(check.ok for check in checks(GOOD))
    broken = copy.deepcopy(GOOD)
    inner = broken
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    (fault,) = [check.name for check in checks(broken) if not check.ok]
    assert fault.startswith(name)
