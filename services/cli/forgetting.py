"""`pointsman forget`: deletion on request."""

import time
from typing import Annotated

import typer
from rich.console import Console

from services.cli.client import Client
from services.cli.options import DEFAULT_URL, Key, Url

console = Console()
_LOOK_S = 0.2


def forget(
    tenant: Annotated[str | None, typer.Option(help="Decisions of this tenant.")] = None,
    decision: Annotated[str | None, typer.Option(help="The decision of this id.")] = None,
    of_key: Annotated[str | None, typer.Option(help="What the key of this name asked and said.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is done.")] = True,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Delete what was logged until now, with all that was said of it and learned from it. It cannot be undone."""
    wanted = {"tenant": tenant, "decision_id": decision, "key": of_key}
    given = {name: value for name, value in wanted.items() if value is not None}
    if len(given) != 1:
        raise typer.BadParameter("expected exactly one of --tenant, --decision and --of-key")
    ((name, value),) = given.items()
    if not yes:
        typer.confirm(f"Delete everything of {name} {value!r} for good?", abort=True)
    with Client(url, key) as service:
        asked = service.post("/v1/forget", given)
        if not wait:
            console.print(f"asked for: {asked['id']} (GET /v1/forget/{asked['id']} tells when it is done)")
            return
        with console.status("Deleting…"):
            while not (done := service.get(f"/v1/forget/{asked['id']}")["done"]):
                time.sleep(_LOOK_S)
    console.print(f"{value}: {done['decisions']} decisions and {done['events']} events are gone", highlight=False)
