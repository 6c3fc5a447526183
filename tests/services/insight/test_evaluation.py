"""Export and evaluation: the log leaves whole, batch by batch, and says what policies would have earned on it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.events import Decision
from services.insight import export
from services.insight.evaluation import Evaluator, from_file
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES, features
from tests.services.learning.test_fold import decision, reward
from tests.services.world import World

ARMS = ["base", *FAMILIES]


async def traffic(world: World, n: int = 400, *, steps: int = 1) -> None:
    """Uniform choices; what the instruction names succeeds. The last unit has no reward yet."""
    rng, made = np.random.default_rng(0), []
    for i in range(n):
        family, arm = FAMILIES[i // steps % 3], str(rng.choice(ARMS))
        one = decision(
            f"d{i}", arm, episode=f"e{i // steps}" if steps > 1 else None, eligible=ARMS, costs=[0.0, 1.0, 2.0, 3.0],
            propensity=0.25, best=arm, supervised=family, features=features(f"task {i}: open the {family}").tobytes(),
        )  # fmt: skip
        made.append(one)
    await asyncio.gather(*map(world.store.decide, made[:-steps]))  # at once, for the disk is asked for each one alone
    for one in made[-steps:]:
        await world.store.decide(one)
    if steps > 1:
        said = [_episode(e) for e in range(n // steps - 1)]
    else:
        said = [reward(one.id, float(one.arm == one.supervised)) for one in made[:-1]]
    await world.store.feedback(said)
    await world.fold()


def _episode(number: int) -> Any:
    return reward(f"e{number}", float(number % 2), "filled by the store").model_copy(update={"members": []})


async def exported(world: World, to: Path) -> Path:
    with to.open("wb") as file:
        async for data in export.parquet(world.store):
            file.write(data)
    return to


async def test_the_exported_log_is_the_log(world: World, tmp_path: Path) -> None:
    await traffic(world, 30)
    rows = pq.read_table(await exported(world, tmp_path / "log.parquet")).to_pylist()
    logged = [event for event in await world.events() if isinstance(event, Decision)]
    assert [row["id"] for row in rows] == [one.id for one in logged]
    for row, one in zip(rows, logged, strict=True):
        assert (row["features"], row["propensity"], row["costs"]) == (one.features, one.propensity, one.costs)
        assert row["eligible"] == ARMS
    assert [row["reward"] for row in rows[:-1]] == [float(one.arm == one.supervised) for one in logged[:-1]]
    assert (rows[-1]["reward"], rows[-1]["status"], rows[0]["status"]) == (None, "pending", "matured")


async def test_it_is_read_and_written_a_batch_at_a_time(world: World, tmp_path: Path) -> None:
    await traffic(world, 1200)
    pieces = [piece async for piece in export.parquet(world.store)]
    assert sum(len(piece) > 0 for piece in pieces) >= 3
    path = tmp_path / "log.parquet"
    path.write_bytes(b"".join(pieces))
    file = pq.ParquetFile(path)
    assert file.metadata.num_rows == 1200
    assert max(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)) <= 1000


async def test_policies_are_evaluated_on_a_file(world: World, tmp_path: Path) -> None:
    await traffic(world)
    path = await exported(world, tmp_path / "log.parquet")
    evaluator = Evaluator.of(world.settings, world.contexts)
    mlp, fixed, linucb = await evaluator.evaluate(from_file(path), ["mlp", "fixed", "linucb"])
    assert (mlp.units, mlp.decisions, mlp.left_out) == (399, 399, 1)
    assert mlp.estimates["snips"].value == pytest.approx(1.0)
    assert mlp.estimates["replay"].value == pytest.approx(1.0)
    assert 0.15 < mlp.matched < 0.35
    assert fixed.estimates["snips"].value == 0.0  # base never succeeds
    assert linucb.estimates["snips"].value > 0.9


async def test_an_episode_is_a_unit(world: World, tmp_path: Path) -> None:
    await traffic(world, 1400, steps=2)
    path = await exported(world, tmp_path / "log.parquet")
    (found,) = await Evaluator.of(world.settings, world.contexts).evaluate(from_file(path), ["mlp"])
    assert (found.units, found.decisions, found.left_out) == (699, 1398, 2)
    assert 0.01 < found.matched < 0.15  # one in sixteen


async def test_a_log_without_exploration_is_refused_in_words(world: World) -> None:
    for i in range(40):
        made = decision(f"d{i}", "claims", eligible=ARMS, features=features(f"{i}: open the inbox").tobytes())
        await world.store.decide(made)
        await world.store.feedback([reward(f"d{i}", 0.0)])
    await world.fold()
    (found,) = await Evaluator.of(world.settings, world.contexts).evaluate(export.batches(world.store), ["mlp"])
    assert found.refused
    assert "without exploration" in found.refused
    (nothing,) = await Evaluator.of(world.settings, world.contexts).evaluate(from_nothing(), ["mlp"])
    assert nothing.refused == "no decision of the log has a reward: nothing to evaluate on"


async def from_nothing() -> AsyncIterator[pa.RecordBatch]:
    """No batches."""
    for batch in list[pa.RecordBatch]():
        yield batch


async def test_the_service_evaluates_its_own_log(make_world: MakeWorld) -> None:
    world = await make_world()
    await traffic(world, 200)
    response = await world.post("/v1/evaluate", {"policies": ["mlp", "greedy"], "level": 0.9})
    assert response.status_code == 200, response.text
    found = response.json()
    assert [(one["policy"], one["units"], one["level"]) for one in found] == [("mlp", 199, 0.9), ("greedy", 199, 0.9)]
    assert found[0]["estimates"]["snips"]["value"] == pytest.approx(1.0)
    answer = await world.http.get("/v1/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, export.MEDIA_TYPE)
    assert answer.content[:4] == b"PAR1" == answer.content[-4:]


@pytest.mark.parametrize("body", [{"policies": ["none"]}, {"policies": []}, {"level": 1.0}, {"level": 0.2}])
async def test_what_cannot_be_evaluated_is_refused(world: World, body: dict[str, Any]) -> None:
    response = await world.post("/v1/evaluate", body)
    assert response.status_code == 400
    assert next(iter(body)) in response.json()["error"]["param"]


async def test_a_file_that_is_none_is_named(world: World, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(json.dumps({}).encode())
    with pytest.raises(ValueError, match=r"bad.parquet is not readable"):
        await Evaluator.of(world.settings, world.contexts).evaluate(from_file(tmp_path / "bad.parquet"), ["mlp"])
