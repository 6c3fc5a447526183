"""A router with a head for each decoder block: what a mixture serves differs from block to block."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.events import Decision
from cluster.settings import Settings
from examples.miniwob.episodes import load as load_episodes
from examples.miniwob.model import load_processor
from policies.context import ContextMap
from policies.mixtures import in_blocks, mixture
from services.adapters.registry import Registry
from services.engine.base import Gate, Part, added
from services.engine.loading import load
from services.engine.routed import RoutedEngine
from tests.services.conftest import MakeSettings
from tests.services.engine.oracle import WORLD, Oracle
from tests.services.engine.prompts import chat as prompt
from tests.services.fakes import FakeEngine
from tests.services.insight.test_replay import replayed
from tests.services.routing.test_mixtures import ALWAYS_SOFT, latest
from tests.services.world import World, running


def headed(contexts: ContextMap, layers: int, spread: float) -> ContextMap:
    """The same router, its blocks' heads apart."""
    W2 = contexts.projection.W2
    apart = spread * np.random.default_rng(2).normal(size=(layers, len(W2), W2.shape[1] + 1))
    return replace(contexts, projection=replace(contexts.projection, apart=apart - apart.mean(axis=0)))


def expected(contexts: ContextMap, decision: Decision) -> dict[str, tuple[float, ...]]:
    h = np.frombuffer(decision.features, np.float16)
    return in_blocks(decision.gates, contexts.layer_gates(h))


def served(engine: FakeEngine) -> Mapping[str, Gate]:
    return engine.generated[-1][1]


async def test_a_mixture_is_served_and_logged_by_block_and_replayed(
    make_settings: MakeSettings, contexts: ContextMap, engine: FakeEngine
) -> None:
    heads = headed(contexts, 4, 0.5)
    async with running(World(make_settings(router=ALWAYS_SOFT), heads, engine)) as world:
        answer = await world.ask("open the inbox and the claims")
        decision = await latest(world)
        wanted = expected(heads, decision)
        assert decision.layer_gates == wanted == served(engine)
        assert np.sum(list(wanted.values()), axis=0) == pytest.approx(np.ones(4))
        assert len(set(wanted["inbox"])) == 4
        supervised = contexts.map(np.frombuffer(decision.features, np.float16)).gates
        assert answer["routing"]["gates"] == decision.gates == mixture(supervised, 4)
        await world.ask("open the inbox", model="inbox")
        assert served(engine) == {"inbox": 1.0}
        assert (await latest(world)).layer_gates == {}
        await world.ask("open the inbox", routing={"gates": {"inbox": 0.5, "claims": 0.5}})
        assert served(engine) == {"inbox": 0.5, "claims": 0.5}
        assert all(one.same for one in replayed(await world.store.event_range(), world, heads, "fixed"))
        changed = headed(contexts, 4, 0.6)
        changed.__dict__["fingerprint"] = heads.fingerprint
        assert not all(one.same for one in replayed(await world.store.event_range(), world, changed, "fixed"))


async def test_a_retry_is_served_by_the_gates_of_the_first_attempt(
    make_settings: MakeSettings, contexts: ContextMap, engine: FakeEngine
) -> None:
    heads = headed(contexts, 4, 0.5)
    async with running(World(make_settings(router=ALWAYS_SOFT), heads, engine)) as world:
        for attempt in ("0", "1"):
            body = {"model": "auto", "messages": [{"role": "user", "content": "open the inbox and the claims"}]}
            await world.post("/v1/chat/completions", body, idempotency_key="k", x_stainless_retry_count=attempt)
        first, again = engine.generated
        assert first[1] == again[1] == (await latest(world)).layer_gates


async def test_the_answer_through_the_service_is_pefts_under_the_gates_of_each_block(
    make_settings: MakeSettings,
) -> None:
    embedded = Settings()
    heads = headed(ContextMap.load(embedded.router.path), 6, 2.0)
    registry = Registry(embedded.model.adapters)
    checkpoint = load(str(WORLD))
    oracle = Oracle(checkpoint, {name: registry.paths[name] for name in heads.arms}, load_processor(WORLD))
    engine: Any = RoutedEngine(oracle.checkpoint, {}, device_rows=256)
    settings = make_settings(model={"adapters": embedded.model.adapters, "max_tokens": 40}, router=ALWAYS_SOFT)
    try:
        async with running(World(settings, heads, engine)) as world:
            for episode in (load_episodes("click-dialog")[3], load_episodes("circle-center")[5]):
                body = {"model": "auto", "messages": episode.messages(), "temperature": 0}
                answer = (await world.post("/v1/chat/completions", body)).json()
                gates = (await latest(world)).layer_gates
                assert len(gates) == 4
                assert max(max(own) - min(own) for own in gates.values()) > 0.2
                asked = prompt(Part(image=episode.png), Part(text=episode.instruction))
                assert answer["choices"][0]["message"]["content"] == oracle.answer(asked, gates, 40)
    finally:
        engine.close()


def test_gates_of_weights_that_two_names_share_are_added() -> None:
    assert added(0.25, 0.5) == 0.75
    assert added((0.25, 0.5), (0.5, 0.5)) == (0.75, 1.0)
    assert added(0.0, (0.5, 1.0)) == added((0.5, 1.0), 0.0) == (0.5, 1.0)
