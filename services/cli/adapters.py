"""`pointsman adapters`: the adapters while the service runs. `pointsman cache`: where they lie."""

from typing import Annotated, Any

import typer
from rich.console import Console

from services.cli import tables
from services.cli.cache_table import caches, problems
from services.cli.client import Client
from services.cli.options import DEFAULT_URL, AsJson, Key, Url

app = typer.Typer(help="List, add, update, remove, pin and unpin adapters.", invoke_without_command=True)
console = Console()

Name = Annotated[str, typer.Argument(help="Name of the adapter.")]
Description = Annotated[str | None, typer.Option(help="What it is good at.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Repeatable.")]
Coordinates = Annotated[str | None, typer.Option(help="Convention of its answers, such as relative-1000.")]


@app.callback()
def adapters(context: typer.Context, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """The adapters that can serve."""
    if context.invoked_subcommand is None:
        list_adapters(url, key, as_json)


@app.command("list")
def list_adapters(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """The adapters that can serve."""
    with Client(url, key) as service:
        tables.show(console, service.get("/v1/adapters"), tables.adapters, as_json)


@app.command()
def add(
    name: Name,
    source: Annotated[str, typer.Argument(help="Directory on the replicas' machines, or owner/name@revision.")],
    description: Description = None,
    tags: Tags = None,
    coordinates: Coordinates = None,
    like: Annotated[list[str] | None, typer.Option(help="Repeatable: arms that it is expected to earn as.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Add an adapter, which becomes an arm. Every replica reads and checks it first."""
    said = _said(description, tags, coordinates)
    with Client(url, key, timeout_s=600) as service:
        _print(service.post("/v1/adapters", {"name": name, "source": source, "like": like or [], **said}))


@app.command()
def update(
    name: Name,
    source: Annotated[str | None, typer.Argument(help="Where it lies now; default: where it lay.")] = None,
    description: Description = None,
    tags: Tags = None,
    coordinates: Coordinates = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Serve an adapter as it is on disk now. Requests that run end with the version that they began with."""
    said = _said(description, tags, coordinates) | ({"source": source} if source else {})
    with Client(url, key, timeout_s=600) as service:
        _print(service.patch(f"/v1/adapters/{name}", said))


@app.command()
def remove(name: Name, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Serve no new request by an adapter. What its arms have learned stays."""
    with Client(url, key) as service:
        service.delete(f"/v1/adapters/{name}")
    console.print(f"{name}: removed", highlight=False)


@app.command()
def pin(name: Name, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Keep an adapter on every device."""
    _pin(name, True, url, key)


@app.command()
def unpin(name: Name, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Let an adapter leave the devices like any other."""
    _pin(name, False, url, key)


def cache(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Where every replica has its adapters, and what has happened there. Exit code 1 if a replica's books are wrong."""
    with Client(url, key) as service:
        views = service.get("/v1/cache")
    tables.show(console, views, caches, as_json)
    if problems(views):
        raise typer.Exit(1)


def _pin(name: str, pinned: bool, url: str, key: str | None) -> None:
    with Client(url, key) as service:
        service.post(f"/v1/adapters/{name}/pin", {"pinned": pinned})
    console.print(f"{name}: {'pinned' if pinned else 'not pinned'}", highlight=False)


def _said(description: str | None, tags: list[str] | None, coordinates: str | None) -> dict[str, Any]:
    said = {"description": description, "tags": tags or None, "coordinates": coordinates}
    return {field: value for field, value in said.items() if value is not None}


def _print(view: dict[str, Any]) -> None:
    console.print(f"{view['name']}: {view['fingerprint']} from {view['source']}", highlight=False, soft_wrap=True)
