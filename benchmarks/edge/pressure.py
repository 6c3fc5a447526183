"""More requests than can be served: who is served, who is told to come back, how soon, and how many ever wait."""

import asyncio
import time
from typing import Final, NamedTuple

import numpy as np

from benchmarks.edge.traffic import Line, Reply, chat
from benchmarks.reporting import Check
from cluster.settings import Settings

_ANSWER_S: Final = 1.0
_CROWD: Final = 3
"""Clients, as a multiple of the requests that there is room for."""
_SEEN_LONGER: Final = 1.5
"""Clients see a request open from before it arrives until after it has left: so much of the room may seem taken."""
_RETRY_LATER: Final = (429, 503)


class Pressure(NamedTuple):
    """What clients saw that were `offered` at once, several times what may be in flight or wait."""

    offered: int
    room: int
    answered: int
    refused: int
    failed: int
    without_retry_after: int
    most_waiting: int
    refused_p50_ms: float
    refused_p99_ms: float
    answered_p99_ms: float


async def measure(line: Line, settings: Settings, seconds: float) -> Pressure:
    """Three times as many clients as there is room for ask for `seconds`; who is refused comes back when told to."""
    server = settings.server
    room = server.routers * server.max_ongoing + server.max_queued
    body, offered = chat(f"wait {_ANSWER_S} s"), _CROWD * room
    seen: list[tuple[float, Reply]] = []
    ends = time.perf_counter() + seconds

    async def insist(number: int) -> None:
        await asyncio.sleep(number / offered)
        while time.perf_counter() < ends:
            began = time.perf_counter()
            reply = await line.post("/v1/chat/completions", body)
            seen.append((began, reply))
            if reply.status != 200:
                await asyncio.sleep(float(reply.headers.get(b"retry-after", b"1")))

    await asyncio.gather(*(insist(number) for number in range(offered)))
    answered = [(began, reply) for began, reply in seen if reply.status == 200]
    refused = [reply for _, reply in seen if reply.status in _RETRY_LATER]
    return Pressure(
        offered,
        room,
        len(answered),
        len(refused),
        len(seen) - len(answered) - len(refused),
        sum(b"retry-after" not in reply.headers for reply in refused),
        most_at_once(answered),
        _ms([reply.seconds for reply in refused], 0.5),
        _ms([reply.seconds for reply in refused], 0.99),
        _ms([reply.seconds for _, reply in answered], 0.99),
    )


def most_at_once(answered: list[tuple[float, Reply]]) -> int:
    """The largest number of answered requests that were open at one moment."""
    edges = sorted([(began, 1) for began, _ in answered] + [(began + reply.seconds, -1) for began, reply in answered])
    return int(np.cumsum([step for _, step in edges]).max(initial=0))


def _ms(seconds: list[float], quantile: float) -> float:
    return float(np.quantile(seconds, quantile)) * 1000 if seconds else 0.0


def checks(pressure: Pressure) -> list[Check]:
    """Refusals come before an answer would, and say when to come back; no more are let in than there is room for."""
    soon, most = 1000 * _ANSWER_S / 2, _SEEN_LONGER * pressure.room
    return [
        Check("refused under overload", pressure.refused, "some", pressure.refused > 0),
        Check("refused without Retry-After", pressure.without_retry_after, "0", pressure.without_retry_after == 0),
        Check("otherwise failed", pressure.failed, "0", pressure.failed == 0),
        Check("most in flight or waiting", pressure.most_waiting, f"at most {most:g}", pressure.most_waiting <= most),
        Check("median of refusals, ms", pressure.refused_p50_ms, f"at most {soon:g}", pressure.refused_p50_ms <= soon),
    ]
