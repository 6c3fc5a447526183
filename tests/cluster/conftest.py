"""Stores on the test's key prefix, directly and over a connection that can be cut."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from cluster.events import ArmScore, Decision
from cluster.store import Store
from tests.cluster.said import NOW
from tests.cutting_proxy import CuttingProxy

WINDOW_S, RETENTION_S = 100.0, 1000.0
MakeDecision = Callable[..., Decision]


@pytest.fixture
async def store(redis_url: str, prefix: str) -> AsyncIterator[Store]:
    async with Store(redis_url, prefix, reward_window_s=WINDOW_S, retention_s=RETENTION_S) as opened:
        yield opened


@pytest.fixture
async def cut(redis_url: str) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
async def cut_store(cut: CuttingProxy, prefix: str) -> AsyncIterator[Store]:
    """The same keys as `store`, over a connection that can be cut."""
    async with Store(cut.url, prefix, reward_window_s=WINDOW_S, retention_s=RETENTION_S) as opened:
        yield opened


@pytest.fixture
def make_decision() -> MakeDecision:
    def make(decision_id: str, **changes: Any) -> Decision:
        values: dict[str, Any] = {
            "time": NOW,
            "id": decision_id,
            "model": "qwen3-vl",
            "arm": "calendar",
            "gates": {"calendar": 0.75, "inbox": 0.25},
            "adapters": {"calendar": "c0ffee"},
            "propensity": 0.9,
            "explored": False,
            "supervised": "inbox",
            "policy": "linucb",
            "policy_version": 3,
            "mode": "hard",
            "router": "feedbeef",
            "eligible": ["calendar", "inbox", "base"],
            "resident": ["inbox"],
            "scored": [ArmScore(arm="calendar", mean=0.1 + 0.2, width=0.3, cost_ms=12.5, score=0.5, gate=0.75)],
            "features": b"\x00\xff\x80\x01",
        }
        return Decision(**values | changes)

    return make
