"""Clients that each ask for one adapter after the other, few of them for most: what they waited, and what failed."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import httpx

_INSTRUCTIONS: Final = ("Click on the red box.", "Pick the third tab.", "Select the circle.", "Press the button.")
TOKENS: Final = 8


class Failure(NamedTuple):
    """A request without an answer: its status, 0 where there was not even that, and what was said."""

    status: int
    said: str


@dataclass
class Asked:
    """What became of some requests: milliseconds to the first token of those that were answered; the failed ones."""

    first_ms: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def trace(adapters: Sequence[str], length: int, seed: int) -> list[str]:
    """Adapters as they are asked for: the k-th of them with a probability in proportion to 1/k."""
    weights = [1 / rank for rank in range(1, len(adapters) + 1)]
    return random.Random(seed).choices(adapters, weights, k=length)


async def play(http: httpx.AsyncClient, wanted: Sequence[str], clients: int, seed: int) -> Asked:
    """Ask for the adapters in their order, `clients` at a time."""
    asked, left = Asked(), iter(list(enumerate(wanted)))

    async def ask() -> None:
        for number, adapter in left:
            await _one(http, adapter, f"{_INSTRUCTIONS[number % len(_INSTRUCTIONS)]} ({seed}.{number})", asked)

    await asyncio.gather(*(ask() for _ in range(clients)))
    return asked


async def _one(http: httpx.AsyncClient, adapter: str, text: str, asked: Asked) -> None:
    body = {"model": adapter, "messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": TOKENS}
    start, first = time.perf_counter(), None
    try:
        async with http.stream("POST", "v1/chat/completions", json=body) as response:
            if not response.is_success:
                asked.failures.append(Failure(response.status_code, (await response.aread()).decode()))
                return
            async for event in response.aiter_lines():
                found = _event(event)
                if "error" in found:
                    asked.failures.append(Failure(200, event))
                    return
                if first is None and any(choice["delta"].get("content") for choice in found.get("choices", ())):
                    first = (time.perf_counter() - start) * 1000
    except httpx.HTTPError as error:
        asked.failures.append(Failure(0, repr(error)))
        return
    asked.first_ms.append(first or (time.perf_counter() - start) * 1000)


def _event(line: str) -> dict[str, Any]:
    data = line.removeprefix("data: ")
    found: dict[str, Any] = json.loads(data) if data.startswith("{") else {}
    return found
