"""The outcome table: every arm on every recorded episode, by real generation through the service's engine."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.table import Table

from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.paths import ADAPTERS, MODEL, OUTCOMES
from examples.miniwob.reporting import progress_bar
from services.adapters.registry import Registry
from services.engine.base import Engine, Message, Part, Prompt, Sampling
from services.engine.peft import PeftEngine

_MAX_TOKENS = 32
_BATCH = 64

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Outcomes:
    """Success of `arms` by episode id; `adapters` are the content hashes that were measured."""

    adapters: dict[str, str]
    arms: tuple[str, ...]
    table: dict[str, tuple[bool, ...]]

    def success(self, episode: str, arm: str) -> bool:
        """Whether the arm solves the episode. KeyError, ValueError: not measured."""
        return self.table[episode][self.arms.index(arm)]

    def best(self, episodes: Sequence[str], *, adapters_only: bool = False) -> str:
        """The arm that solves most of the episodes; the first of equals."""
        arms = [arm for arm in self.arms if not adapters_only or arm in self.adapters]
        return max(arms, key=lambda arm: sum(self.success(episode, arm) for episode in episodes))

    def save(self, path: Path = OUTCOMES) -> None:
        """Write the table, an episode a line."""
        rows = ",\n".join(
            f"  {json.dumps(id_)}: {json.dumps([int(s) for s in row])}" for id_, row in self.table.items()
        )
        head = json.dumps({"adapters": self.adapters, "arms": self.arms})[1:-1]
        path.write_text(f'{{{head},\n "table": {{\n{rows}\n}}}}\n')

    @classmethod
    def load(cls, path: Path = OUTCOMES) -> Self:
        """Read the table."""
        data = json.loads(path.read_text())
        table = {id_: tuple(bool(success) for success in row) for id_, row in data["table"].items()}
        return cls(data["adapters"], tuple(data["arms"]), table)


def prompt(episode: Episode) -> Prompt:
    """The episode as the gateway hands it to the engine."""
    return Prompt((Message("user", (Part(image=episode.png), Part(text=episode.instruction))),))


async def answer(engine: Engine, episode: Episode, gates: dict[str, float]) -> str:
    """The greedy answer under the gates."""
    sampling = Sampling(max_tokens=_MAX_TOKENS)
    return "".join([delta.text async for delta in engine.generate(prompt(episode), gates, sampling)])


async def measure(engine: Engine, registry: Registry, episodes: Sequence[Episode]) -> Outcomes:
    """Run every arm on every episode."""
    columns: dict[str, list[bool]] = {}
    with progress_bar("outcomes", len(registry.arms) * len(episodes)) as advance:

        async def succeeds(episode: Episode, gates: dict[str, float]) -> bool:
            success = episode.success(await answer(engine, episode, gates))
            advance()
            return success

        for arm in registry.arms:
            gates = registry.gates(arm)
            columns[arm] = await asyncio.gather(*[succeeds(episode, gates) for episode in episodes])
    rows = zip(*(columns[arm] for arm in registry.arms), strict=True)
    table = {episode.id: row for episode, row in zip(episodes, rows, strict=True)}
    return Outcomes({adapter.name: adapter.fingerprint for adapter in registry}, registry.arms, table)


def matrix(outcomes: Outcomes) -> Table:
    """Success in percent, arms down, families across."""
    families = sorted({id_.partition("/")[0] for id_ in outcomes.table})
    table = Table("arm", *families)
    for arm in outcomes.arms:
        rates = []
        for family in families:
            column = [outcomes.success(id_, arm) for id_ in outcomes.table if id_.startswith(f"{family}/")]
            rates.append(f"{100 * sum(column) / len(column):.1f}")
        table.add_row(arm, *rates)
    return table


@app.command()
def main(
    save: Annotated[bool, typer.Option("--save", help="Write the table to world/outcomes.json.")] = False,
) -> None:
    """Measure every arm on every recorded episode and print arms × families."""
    registry = Registry(ADAPTERS)
    engine = PeftEngine(str(MODEL), registry.paths, max_batch=_BATCH)
    try:
        outcomes = asyncio.run(measure(engine, registry, load_all()))
    finally:
        engine.close()
    if save:
        outcomes.save()
    Console(width=160).print(matrix(outcomes))


if __name__ == "__main__":
    app()
