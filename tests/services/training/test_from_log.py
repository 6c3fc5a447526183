"""Training from the decision log: what is learned, with which weights, and what the log says of the outcome."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.settings import Settings
from policies.context import ContextMap
from services.insight.export import SCHEMA
from services.training.config import TrainingConfig
from services.training.examples import InvalidData
from services.training.from_log import FromLog, read
from services.training.train import Trained
from tests.services.fakes import FAMILIES, features
from tests.services.training.data import quiet, rows, write
from tests.services.training.test_train import train as train_supervised

ARMS = ("base", *FAMILIES)
SIZE = 34


def decision(i: int, arm: str, reward: float | None, propensity: float = 0.5, **more: Any) -> dict[str, Any]:
    logged = dict.fromkeys(SCHEMA.names) | {
        "id": f"d{i}",
        "time": float(i),
        "arm": arm,
        "best": arm,
        "supervised": arm,
        "propensity": propensity,
        "eligible": list(ARMS),
        "costs": [0.0] * len(ARMS),
        "status": "matured",
        "reward": reward,
        "features": features(f"task {i}: open the {FAMILIES[i % 3]}").tobytes(),
    }
    return logged | more


def save(path: Path, decisions: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(decisions, schema=SCHEMA), path)
    return path


def log(path: Path, n: int = 2400) -> Path:
    """A logging policy that mostly serves `calendar`, whatever is asked; only what is named earns the reward."""
    rng = np.random.default_rng(0)
    chances = np.array([0.1, 0.7, 0.1, 0.1])
    chosen = rng.choice(4, size=n, p=chances)
    return save(
        path,
        [decision(i, ARMS[k], float(ARMS[k] == FAMILIES[i % 3]), float(chances[k])) for i, k in enumerate(chosen)],
    )


def train(path: Path, out: Path, adapters: Path, router: Path, **given: Any) -> Trained:
    settings = Settings.model_validate({"model": {"adapters": adapters}, "router": {"path": router}})
    small = {"hidden": 6, "components": 3, "classifier": {"epochs": 40, "learning_rate": 1e-2}}
    return FromLog(settings, TrainingConfig.load(None, **{**small, **given}), out, quiet()).run(path)


@pytest.fixture
def old(tmp_path: Path, contexts: ContextMap) -> Path:
    """A router that was saved without its examples, and that knows nothing: it names the same adapter always."""
    worst = replace(contexts.projection, W2=np.zeros_like(contexts.projection.W2), b2=np.array([1.0, 0.0, 0.0]))
    replace(contexts, projection=worst).save(tmp_path / "old")
    return tmp_path / "old"


def accuracy(version: Path) -> float:
    contexts = ContextMap.load(version)
    asked = [features(f"new {i}: open the {FAMILIES[i % 3]}") for i in range(60)]
    named = [max((gates := contexts.map(h).gates), key=gates.__getitem__) for h in asked]
    return float(np.mean([name == FAMILIES[i % 3] for i, name in enumerate(named)]))


def test_the_log_teaches_what_its_policy_did_not_do(tmp_path: Path, adapters: Path, old: Path) -> None:
    made = train(log(tmp_path / "log.parquet"), tmp_path / "out", adapters, old)
    assert accuracy(old) == pytest.approx(1 / 3)
    assert accuracy(made.version) > 0.95
    found = made.known["evaluation"]
    assert found["better"]
    assert found["after"]["estimates"]["snips"]["value"] > 0.9 > found["before"]["estimates"]["snips"]["value"]


def test_without_propensities_the_most_served_adapter_would_win(tmp_path: Path) -> None:
    """The weights carry the lesson: as if all had been as likely, the log teaches something else."""
    source = pq.read_table(log(tmp_path / "log.parquet")).to_pylist()
    even = save(tmp_path / "even.parquet", [{**one, "propensity": 0.25} for one in source])
    lessons = [read(path, ARMS, SIZE, clip=50, share=0.2) for path in (tmp_path / "log.parquet", even)]
    served = np.array(lessons[0].arms) == "calendar"
    shares = [float(one.weights[served].sum() / one.weights.sum()) for one in lessons]
    assert shares[0] == pytest.approx(0.25, abs=0.06)
    assert shares[1] == pytest.approx(0.7, abs=0.06)


def test_an_episode_weighs_as_one_by_the_propensity_of_all_its_steps(tmp_path: Path) -> None:
    first = [decision(i, "inbox", 1.0, 0.2, episode="e") for i in range(2)] + [
        decision(2, "inbox", 0.4, 0.5, episode="e")
    ]
    singles = [decision(i, "base", 0.0, 0.5) for i in range(3, 63)]
    lessons = read(save(tmp_path / "log.parquet", [*first, *singles]), ARMS, SIZE, clip=50, share=0.2)
    assert lessons.weights[:3] == pytest.approx([1 / (0.2 * 0.2 * 0.5) / 3] * 3)
    assert lessons.rewards[:3] == pytest.approx([0.8] * 3)
    assert lessons.weights[3:] == pytest.approx(np.full(60, 2.0))
    assert lessons.aside.sum() == 12
    clipped = read(tmp_path / "log.parquet", ARMS, SIZE, clip=9, share=0.2)
    assert clipped.weights[:3] == pytest.approx([3.0] * 3)


def test_units_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    good = [decision(i, "inbox", 1.0) for i in range(60)]
    bad = [
        decision(60, "inbox", None),
        decision(61, "inbox", 1.0, eligible=["inbox"]),
        decision(62, "inbox", 1.0, features=b"xx"),
        decision(63, "top2", 1.0),
        decision(64, "inbox", 1.0, episode="e"),
        decision(65, "inbox", None, episode="e"),
        decision(66, "inbox", 1.0, status="cancelled"),
    ]
    lessons = read(save(tmp_path / "log.parquet", [*good, *bad]), ARMS, SIZE, clip=50, share=0.2)
    assert lessons.arms == ["inbox"] * 60
    assert lessons.judged["id"].to_pylist() == [f"d{i}" for i in range(48, 66)]
    few = (
        "1 of 5 units can be learned from, expected at least 50; 1 without a reward; 1 without a choice or its "
        "propensity; 1 with features of 1 numbers, expected 17 as the router's; 1 served by top2, which is no adapter"
    )
    with pytest.raises(InvalidData, match=few):
        read(save(tmp_path / "few.parquet", [good[0], *bad[:4]]), ARMS, SIZE, clip=50, share=0.2)


def test_labelled_examples_stay_the_prior_and_rewards_are_not_counted_twice(tmp_path: Path, adapters: Path) -> None:
    supervised = train_supervised(write(tmp_path / "d.jsonl", rows()), tmp_path / "first", adapters)
    made = train(log(tmp_path / "log.parquet"), tmp_path / "out", adapters, supervised.version)
    statistics = ContextMap.load(made.version).statistics
    assert statistics.n == 60
    assert set(statistics.arms) == set(ContextMap.load(supervised.version).statistics.arms)
    again = train(log(tmp_path / "log2.parquet", 2700), tmp_path / "out", adapters, made.version)
    assert ContextMap.load(again.version).statistics.n == 60


def test_a_router_without_examples_starts_from_the_evidence_alone(tmp_path: Path, adapters: Path, old: Path) -> None:
    made = train(log(tmp_path / "log.parquet"), tmp_path / "out", adapters, old)
    assert ContextMap.load(made.version).statistics.arms == ()


def test_the_same_log_is_found_again_and_a_broken_one_is_refused(tmp_path: Path, adapters: Path, old: Path) -> None:
    path = log(tmp_path / "log.parquet")
    assert not train(path, tmp_path / "out", adapters, old).found
    assert train(path, tmp_path / "out", adapters, old).found
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(ValueError, match=r"bad\.parquet is not readable"):
        train(tmp_path / "bad.parquet", tmp_path / "out", adapters, old)


def test_a_log_that_is_not_there_or_holds_nothing_is_named(tmp_path: Path, adapters: Path, old: Path) -> None:
    with pytest.raises(InvalidData, match=r"none\.parquet: no such file, expected one of `pointsman export`"):
        train(tmp_path / "none.parquet", tmp_path / "out", adapters, old)
    with pytest.raises(InvalidData, match=r"empty\.parquet: 0 of 0 units can be learned from, expected at least 50"):
        train(save(tmp_path / "empty.parquet", []), tmp_path / "out", adapters, old)


def test_routers_are_judged_on_all_decisions_also_those_that_mixtures_served(
    tmp_path: Path, adapters: Path, old: Path
) -> None:
    """Every second decision is a mixture's, at even chances: without these, weights would be 2 in the mean, not 1."""
    rng = np.random.default_rng(1)
    arms, chances = ["calendar", "inbox", "top2"], [0.25, 0.25, 0.5]
    decisions = [
        decision(i, arms[k], float(i % 3 == 0), chances[k], eligible=arms, costs=[0.0] * 3)
        for i, k in enumerate(rng.choice(3, size=3000, p=chances))
    ]
    found = train(save(tmp_path / "log.parquet", decisions), tmp_path / "out", adapters, old).known["evaluation"]
    assert found["before"]["mean_weight"] == pytest.approx(1, abs=0.2)
    assert found["before"]["estimates"]["ips"]["value"] == pytest.approx(1 / 3, abs=0.1)
