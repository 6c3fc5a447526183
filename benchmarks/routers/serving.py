"""Hard, top-2 and soft routing through the HTTP API of a running service: success, tokens a second, agreement."""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from pydantic import SecretStr

from cluster.redis_server import RedisServer, free_port
from cluster.settings import Settings
from examples.miniwob.episodes import Episode
from services.adapters.registry import Registry

WAYS = ("hard", "top2", "soft")


class Served(NamedTuple):
    """Success, answer tokens a second, and the share of answers that say the same as hard routing's."""

    success: float
    tokens_per_s: float
    agreement: float


def serve(router: Path, episodes: Sequence[Episode]) -> dict[str, Served]:
    """Each way answers all episodes, eight at a time; the router's first choice serves hard.

    Its own adapters serve if the version has any.
    """
    from services.launch import running  # Ray takes seconds to import

    with tempfile.TemporaryDirectory(prefix="pointsman-training-") as folder, RedisServer(folder) as redis:
        own = router / "adapters"
        settings = Settings.model_validate(
            {
                "server": {"port": free_port()},
                "model": {"threads": 1, "max_tokens": 24} | ({"adapters": own} if own.is_dir() else {}),
                "router": {"path": router, "policy": "mlp", "epsilon_supervised": 0.0, "epsilon_uniform": 0.0},
                "store": {"url": SecretStr(redis.url), "data_dir": folder},
            }
        )
        with running(settings) as url:
            return asyncio.run(_ask(url, Registry(settings.model.adapters), episodes))


async def _ask(url: str, registry: Registry, episodes: Sequence[Episode]) -> dict[str, Served]:
    arms = {"hard": ["base", *registry.paths], "top2": ["top2"], "soft": ["soft"]}
    found: dict[str, Served] = {}
    first: list[str] = []
    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        for _ in range(2):  # the first answers warm the service up
            await _answers(http, arms["soft"], episodes[:8])
        for way in WAYS:
            start = time.perf_counter()
            answers = await _answers(http, arms[way], episodes)
            took = time.perf_counter() - start
            texts = [answer["choices"][0]["message"]["content"] for answer in answers]
            first = first or texts
            found[way] = Served(
                success=sum(e.success(text) for e, text in zip(episodes, texts, strict=True)) / len(texts),
                tokens_per_s=sum(answer["usage"]["completion_tokens"] for answer in answers) / took,
                agreement=sum(a == b for a, b in zip(first, texts, strict=True)) / len(texts),
            )
    return found


async def _answers(http: httpx.AsyncClient, arms: list[str], episodes: Sequence[Episode]) -> list[dict[str, Any]]:
    gate = asyncio.Semaphore(8)

    async def one(episode: Episode) -> dict[str, Any]:
        body = {"model": "auto", "messages": episode.messages(), "routing": {"arms": arms}, "temperature": 0}
        async with gate:
            response = await http.post("/v1/chat/completions", json=body)
        if not response.is_success:
            raise RuntimeError(f"{response.status_code}: {response.text[:300]}")
        answer: dict[str, Any] = response.json()
        return answer

    return list(await asyncio.gather(*[one(episode) for episode in episodes]))
