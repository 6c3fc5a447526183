"""Make the example again from nothing, in order: screens, base, adapters, router, outcomes."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from examples.miniwob.families import KEPT
from examples.miniwob.paths import DATA, EPISODES, MODEL, ROUTER, WORLD
from examples.miniwob.recipes import ONE_FOR_ALL, RECIPES
from examples.miniwob.train_adapters import folder_of


@dataclass(frozen=True)
class Step:
    """One module to run as a script, and how to tell that it need not run."""

    module: str
    is_done: Callable[[], bool]
    options: tuple[str, ...] = ()

    def run(self) -> None:
        """Run the module in a process of its own; CalledProcessError where it fails."""
        subprocess.run([sys.executable, "-m", f"examples.miniwob.{self.module}", *self.options], check=True)


STEPS: Final = (
    Step("record", lambda: all((EPISODES / f"{family}.jsonl").exists() for family in KEPT)),
    Step("train_base", lambda: (MODEL / "model.safetensors").exists()),
    Step("train_adapters", lambda: all(folder_of(recipe).exists() for recipe in (*RECIPES.values(), ONE_FOR_ALL))),
    Step("train_router", lambda: (ROUTER / "router.json").exists()),
    Step("evaluate", lambda: False, ("--save",)),
)

app = typer.Typer(add_completion=False)


@app.command()
def make(
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the world and all working data first.")] = False,
) -> None:
    """Run every step that is not done; killed, it goes on where it was."""
    for folder in (WORLD, DATA) if fresh else ():
        shutil.rmtree(folder, ignore_errors=True)
    for step in STEPS:
        if step.is_done():
            typer.echo(f"{step.module}: done")
        else:
            step.run()


if __name__ == "__main__":
    app()
