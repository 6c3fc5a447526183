"""Train the router of the embedded world: features from the service's engine, the MLP, the bandit's prior."""

import asyncio
import random
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from cluster.settings import Settings
from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.families import KEPT, NEWER
from examples.miniwob.measurement import answer, prompt
from examples.miniwob.paths import ADAPTERS, DATA, MODEL, ROUTER
from examples.miniwob.reporting import log_to, progress_bar
from examples.miniwob.screens import read_screens, to_episode
from policies.checks import Array
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from policies.prior import Prior
from policies.training.artifact import fit_context_map
from policies.training.classifier import ClassifierConfig, train_classifier
from policies.training.stage import Round
from services.adapters.registry import BASE, Registry
from services.configuration import learning_config
from services.engine.base import Engine
from services.engine.loading import load
from services.engine.routed import RoutedEngine

app = typer.Typer(add_completion=False)


class Examples(NamedTuple):
    """n labelled screens: features [n, D], the adapter that is right, outcomes [n, arms], NaN where not measured."""

    features: Array
    labels: list[str]
    arms: tuple[str, ...]
    outcomes: Array


@app.command()
def main(
    screens: Annotated[int, typer.Option(help="Training screens a family.")] = 200,
    measured: Annotated[int, typer.Option(help="Of these, screens on which base and adapter are run.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of split, weights and batches.")] = 0,
) -> None:
    """Train on recorded training screens, judge on held-out ones, write router/."""
    log_to("train_router")
    registry = Registry(ADAPTERS)
    known = [family for family in KEPT if family not in NEWER]
    engine = RoutedEngine(load(str(MODEL)), registry.paths, max_batch=64)
    try:
        data = asyncio.run(_measure(engine, registry, _training(known, screens), measured))
        held_out = [episode for episode in load_all() if episode.family in known][::3]
        features = asyncio.run(read_features(engine, held_out))
    finally:
        engine.close()
    contexts = fit(data, seed)
    accuracies = judge(contexts, features, [episode.family for episode in held_out])
    contexts.save(ROUTER)
    _show(accuracies)


def fit(data: Examples, seed: int) -> ContextMap:
    """The artifact: MLP, PCA, and supervised statistics with the measured outcomes."""
    config = ClassifierConfig(seed=seed)
    with progress_bar("router", config.epochs) as advance:

        def report(epoch: Round) -> None:
            advance(f"held-out loss {epoch.held_out_loss:.3f}, recall {epoch.health.mean_recall:.3f}")

        mlp, metrics = train_classifier(data.features, data.labels, config, report)
    return fit_context_map(
        mlp,
        data.features,
        data.labels,
        config,
        outcomes=data.outcomes,
        outcome_arms=data.arms,
        learning=learning_config(Settings()),
        features={"text": "mean instruction state after 2 decoder blocks", "vision": "mean merged patch embedding"},
        metrics=metrics,
        tasks=data.labels,
    )


def judge(contexts: ContextMap, features: Array, labels: Sequence[str]) -> dict[str, float]:
    """Share of the examples on which the MLP, and the cold LinUCB by its means, name the right adapter."""
    X, gates = contexts.map_batch(features)
    posterior = Posterior(Prior(contexts.statistics, learning_config(Settings())))
    for arm in contexts.arms:
        posterior.put(arm, ArmStatistics.empty(contexts.dimension, 1.0))
    named = np.array(contexts.arms)
    truth = np.array(labels)
    return {
        "mlp": float(np.mean(named[gates.argmax(1)] == truth)),
        "cold_linucb": float(np.mean(named[posterior.means(X).argmax(1)] == truth)),
    }


def _training(families: Sequence[str], n: int) -> list[Episode]:
    return [to_episode(family, screen) for family in families for screen in read_screens(DATA / "screens" / family, n)]


async def _measure(engine: Engine, registry: Registry, episodes: Sequence[Episode], measured: int) -> Examples:
    """Features of every episode; outcomes of base and of its own adapter on `measured` episodes of each family."""
    labels = [episode.family for episode in episodes]
    arms = (BASE, *sorted(set(labels)))
    outcomes = np.full((len(episodes), len(arms)), np.nan)
    rows = [row for family in arms[1:] for row in _sample(labels, family, measured)]
    with progress_bar("outcomes", 2 * len(rows)) as advance:

        async def run(row: int, arm: str) -> None:
            text = await answer(engine, episodes[row], registry.gates(arm))
            outcomes[row, arms.index(arm)] = episodes[row].success(text)
            advance()

        await asyncio.gather(*[run(row, arm) for row in rows for arm in (BASE, labels[row])])
    return Examples(await read_features(engine, episodes), labels, arms, outcomes)


def _sample(labels: Sequence[str], family: str, n: int) -> list[int]:
    rows = [row for row, label in enumerate(labels) if label == family]
    return random.Random(family).sample(rows, min(n, len(rows)))


async def read_features(engine: Engine, episodes: Sequence[Episode]) -> Array:
    """Raw features [n, D]."""
    with progress_bar("features", len(episodes)) as advance:
        rows = []
        for episode in episodes:
            rows.append(np.frombuffer(await engine.encode(prompt(episode)), np.float16))
            advance()
    return np.stack(rows).astype(np.float64)


def _show(accuracies: dict[str, float]) -> None:
    table = Table("held-out screens of the families it saw", "accuracy")
    for name, value in accuracies.items():
        table.add_row(name, f"{value:.4f}")
    Console().print(table)


if __name__ == "__main__":
    app()
