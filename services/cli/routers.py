"""`pointsman router`: trained routers of a running service."""

import base64
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from services.cli import tables
from services.cli.client import Client, ServiceError
from services.cli.options import DEFAULT_URL, AsJson, Key, Url

app = typer.Typer(help="Push, activate, roll back, list and remove trained routers.", no_args_is_help=True)
console = Console()

Fingerprint = Annotated[str, typer.Argument(help="Its fingerprint, or the beginning of it.")]


@app.command("list")
def list_routers(url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """Every router that the service has, and which one decides."""
    with Client(url, key) as service:
        tables.show(console, service.get("/v1/routers"), _table, as_json)


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A version that `train` made.")],
    activate: Annotated[bool, typer.Option("--activate", help="Activate it at once.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Activate even what the log did not show to be no worse.")
    ] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Send a trained router to the service; it changes nothing until it is activated."""
    from policies.context import ContextMap  # numpy takes a moment to import

    document, tensors = ContextMap.load(directory).files()
    if activate and not force:
        _check_evaluation(directory)
    body = {"document": json.loads(document), "tensors": base64.b64encode(tensors).decode()}
    with Client(url, key) as service:
        pushed = service.post("/v1/routers", body)
        _say(pushed, "pushed", "there already")
        if activate:
            _say(service.post(f"/v1/routers/{pushed['router']}/activate", {}), "activated", "active already")


@app.command("activate")
def activate_router(router: Fingerprint, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Decide with another router, once all evidence has been folded again in its contexts."""
    with Client(url, key) as service:
        name = _whole(service, router)
        _say(service.post(f"/v1/routers/{name}/activate", {}), "activated", "active already")


@app.command()
def rollback(url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Return to the router that was active before."""
    with Client(url, key) as service:
        _say(service.post("/v1/routers/rollback", {}), "activated", "active already")


@app.command()
def remove(router: Fingerprint, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Forget a router that neither decides nor is what a rollback returns to."""
    with Client(url, key) as service:
        name = _whole(service, router)
        _say(service.delete(f"/v1/routers/{name}"), "removed", "gone already")


def _check_evaluation(directory: Path) -> None:
    """Refuse a router from a log on which it was not found to be as good as the one before."""
    path = directory / "training.json"
    try:
        known = json.loads(path.read_text()) if path.is_file() else {}
        found = known.get("evaluation") or {"better": True}
        if found["better"]:
            return
        before, after = found["before"], found["after"]
        if found["better"] is None:
            refused = before["refused"] or after["refused"]
            why = f"the log cannot tell whether it is as good as the one before it: {refused}"
        else:
            was, is_ = (each["estimates"]["snips"]["value"] for each in (before, after))
            why = f"on the log it would have earned {is_:.3f}, the one before it {was:.3f} (SNIPS)"
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ServiceError(f"{path} is not readable: {error!r}, expected what `pointsman train` wrote") from None
    raise ServiceError(f"{directory}: {why} (--force activates it all the same)")


def _whole(service: Client, beginning: str) -> str:
    """The one fingerprint of the service's routers that begins so."""
    names: list[str] = [view["router"] for view in service.get("/v1/routers")]
    fitting = [name for name in names if name.startswith(beginning)]
    if len(fitting) != 1:
        raise ServiceError(f"{beginning!r} fits {len(fitting)} routers, expected one of {', '.join(names)}")
    return fitting[0]


def _say(change: dict[str, Any], done: str, already: str) -> None:
    console.print(f"{change['router']}: {done if change['changed'] else already}", highlight=False)


def _table(views: list[dict[str, Any]]) -> Table:
    table = Table("router", "state", "adapters", "held-out accuracy", "pushed by")
    for view in views:
        accuracy = view["metrics"].get("mlp_accuracy")
        table.add_row(
            view["router"],
            view["state"] + (" (of the settings)" if view["configured"] else ""),
            str(len(view["arms"])),
            "–" if accuracy is None else f"{accuracy:.3f}",
            view["by"] or "–",
        )
    return table
