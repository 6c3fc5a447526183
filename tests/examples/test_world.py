"""The committed world is what it claims to be."""

import json
import subprocess
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from safetensors import safe_open

from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.families import NEWER
from examples.miniwob.measurement import answer
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.paths import ADAPTERS, MODEL, ROUTER
from examples.miniwob.train_router import judge, read_features
from policies.context import ContextMap
from services.adapters.registry import BASE, Registry
from services.engine.peft import PeftEngine

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


def test_every_family_has_an_adapter_and_enough_episodes(episodes: list[Episode]) -> None:
    families = {episode.family for episode in episodes}
    assert families == set(Registry(ADAPTERS).paths)
    assert len(families) >= 4
    for family in families:
        assert len({episode.seed for episode in episodes if episode.family == family}) >= 100


def test_adapters_are_good_at_their_family_and_better_than_the_base(episodes: list[Episode], table: Outcomes) -> None:
    assert table.adapters == {adapter.name: adapter.fingerprint for adapter in Registry(ADAPTERS)}
    for family in table.adapters:
        ids = [episode.id for episode in episodes if episode.family == family]
        own = mean(table.success(id_, family) for id_ in ids)
        base = mean(table.success(id_, BASE) for id_ in ids)
        assert own >= 0.70, f"{family}: {own}"
        assert own >= base + 0.20, f"{family}: {own} against {base}"


async def test_the_outcome_table_is_what_the_engine_does(episodes: list[Episode], table: Outcomes) -> None:
    """A sample of it, arm by arm."""
    registry = Registry(ADAPTERS)
    engine = PeftEngine(str(MODEL), registry.paths)
    try:
        agreed = [
            episode.success(await answer(engine, episode, registry.gates(arm))) == table.success(episode.id, arm)
            for arm in registry.arms
            for episode in episodes[:: len(episodes) // 12]
        ]
    finally:
        engine.close()
    assert mean(agreed) >= 0.98


async def test_the_router_knows_the_families_it_saw_and_the_cold_bandit_ranks_as_it_does(
    episodes: list[Episode],
) -> None:
    known = [episode for episode in episodes if episode.family not in NEWER][::3]
    engine = PeftEngine(str(MODEL), {})
    try:
        features = await read_features(engine, known)
    finally:
        engine.close()
    accuracy = judge(ContextMap.load(ROUTER), features, [episode.family for episode in known])
    assert accuracy["mlp"] >= 0.95
    assert accuracy["cold_linucb"] >= accuracy["mlp"] - 0.01


def test_the_router_has_not_seen_the_newer_families() -> None:
    arms = set(ContextMap.load(ROUTER).arms)
    assert arms == set(Registry(ADAPTERS).paths) - set(NEWER)
    assert NEWER


def test_what_is_committed_is_small() -> None:
    listed = subprocess.run(["git", "ls-files", "examples"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sum((ROOT / name).stat().st_size for name in listed.stdout.split("\n") if name) <= 15_000_000
