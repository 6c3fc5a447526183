"""`pointsman deploy`: onto a Ray cluster that runs already."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from cluster.settings import Settings
from services.cli import tables

console = Console()

Address = Annotated[
    str, typer.Option("--address", envvar="RAY_DASHBOARD_ADDRESS", help="The cluster's dashboard, http://HEAD:8265.")
]
FromNodes = Annotated[
    bool, typer.Option("--redis-from-nodes", help="Leave Redis out: every node has REDIS_URL in its environment.")
]
Show = Annotated[bool, typer.Option("--print", help="Print the Serve configuration instead of deploying it.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it runs; exit code 1 if it does not.")]


def deploy(
    address: Address = "http://127.0.0.1:8265",
    redis_from_nodes: FromNodes = False,
    show: Show = False,
    wait: Wait = True,
) -> None:
    """Deploy the settings in force here onto a Ray cluster, beside whatever else it serves. Again: an update.

    Code, checkpoint, adapters and router must be on every node under the same paths. Serve replaces what an update
    changed step by step and goes on serving; tunable settings change without a restart.
    """
    if "RAY_AUTH_TOKEN" in os.environ or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as `ray start` and `ray.init` do
    from services.serve_config import ServeCluster, serve_config  # Ray takes seconds to import

    settings = Settings()
    config = serve_config(settings, redis_from_nodes=redis_from_nodes)
    if show:
        typer.echo(yaml.safe_dump(config, sort_keys=False), nl=False)
        return
    cluster = ServeCluster(address)
    if others := cluster.deploy(config):
        console.print(f"Beside {', '.join(others)}.")
    if not wait:
        return
    with Live(console=console, refresh_per_second=4) as live:
        for application in cluster.progress():
            live.update(_deployments(application))
    tables.print_urls(console, f"http://{settings.server.host}:{settings.server.port}")


def _deployments(application: dict[str, Any]) -> Table:
    """Each deployment, and how many of its replicas are in which state."""
    table = Table(title=f"{application.get('name', 'pointsman')}: {application.get('status', 'not known yet')}")
    for column in ("deployment", "status", "replicas"):
        table.add_column(column)
    for name, deployment in application.get("deployments", {}).items():
        states = [replica["state"] for replica in deployment.get("replicas", [])]
        counted = ", ".join(f"{states.count(state)} {state.lower()}" for state in sorted(set(states)))
        table.add_row(name, deployment["status"], counted or "none")
    return table
