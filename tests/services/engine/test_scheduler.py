"""Turns: fair among adapters, and the first in line is never passed by."""

import asyncio
import itertools
from pathlib import Path

from services.engine.base import Delta, Sampling
from services.engine.routed import RoutedEngine
from tests.services.engine.oracle import random_oracle
from tests.services.engine.prompts import PROMPTS


async def test_an_adapter_with_many_requests_does_not_hold_up_another(tmp_path: Path) -> None:
    """Two rows, twenty requests of one adapter, then one of another: once it is read, it is next."""
    oracle = random_oracle("one key for all heads", tmp_path)
    engine = RoutedEngine(oracle.checkpoint, oracle.adapters, max_batch=2, encode_blocks=1, kv_tokens=1024)
    done: list[str] = []

    async def ask(name: str) -> None:
        deltas = engine.generate(PROMPTS["text only"], {name: 1.0}, Sampling(8))
        assert "".join([delta.text async for delta in deltas]) is not None
        done.append(name)

    try:
        await asyncio.gather(*[ask("all") for _ in range(20)], ask("wide"))
    finally:
        engine.close()
    assert len(done) == 21
    assert done.index("wide") < 10


async def test_who_is_gone_is_forgotten(tmp_path: Path) -> None:
    """The books of turns hold those who compete, however many mixtures were served before."""
    oracle = random_oracle("one key for all heads", tmp_path)
    engine = RoutedEngine(oracle.checkpoint, oracle.adapters, max_batch=2, encode_blocks=1, kv_tokens=1024)
    kept = []
    try:
        for mixture in itertools.combinations(oracle.adapters, 2):
            _ = [
                delta async for delta in engine.generate(PROMPTS["text only"], dict.fromkeys(mixture, 0.5), Sampling(2))
            ]
            kept.append(len(engine._scheduler._served))
    finally:
        engine.close()
    assert len(kept) > 2
    assert set(kept) == {1}


async def test_a_long_request_gets_in_among_short_ones_that_keep_coming(tmp_path: Path) -> None:
    """It needs half of the keys' and values' room, which the others never leave free by themselves."""
    oracle = random_oracle("one key for all heads", tmp_path)
    engine = RoutedEngine(oracle.checkpoint, {}, max_batch=4, encode_blocks=1, kv_tokens=1024)
    ended = asyncio.Event()
    answered = 0

    async def keep_asking() -> None:
        nonlocal answered
        while not ended.is_set():
            _ = [delta async for delta in engine.generate(PROMPTS["text only"], {}, Sampling(8))]
            answered += 1

    async def ask_at_length() -> list[Delta]:
        return [delta async for delta in engine.generate(PROMPTS["one screen"], {}, Sampling(400))]

    try:
        alone = await ask_at_length()
        short = [asyncio.create_task(keep_asking()) for _ in range(6)]
        among_others = await ask_at_length()
        ended.set()
        await asyncio.gather(*short)
    finally:
        engine.close()
    assert among_others == alone
    assert alone[-1].completion_tokens > 256
    assert answered >= 6


async def test_choices_begin_when_a_chunk_leaves_a_single_token_of_the_prompt(tmp_path: Path) -> None:
    """The prompt's last token is then computed as that of an answer is."""
    oracle = random_oracle("one key for all heads", tmp_path)
    whole = RoutedEngine(oracle.checkpoint, {}, max_batch=4, encode_blocks=1, kv_tokens=2048)
    two = Sampling(8, temperature=1.0, seed=3, n=2)
    try:
        expected = await _choices(whole, two)
    finally:
        whole.close()
    oracle = random_oracle("one key for all heads", tmp_path)
    chunk = expected[0][1] - 1
    parted = RoutedEngine(oracle.checkpoint, {}, max_batch=4, encode_blocks=1, kv_tokens=2048, prefill_chunk=chunk)
    try:
        assert await asyncio.wait_for(_choices(parted, two), 60) == expected
    finally:
        parted.close()


async def _choices(engine: RoutedEngine, sampling: Sampling) -> list[tuple[str, int]]:
    """The text of each choice, and the prompt's tokens."""
    deltas = [delta async for delta in engine.generate(PROMPTS["text only"], {}, sampling)]
    tokens = max(delta.prompt_tokens for delta in deltas)
    return [("".join(d.text for d in deltas if d.choice == number), tokens) for number in range(sampling.n)]
