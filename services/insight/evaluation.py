"""What policies would have earned on an exported log, or on the live one."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from cluster.settings import Settings
from policies import Context, PolicyConfig, create
from policies.checks import Array
from policies.context import ContextMap
from policies.evaluation import Log, NotEvaluable, evaluate
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior
from services.configuration import learning_config, make_store, policy_config
from services.insight import export

_BLOCK = 50  # decisions between two looks at the rewards


class EstimateView(BaseModel):
    """One estimator's value with its interval."""

    value: float
    low: float
    high: float


class PolicyEvaluation(BaseModel):
    """What the log says of a policy; `refused` says why it says nothing.

    `matched` is the share of units whose choices are the policy's own, `effective` how many equally weighted units its
    weights are worth; `left_out` decisions had no choice, no reward yet, or features of another router.
    """

    policy: str
    refused: str | None = None
    units: int = 0
    decisions: int = 0
    left_out: int = 0
    effective: float = 0.0
    matched: float = 0.0
    mean_weight: float = 0.0
    level: float = 0.95
    estimates: dict[str, EstimateView] = {}


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Asks policies about the decisions of a log, without exploration.

    A policy that learns starts from the supervised prior and learns from the log's own rewards as it goes, a block of
    decisions at a time: never from the reward of the decision that it is asked about.
    """

    contexts: ContextMap
    learning: LearningConfig
    config: PolicyConfig

    @classmethod
    def of(cls, settings: Settings, contexts: ContextMap) -> "Evaluator":
        """As the service is configured."""
        return cls(contexts, learning_config(settings), policy_config(settings))

    async def evaluate(
        self, batches: AsyncIterable[pa.RecordBatch], policies: Sequence[str], *, level: float = 0.95
    ) -> list[PolicyEvaluation]:
        """Every policy on the decisions of the batches. ValueError: an unknown policy."""
        rows: list[dict[str, Any]] = []
        seen = 0
        async for batch in batches:
            seen += batch.num_rows
            rows += [row for row in batch.to_pylist() if self._counts(row)]
        rows = _whole_units(rows)
        return [self._evaluated(name, rows, seen, level) for name in policies]

    def _counts(self, row: dict[str, Any]) -> bool:
        """Whether the decision was taken, by features that the router can read."""
        fits = len(row["features"] or b"") == 2 * self.contexts.input_dimension
        return fits and row["status"] != "cancelled"

    def _evaluated(self, name: str, rows: list[dict[str, Any]], seen: int, level: float) -> PolicyEvaluation:
        try:
            if not rows:
                raise NotEvaluable("no decision of the log has a reward: nothing to evaluate on")
            log, arms = self._log(rows)
            found = evaluate(log, self._target(name, rows, log, arms), level=level)
        except NotEvaluable as error:
            return PolicyEvaluation(policy=name, refused=str(error), left_out=seen, level=level)
        estimates = {
            estimator: EstimateView(value=value, low=low, high=high)
            for estimator, (value, low, high) in found.estimates.items()
        }
        counts = {key: getattr(found, key) for key in ("units", "decisions", "effective", "matched", "mean_weight")}
        left_out = seen - found.decisions
        return PolicyEvaluation(policy=name, left_out=left_out, level=level, estimates=estimates, **counts)

    def _log(self, rows: list[dict[str, Any]]) -> tuple[Log, list[str]]:
        arms = sorted({arm for row in rows for arm in row["eligible"]})
        index = {arm: i for i, arm in enumerate(arms)}
        eligible = np.zeros((len(rows), len(arms)), dtype=bool)
        for i, row in enumerate(rows):
            eligible[i, [index[arm] for arm in row["eligible"]]] = True
        H = np.stack([np.frombuffer(row["features"], np.float16) for row in rows])
        _, unit = np.unique([_unit(row) for row in rows], return_inverse=True)
        propensity = [np.nan if row["propensity"] is None else row["propensity"] for row in rows]
        reward = np.bincount(unit, [row["reward"] for row in rows]) / np.bincount(unit)
        action = np.array([index[row["arm"]] for row in rows])
        return Log(self.contexts.map_batch(H)[0], eligible, action, np.array(propensity), unit, reward), arms

    def _target(self, name: str, rows: list[dict[str, Any]], log: Log, arms: list[str]) -> Array:
        """The policy's own choices [n,K], one a row."""
        posterior = Posterior(Prior(self.contexts.statistics, self.learning))
        known = {arm: ArmStatistics.empty(self.contexts.dimension, self.learning.discount) for arm in arms}
        for arm in arms:
            posterior.put(arm, known[arm])
        greedy = replace(self.config, epsilon_supervised=0.0, epsilon_uniform=0.0)
        policy = create(name, posterior, greedy, self.contexts.supervision)
        target = np.zeros(log.eligible.shape)
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            contexts = [self._context(row) for row in block]
            for i, (row, context) in enumerate(zip(block, contexts, strict=True)):
                costs = dict(zip(row["eligible"], row["costs"] or [], strict=False))
                seed = f"beside {row['id']}"
                choice = policy.decide(context, eligible=row["eligible"], costs=costs, seed=seed)
                target[start + i, arms.index(choice.arm)] = 1.0
            _learn(posterior, known, block, contexts)
        return target

    def _context(self, row: dict[str, Any]) -> Context:
        return self.contexts.map(np.frombuffer(row["features"], np.float16))._replace(task=row["task"])


def _learn(
    posterior: Posterior, known: dict[str, ArmStatistics], block: list[dict[str, Any]], contexts: list[Context]
) -> None:
    for row, context in zip(block, contexts, strict=True):
        statistics = known[row["arm"]]
        tick = statistics.pull(context.x, row["time"])
        statistics.mature(context.x, tick, row["reward"], 1.0, row["time"], was_pending=True)
    for arm in {row["arm"] for row in block}:
        posterior.put(arm, known[arm])


def _whole_units(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without units of which a decision has no reward yet."""
    open_ = {_unit(row) for row in rows if row["reward"] is None}
    return [row for row in rows if _unit(row) not in open_]


def _unit(row: dict[str, Any]) -> str:
    return f"episode {row['episode']}" if row["episode"] else f"decision {row['id']}"


async def from_file(path: Path) -> AsyncIterator[pa.RecordBatch]:
    """The batches of an exported file. ValueError: it is none."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not readable, expected a file of `pointsman export`: {error}") from error
    if missing := set(export.SCHEMA.names) - set(file.schema_arrow.names):
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}, expected a file of `pointsman export`")
    for batch in file.iter_batches():
        yield batch


async def evaluate_apart(
    settings: Settings, contexts: ContextMap, policies: Sequence[str], level: float
) -> list[PolicyEvaluation]:
    """The policies on the live log, in a process of its own: a Router goes on deciding meanwhile."""
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, _alone, settings, contexts, list(policies), level)
    finally:
        pool.shutdown(wait=False)


def _alone(settings: Settings, contexts: ContextMap, policies: list[str], level: float) -> list[PolicyEvaluation]:
    async def connected() -> list[PolicyEvaluation]:
        async with make_store(settings) as store:
            return await Evaluator.of(settings, contexts).evaluate(export.batches(store), policies, level=level)

    return asyncio.run(connected())


def evaluate_file(settings: Settings, path: Path, policies: Sequence[str], level: float) -> list[PolicyEvaluation]:
    """The policies on an exported log. ValueError: the file is none, or a policy is unknown."""
    evaluator = Evaluator.of(settings, ContextMap.load(settings.router.path))
    return asyncio.run(evaluator.evaluate(from_file(path), policies, level=level))
