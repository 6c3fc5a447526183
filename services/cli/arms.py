"""`pointsman arms`: the arms while the service runs."""

from typing import Annotated, Any

import typer
from rich.console import Console

from services.cli import tables
from services.cli.client import Client
from services.cli.options import DEFAULT_URL, Key, Url

app = typer.Typer(help="List, add, remove, freeze, unfreeze and rename arms.", no_args_is_help=True)
console = Console()

Arm = Annotated[str, typer.Argument(help="Name of the arm.")]


@app.command("list")
def list_arms(url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Every arm that there is or was, what it serves, and its state."""
    with Client(url, key) as service:
        console.print(tables.arms(service.get("/v1/arms")))


@app.command()
def add(
    arm: Arm,
    serves: Annotated[str | None, typer.Option(help="Adapter that it turns on; default: the one of its name.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Let an adapter that is there be chosen: a new arm, or one that was removed."""
    _change(arm, "add", {"serves": serves}, url, key)


@app.command()
def remove(arm: Arm, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Take an arm out. It keeps what it learned, for its decisions under way and for its return."""
    _change(arm, "remove", {}, url, key)


@app.command()
def freeze(arm: Arm, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Route to an arm no more; who asks for it by name still gets it."""
    _change(arm, "freeze", {}, url, key)


@app.command()
def unfreeze(arm: Arm, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Route to a frozen arm again."""
    _change(arm, "unfreeze", {}, url, key)


@app.command()
def rename(
    arm: Arm,
    to: Annotated[str, typer.Argument(help="Its new name.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Give an arm another name; what is known of it, and its decisions under way, go along."""
    _change(arm, "rename", {"to": to}, url, key)


def _change(arm: str, verb: str, body: dict[str, Any], url: str, key: str | None) -> None:
    with Client(url, key) as service:
        after = service.post(f"/v1/bandit/arms/{arm}/{verb}", body)
    what = after["record"]["state"] if after["changed"] else f"{after['record']['state']} already"
    console.print(f"{after['arm']}: {what}", highlight=False)
