"""What tests tell the store, of decisions at one time unless said otherwise."""

from collections.abc import Sequence

from cluster.connection import START
from cluster.events import Completion, Feedback
from cluster.learner_store import LedgerRow
from cluster.request_store import Status
from cluster.store import Store

NOW = 1_000.25
ROUTER = "feedbeef"
ROW = LedgerRow(tick=4, arm="calendar", status="matured", weight=1.0, rewards={"judge": 0.1 + 0.2})


def reward(decision_id: str, value: float | None, *, at: float = NOW + 1, **more: object) -> Feedback:
    return Feedback.model_validate(
        {"time": at, "decision_id": decision_id, "source": "judge", "reward": value, "truncated": value is None} | more
    )


def episode_reward(episode_id: str, value: float, *, at: float = NOW + 1) -> Feedback:
    return Feedback(time=at, episode_id=episode_id, source="judge", reward=value)


def completion(decision_id: str) -> Completion:
    return Completion(
        time=NOW, decision_id=decision_id, latency_ms=1.5, prompt_tokens=2, completion_tokens=3, finish_reason="stop"
    )


async def give(store: Store, *items: Feedback) -> list[Status]:
    return await store.feedback(items)


async def commit(store: Store, epoch: int, version: int, position: str = START, removed: Sequence[str] = ()) -> int:
    return await store.commit(epoch, version, position, NOW, {"calendar": b"\x00blob"}, removed, {}, router=ROUTER)
