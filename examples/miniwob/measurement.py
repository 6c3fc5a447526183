"""Real generation through the service's engine: which columns solve which screens."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch

from examples.miniwob.episodes import Episode
from examples.miniwob.outcomes import Outcomes, worse
from examples.miniwob.paths import ADAPTERS, COMPARISONS, MODEL, ROUTER, WORSE
from examples.miniwob.reporting import progress_bar
from policies.context import ContextMap
from policies.mixtures import mixture
from services.adapters.registry import Registry
from services.engine.base import Engine, Message, Part, Prompt, Sampling
from services.engine.loading import load
from services.engine.routed import RoutedEngine

Columns = dict[str, Path | None]
"""What to measure: the LoRA of each column, None for the base alone."""

MIXTURES: Final = {"top2": 2, "soft": 4}
"""Columns after those: mixtures of so many adapters at most, by the gates of the supervised router."""

_MAX_TOKENS: Final = 16
_BATCH: Final = 64
_SHARE: Final = 4 * _BATCH
"""Screens that one engine takes at a time."""


def prompt(episode: Episode) -> Prompt:
    """The episode as the gateway hands it to the engine."""
    return Prompt((Message("user", (Part(image=episode.png), Part(text=episode.instruction))),))


def measure_world(episodes: Sequence[Episode], processes: int) -> Outcomes:
    """Every column of the world on the episodes."""
    offered = Registry(ADAPTERS)
    columns = columns_of(offered)
    others = (*[column for column in columns if column not in offered.arms], *MIXTURES)
    return Outcomes(hashes(), offered.arms, others, measure(MODEL, columns, episodes, processes, MIXTURES))


async def answer(engine: Engine, episode: Episode, gates: dict[str, float]) -> str:
    """The greedy answer under the gates."""
    sampling = Sampling(max_tokens=_MAX_TOKENS)
    return "".join([delta.text async for delta in engine.generate(prompt(episode), gates, sampling)])


def columns_of(offered: Registry) -> Columns:
    """Every column of the world with the LoRA behind it: what the service offers, then what is compared with it."""
    found: Columns = {arm: offered.paths.get(arm) for arm in offered.arms}
    found |= {worse(adapter.name): adapter.path for adapter in Registry(WORSE)}
    return found | {adapter.name: adapter.path for adapter in Registry(COMPARISONS)}


def hashes() -> dict[str, str]:
    """Content hash of every LoRA, by column."""
    versions = {worse(adapter.name): adapter.fingerprint for adapter in Registry(WORSE)}
    own = {adapter.name: adapter.fingerprint for folder in (ADAPTERS, COMPARISONS) for adapter in Registry(folder)}
    return own | versions


def measure(
    model: Path,
    columns: Columns,
    episodes: Sequence[Episode],
    processes: int,
    mixtures: Mapping[str, int] | None = None,
) -> dict[str, tuple[bool, ...]]:
    """Success of every column, then of every mixture, in their order, by episode id."""
    shares = [episodes[start : start + _SHARE] for start in range(0, len(episodes), _SHARE)]
    table: dict[str, tuple[bool, ...]] = {}
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    with pool, progress_bar("outcomes", len(shares)) as advance:
        for done in as_completed([pool.submit(_measure, model, columns, share, mixtures or {}) for share in shares]):
            table |= done.result()
            advance()
    return {episode.id: table[episode.id] for episode in episodes}


def _measure(
    model: Path, columns: Columns, episodes: Sequence[Episode], mixtures: Mapping[str, int]
) -> dict[str, tuple[bool, ...]]:
    torch.set_num_threads(1)
    adapters = {name: path for name, path in columns.items() if path}
    engine = RoutedEngine(load(str(model)), adapters, max_batch=_BATCH, image_cache=_BATCH)
    try:
        return asyncio.run(solve(engine, columns, episodes, mixtures))
    finally:
        engine.close()


async def solve(
    engine: Engine, columns: Columns, episodes: Sequence[Episode], mixtures: Mapping[str, int]
) -> dict[str, tuple[bool, ...]]:
    """Success of every column, then of every mixture, by episode id; the engine has the LoRAs by their names.

    A batch of screens goes through all columns before the next, so that each screen is looked at once.
    """
    contexts = ContextMap.load(ROUTER) if mixtures else None
    table: dict[str, tuple[bool, ...]] = {}
    for start in range(0, len(episodes), _BATCH):
        batch = episodes[start : start + _BATCH]
        ways: list[list[dict[str, float]]] = [
            [{name: 1.0} if lora else {}] * len(batch) for name, lora in columns.items()
        ]
        if contexts:
            routed = [await supervised(engine, contexts, episode) for episode in batch]
            ways += [[mixture(gates, members) for gates in routed] for members in mixtures.values()]
        found = []
        for way in ways:
            asked = [answer(engine, episode, gates) for episode, gates in zip(batch, way, strict=True)]
            answers = await asyncio.gather(*asked)
            found.append([episode.success(text) for episode, text in zip(batch, answers, strict=True)])
        table |= {episode.id: row for episode, row in zip(batch, zip(*found, strict=True), strict=True)}
    return table


async def supervised(engine: Engine, contexts: ContextMap, episode: Episode) -> dict[str, float]:
    """The gates of the supervised router."""
    features = await engine.encode(prompt(episode))
    return contexts.map(np.frombuffer(features, np.float16)).gates
