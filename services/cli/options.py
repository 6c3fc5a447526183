"""Options that commands have in common: how to reach the service, and settings."""

from typing import Annotated, Any, cast

import typer

from cluster.settings import Settings

Url = Annotated[str, typer.Option("--url", envvar="POINTSMAN_URL", help="Address of the service.")]
Key = Annotated[str | None, typer.Option("--key", envvar="POINTSMAN_KEY", help="Bearer key, if the service wants one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the JSON of the service instead of a table.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def settings(**groups: dict[str, Any]) -> Settings:
    """Settings with the options that were given; the environment and the file say the rest."""
    given = {name: {k: v for k, v in group.items() if v is not None} for name, group in groups.items()}
    return Settings(**cast(Any, {name: group for name, group in given.items() if group}))
