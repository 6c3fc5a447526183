"""The committed world is what it claims to be."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from safetensors import safe_open

from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.evaluate import sample
from examples.miniwob.families import FAMILIES, KEPT, NEWER
from examples.miniwob.measurement import MIXTURES, columns_of, hashes, solve
from examples.miniwob.outcomes import Outcomes, own, worse
from examples.miniwob.paths import ADAPTERS, MODEL, ROUTER, WORSE
from examples.miniwob.probe import probe
from examples.miniwob.train_router import judge, read_features
from policies.context import ContextMap
from services.adapters.registry import Registry
from services.engine.loading import load
from services.engine.routed import RoutedEngine

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return load_all()


@pytest.fixture(scope="module")
def table() -> Outcomes:
    return Outcomes.load()


def test_the_model_is_a_small_qwen3_vl() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    with safe_open(MODEL / "model.safetensors", framework="numpy") as weights:
        parameters = sum(int(np.prod(weights.get_slice(name).get_shape())) for name in sorted(weights.keys()))
    assert parameters <= 8_000_000


def test_every_family_has_an_adapter_of_its_own_and_enough_episodes(episodes: list[Episode]) -> None:
    assert {episode.family for episode in episodes} == set(KEPT)
    assert set(KEPT) <= set(Registry(ADAPTERS).paths)
    assert len(KEPT) >= 8
    for family in KEPT:
        assert len({episode.seed for episode in episodes if episode.family == family}) >= 200


def test_tasks_of_several_clicks_are_recorded_click_by_click(episodes: list[Episode]) -> None:
    several = {name: len(FAMILIES[name].steps) for name in KEPT if len(FAMILIES[name].steps) > 1}
    assert several
    for name, steps in several.items():
        seen = [episode for episode in episodes if episode.family == name]
        assert {episode.step for episode in seen} == set(range(1, steps + 1))
        screens = {(episode.seed, episode.step): episode.image for episode in seen}
        for seed in {episode.seed for episode in seen}:
            assert len({screens[seed, step] for step in range(1, steps + 1)}) == steps  # each click shows


def test_adapters_are_not_all_of_one_shape_and_two_families_have_a_second_one() -> None:
    adapters = list(Registry(ADAPTERS))
    assert len(adapters) >= 10
    assert len({(adapter.rank, adapter.targets) for adapter in adapters}) >= 4
    homes = Counter(own(adapter.name) for adapter in adapters)
    assert sum(count > 1 for count in homes.values()) >= 2


def test_the_table_is_of_the_adapters_that_are_there(table: Outcomes) -> None:
    assert table.adapters == hashes()
    assert table.arms == Registry(ADAPTERS).arms


def test_specialists_are_good_and_nothing_else_is(table: Outcomes) -> None:
    best = {family: table.rate(ids, table.best_own(family)) for family, ids in table.families.items()}
    assert min(best.values()) >= 0.70, best
    assert mean(best.values()) >= 0.85
    for arm in table.arms:
        alone = mean(table.rate(ids, arm) for ids in table.families.values())
        assert alone <= mean(best.values()) - 0.25, f"{arm}: {alone}"


def test_a_worse_version_hurts_where_another_adapter_would_do(table: Outcomes) -> None:
    (name,) = Registry(WORSE).paths
    home = own(name)
    assert home
    ids = table.families[home]
    competent = [arm for arm in table.arms if own(arm) == home]
    assert len(competent) == 2
    for arm in competent:
        assert table.rate(ids, arm) >= table.rate(ids, worse(name)) + 0.3


async def test_the_outcome_table_is_what_the_engine_does(episodes: list[Episode], table: Outcomes) -> None:
    """A sample of it, column by column."""
    columns = columns_of(Registry(ADAPTERS))
    engine = RoutedEngine(load(str(MODEL)), {name: path for name, path in columns.items() if path})
    try:
        measured = await solve(engine, columns, episodes[:: len(episodes) // 12], MIXTURES)
    finally:
        engine.close()
    assert table.columns == (*columns, *MIXTURES)
    agreed = [was == now for id_, row in measured.items() for was, now in zip(table.table[id_], row, strict=True)]
    assert mean(agreed) >= 0.98


async def test_the_router_knows_the_families_it_saw_and_the_cold_bandit_ranks_as_it_does(
    episodes: list[Episode],
) -> None:
    known = [episode for episode in episodes if episode.family not in NEWER][::7]
    engine = RoutedEngine(load(str(MODEL)), {})
    try:
        features = await read_features(engine, known)
    finally:
        engine.close()
    accuracy = judge(ContextMap.load(ROUTER), features, [episode.family for episode in known])
    assert accuracy["mlp"] >= 0.95
    assert accuracy["cold_linucb"] >= accuracy["mlp"] - 0.01


def test_the_router_has_not_seen_the_newer_families() -> None:
    arms = set(ContextMap.load(ROUTER).arms)
    assert arms == set(KEPT) - set(NEWER)
    assert len(NEWER) >= 2


def test_a_linear_probe_on_the_context_tells_the_newer_families(episodes: list[Episode]) -> None:
    found = probe(sample(episodes, 40))
    assert found.keys() == {"x", "hidden", "components"}
    assert found["x"] >= 0.9


def test_what_is_committed_is_small() -> None:
    listed = subprocess.run(["git", "ls-files", "examples"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sum((ROOT / name).stat().st_size for name in listed.stdout.split("\n") if name) <= 30_000_000
