"""Whatever happens in whatever order, what is in use is what the log comes to: every sum, count, row and score."""

import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.checkpoint import Checkpoint
from cluster.events import (
    ArmRegistered,
    ArmRemoved,
    ArmRenamed,
    Cancellation,
    Feedback,
    Mode,
    ModeChanged,
)
from cluster.forget_store import ForgetRequest
from cluster.roster import UnknownArm
from policies.evidence import ArmStatistics
from services.configuration import feedback_rules, learning_config, watch_config
from services.learning.folding import Folding, Refold
from services.learning.learner import Learner
from services.learning.sealing import Sealer, SealingConfig
from services.learning.states import WATCH
from services.learning.timeline import TIMELINE
from services.learning.verification import verify
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES, features
from tests.services.learning.test_fold import completion, decision
from tests.services.learning.test_sealing import COLD, HOT_S
from tests.services.world import World

EVENTS = 220
MODES: tuple[Mode, ...] = ("frozen", "online", "shadow")
ROUNDED = ("S", "e", "P", "contributed", "watch", "alarms", "reward_sum", "reward_square_sum")


class Life:
    """Random decisions, words, endings, changes of arms, modes and γ, sealing, deletion, restarts, on its own clock."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.now = time.time()
        self.names = {family: family for family in FAMILIES}
        self.ids: list[str] = []
        self.folding = Folding(
            world.contexts,
            learning_config(world.settings),
            feedback_rules(world.settings),
            watch_config(world.settings),
        )

    async def begin(self) -> None:
        """A new Learner takes over."""
        made, batch = self.folding, self.chance.randint(1, 12)
        self.learner = Learner(
            self.world.store, made.contexts, made.config, made.rules, watching=made.watching, batch=batch
        )
        await self.learner.start(self.world.registry)

    async def happen(self) -> None:
        """One more event, and perhaps some steps of the Learner."""
        kinds: dict[Callable[[], Awaitable[object]], int] = {
            self.decide: 40, self.say: 32, self.complete: 5, self.cancel: 4, self.time_out: 4, self.rename: 3,
            self.remove: 2, self.release: 2, self.switch: 2, self.seal: 4, self.fade: 1, self.begin: 1,
            self.forget: 1,
        }  # fmt: skip
        self.now += self.chance.random()
        (kind,) = self.chance.choices(list(kinds), list(kinds.values()))
        await kind()
        for _ in range(self.chance.choice((0, 0, 1, 3))):
            await self.learner.step()

    async def decide(self) -> None:
        family = self.chance.choice(FAMILIES)
        arm = self.chance.choice((self.names[family], family))  # a Router may not have heard of a new name
        made = decision(
            f"d{len(self.ids)}", arm, time=self.now, eligible=[arm, "base"], best=arm, propensity=0.9, costs=[0.0, 0.0],
            episode=self.chance.choice((None, self.episode())), adapters={family: "v1"},
            features=features(f"{len(self.ids)}: open the {family}").tobytes(),
        )  # fmt: skip
        await self.world.store.decide(made)
        self.ids.append(made.id)

    async def say(self) -> None:
        value = self.chance.choice((None, 0.0, 0.0, 1.0, self.chance.random()))
        target = self.chance.choice(({"episode_id": self.episode()}, {"decision_id": self.some_id()}))
        key = self.chance.choice("ab")
        words = {"reward": value, "truncated": value is None, "key": key, "source": self.chance.choice((key, "x"))}
        await self.world.store.feedback([Feedback.model_validate({"time": self.now, **target, **words})])

    async def complete(self) -> None:
        await self.world.store.complete(completion(self.some_id()))

    async def cancel(self) -> None:
        await self.world.store.cancel(Cancellation(time=self.now, decision_id=self.some_id(), reason="left"))

    async def time_out(self) -> None:
        await self.world.store.post_timeouts(self.now)

    async def rename(self) -> None:
        family, to = self.chance.choice(FAMILIES), f"name{self.chance.random()}"
        try:
            await self.world.store.change_arm(ArmRenamed(time=self.now, arm=self.names[family], to=to))
        except UnknownArm:  # it is removed
            return
        self.names[family] = to

    async def remove(self) -> None:
        arm = self.names[self.chance.choice(FAMILIES)]
        await self.world.store.change_arm(ArmRemoved(time=self.now, arm=arm, absent=self.chance.random() < 0.5))

    async def release(self) -> None:
        family, print_ = self.chance.choice(FAMILIES), f"v{self.chance.random()}"
        changed = ArmRegistered(time=self.now, arm=self.names[family], serves=family, adapter_hash=print_)
        await self.world.store.change_arm(changed)

    async def switch(self) -> None:
        await self.world.store.set_mode(ModeChanged(time=self.now, mode=self.chance.choice(MODES), by="operator"))

    async def seal(self) -> None:
        archive = self.world.store.archive
        assert archive
        await Sealer(self.world.store, archive, self.folding, SealingConfig(HOT_S, self.chance.randint(1, 9))).step(
            COLD
        )

    async def fade(self) -> None:
        """Another γ: everything is folded again."""
        config = replace(self.folding.config, discount=self.chance.choice((0.9, 0.95, 1.0)))
        self.folding = replace(self.folding, config=config)
        await self.begin()

    async def forget(self) -> None:
        """A decision or what a key said is deleted."""
        wanted = self.chance.choice(({"decision_id": self.some_id()}, {"key": self.chance.choice("ab")}))
        request = ForgetRequest.model_validate({"time": self.now, "by": "operator", **wanted})
        await self.world.store.ask_to_forget(f"r{self.now}", request)
        await self.begin()

    def episode(self) -> str:
        return f"e{self.chance.randint(0, 15)}"

    def some_id(self) -> str:
        return self.chance.choice(self.ids[-40:] or ["nobody"])


@pytest.mark.parametrize("seed", [0, 2])
async def test_what_is_in_use_is_what_the_log_comes_to(
    make_world: MakeWorld, seed: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    learner = {"key_cap": 3.0, "timeout_reward": 0.2, "learn_late": bool(seed), "credit": "discounted"}
    world: World = await make_world(
        learner={**learner, "discount": 0.97, "drift_threshold": 2.0, "reward_window_s": 40.0},
        router={"shadow_policies": ["mlp", "greedy"]},
    )
    life = Life(world, seed)
    await life.begin()
    for _ in range(EVENTS):
        await life.happen()
    while await life.learner.step():
        pass
    for whole in (True, False):
        found = await verify(world.store, life.folding, whole=whole)
        assert found.ok, found
    with Checkpoint(tmp_path / "again.sqlite", life.folding.signature) as again:
        used = await world.store.changes()
        await Refold(world.store, life.folding, again).advance(used.position)
        await same(world, life, again)


async def same(world: World, life: Life, again: Checkpoint) -> None:
    folded, blobs = again.arms(), (await world.store.changes()).blobs
    for arm in ("base", *life.names.values()):
        one, other = (vars(ArmStatistics.from_bytes(found[arm])) for found in (blobs, folded))
        assert exact(one) == exact(other)
        assert one["contributed"] == {key: pytest.approx(word) for key, word in other["contributed"].items()}
    assert blobs[WATCH] == folded[WATCH]
    buckets = [{name: data for name, data in found.items() if name.startswith(TIMELINE)} for found in (blobs, folded)]
    assert buckets[0] == buckets[1] != {}
    assert sum(len(ArmStatistics.from_bytes(blobs[arm]).alarms) for arm in life.names.values()) > 0
    rows, placed = await world.store.ledger(life.ids), again.rows(life.ids)
    assert {id_: row for id_, (_, row) in rows.items()} == {id_: found.row for id_, found in placed.items()}


def exact(statistics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in statistics.items() if name not in ROUNDED}
