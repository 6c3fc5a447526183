"""A trained router, adapters on disk, and a running world a test."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.settings import Settings
from policies.context import ContextMap
from policies.training.artifact import fit_context_map
from policies.training.classifier import ClassifierConfig
from policies.training.network import RouterMLP
from tests.services.fakes import FAMILIES, FakeEngine, features
from tests.services.world import BASE, World, running, write_adapters

MakeSettings = Callable[..., Settings]
MakeWorld = Callable[..., Any]


def fit(sharpness: float, **measured: float) -> ContextMap:
    """A router for the fake engine's features: what an instruction names is right. Its MLP needs no training.

    The base, and whatever else was measured, earns the same on every example.
    """
    labels = [FAMILIES[i % len(FAMILIES)] for i in range(120)]
    H = np.stack([features(f"task {i}: open the {label}", bytes([i % 7])) for i, label in enumerate(labels)])
    mlp = RouterMLP(H.shape[1], hidden=6, arms=FAMILIES)
    with torch.no_grad():
        for weight in mlp.parameters():
            weight.zero_()
        mlp.first.weight[:3, :3] = sharpness / 4 * torch.eye(3)
        mlp.second.weight[:, :3] = sharpness * torch.eye(3)
    earned = {"base": 0.2, **measured}
    outcomes = np.tile(list(earned.values()), (len(labels), 1))
    config = ClassifierConfig(hidden=6)
    return fit_context_map(mlp, H, labels, config, pca=3, outcomes=outcomes, outcome_arms=list(earned), tasks=labels)


@pytest.fixture(scope="session")
def contexts() -> ContextMap:
    return fit(4.0)


@pytest.fixture(scope="session")
def other_contexts() -> ContextMap:
    """Another router over the same features."""
    return fit(3.0)


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapters(tmp_path_factory.mktemp("adapters"))


@pytest.fixture
def make_settings(redis_url: str, prefix: str, adapters: Path, tmp_path: Path) -> MakeSettings:
    """Settings that never explore and have no mixtures, with changes by group."""

    def make(**groups: dict[str, Any]) -> Settings:
        values: dict[str, dict[str, Any]] = {
            "model": {"name": BASE, "adapters": adapters, "max_tokens": 64},
            "router": {"epsilon_supervised": 0.0, "epsilon_uniform": 0.0, "refresh_s": 0.2, "mixtures": ()},
            "store": {"url": redis_url, "prefix": prefix, "data_dir": tmp_path},
        }
        for group, changes in groups.items():
            values[group] = values.get(group, {}) | changes
        return Settings.model_validate(values)

    return make


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def make_world(make_settings: MakeSettings, contexts: ContextMap, engine: FakeEngine) -> AsyncIterator[MakeWorld]:
    """Starts worlds, by default over the same engine and store."""
    async with AsyncExitStack() as stack:

        async def make(**groups: dict[str, Any]) -> World:
            return await stack.enter_async_context(running(World(make_settings(**groups), contexts, engine)))

        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    made: World = await make_world()
    return made
