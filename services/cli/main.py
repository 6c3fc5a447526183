"""The `pointsman` command."""

import importlib
import json
import secrets
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from cluster.events import Mode
from cluster.settings import CHECKOUT, ApiKey, Scope, Settings
from services.cli import adapters as adapter_commands
from services.cli import arms as arm_commands
from services.cli import routers as router_commands
from services.cli import tables
from services.cli import training as training_commands
from services.cli.api_reference import api
from services.cli.client import Client, user_message
from services.cli.deploy import deploy
from services.cli.forgetting import forget
from services.cli.options import DEFAULT_URL, AsJson, Key, Url
from services.cli.options import settings as given_settings
from services.edge.auth import key_hash

app = typer.Typer(
    help="Route computer-use requests to LoRA adapters of one Qwen3-VL, and learn online which is right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
bandits = typer.Typer(help="What the bandit believes.", invoke_without_command=True)
app.add_typer(bandits, name="bandit")
app.add_typer(arm_commands.app, name="arms")
app.add_typer(adapter_commands.app, name="adapters")
app.command()(adapter_commands.cache)
app.add_typer(router_commands.app, name="router")
app.add_typer(training_commands.data, name="data")
app.command()(training_commands.train)
app.command()(api)
app.command()(forget)
app.command()(deploy)
console = Console()
_LONG_S = 3600.0


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port to listen on.")] = None,
    model: Annotated[str | None, typer.Option(help="Directory or hub name of a Qwen3-VL checkpoint.")] = None,
    adapters: Annotated[Path | None, typer.Option(help="Directory with one PEFT LoRA per subdirectory.")] = None,
    router: Annotated[Path | None, typer.Option(help="Directory of the trained router.")] = None,
    data: Annotated[Path | None, typer.Option(help="Directory of the embedded Redis.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to join; without it one starts here.")] = None,
) -> None:
    """Serve on this machine until Ctrl-C. All settings: docs/settings.md."""
    from services.launch import running  # Ray takes seconds to import; the other commands do not need it

    settings = given_settings(
        server={"host": host, "port": port},
        model={"path": _resolved(model), "adapters": adapters and adapters.resolve()},
        router={"path": router and router.resolve()},
        store={"data_dir": data},
    )
    stop = threading.Event()

    def stop_on_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())

    stop_on_signals()
    with console.status("Starting Redis, Ray and Serve…") as status, running(settings, address=address) as url:
        stop_on_signals()  # Ray has put its own in their place, which abort at SIGTERM
        status.stop()
        tables.print_urls(console, url)
        stop.wait()
        console.print("Stopping…")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def demo(context: typer.Context) -> None:
    """Serve the embedded model, send it recorded tasks, and watch the router learn (`demo --help` for options)."""
    sys.path.insert(0, str(CHECKOUT))  # the examples are not part of the installed package
    try:
        module = importlib.import_module("examples.miniwob.demo")
    except ModuleNotFoundError as error:
        raise typer.BadParameter(f"the demo needs a checkout of the project: {error}") from None
    module.app(args=context.args, prog_name="pointsman demo")


@app.command()
def route(
    instruction: Annotated[str, typer.Argument(help="The task, as an agent would say it.")],
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="The screenshot.")] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="Choose among these arms only.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Explain which adapter a request would get, without generating and without logging."""
    body: dict[str, Any] = {"messages": [user_message(instruction, image)], "routing": {"arms": arms or None}}
    with Client(url, key) as service:
        _show(service.post("/v1/route", body), tables.explanation, as_json)


@app.command()
def feedback(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a decision, or of an episode with --episode.")],
    reward: Annotated[float | None, typer.Option(min=0, max=1, help="Reward, 0 to 1.")] = None,
    success: Annotated[bool | None, typer.Option("--success/--failure", help="Instead of --reward.")] = None,
    truncated: Annotated[bool, typer.Option(help="The episode was cut off: no outcome.")] = False,
    episode: Annotated[bool, typer.Option(help="ID names an episode.")] = False,
    source: Annotated[str | None, typer.Option(help="Who says so; default: the key's name.")] = None,
    comment: Annotated[str | None, typer.Option(help="Kept with the feedback.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Post the outcome of a decision or an episode."""
    item = {
        "episode_id" if episode else "decision_id": id_,
        "reward": reward,
        "success": success,
        "truncated": truncated,
        "source": source,
        "comment": comment,
    }
    with Client(url, key) as service:
        status = service.post("/v1/feedback", item)["results"][0]["status"]
    console.print(f"{id_}: {status}")
    if status == "unknown":
        raise typer.Exit(1)


@bandits.callback()
def bandit(context: typer.Context, url: Url = DEFAULT_URL, key: Key = None, as_json: AsJson = False) -> None:
    """What the bandit believes of every arm."""
    if context.invoked_subcommand is None:
        with Client(url, key) as service:
            state = service.get("/v1/bandit")
        _show(state, tables.bandit, as_json)
        if state["policies"] and not as_json:
            console.print(tables.policies(state))


@bandits.command()
def verify(
    whole: Annotated[bool, typer.Option("--whole", help="Fold from the first event, not from the checkpoint.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Fold the log again and compare: exit code 1 if an arm in use differs from what its events come to."""
    with console.status("Folding the log…"), Client(url, key, timeout_s=_LONG_S) as service:
        found = service.get("/v1/bandit/verify", whole=whole)
    _show(found, tables.verification, as_json)
    if not found["ok"]:
        raise typer.Exit(1)


@app.command()
def mode(
    mode: Annotated[Mode | None, typer.Argument(help="What to change to; without it: what is in force.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Who serves: the policy (online, or frozen on the beliefs of now) or the supervised router (shadow)."""
    with Client(url, key) as service:
        _show(service.post("/v1/mode", {"mode": mode}) if mode else service.get("/v1/mode"), tables.mode, as_json)


@app.command()
def guard(
    reset: Annotated[bool, typer.Option("--reset", help="End its alarm; it begins anew.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Whether the policy was found worse than the supervised router."""
    with Client(url, key) as service:
        _show(service.post("/v1/guard/reset", {}) if reset else service.get("/v1/mode"), tables.mode, as_json)


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", dir_okay=False, help="Parquet file to write.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Write the log to a Parquet file: every decision with what it was based on and what became of it."""
    with console.status(f"Writing {to}…"), Client(url, key, timeout_s=_LONG_S) as service:
        size = service.download("/v1/export", to)
    console.print(f"{to}: {size / 1024:.0f} KiB")


@app.command()
def evaluate(
    policies: Annotated[list[str] | None, typer.Option("--policy", help="Repeatable; default: linucb, mlp.")] = None,
    source: Annotated[Path | None, typer.Option("--from", dir_okay=False, help="File of `export`.")] = None,
    level: Annotated[float, typer.Option(min=0.51, max=0.999, help="Level of the intervals.")] = 0.95,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """What policies would have earned on the live log, or with --from on a file and the router of the settings."""
    names = policies or ["linucb", "mlp"]
    if source is None:
        with console.status("Evaluating…"), Client(url, key, timeout_s=_LONG_S) as service:
            found = service.post("/v1/evaluate", {"policies": names, "level": level})
    else:
        from services.insight.evaluation import evaluate_file  # pyarrow takes a while to import

        with console.status("Evaluating…"):
            found = [one.model_dump() for one in evaluate_file(Settings(), source, names, level)]
    _show(found, tables.evaluation, as_json)
    if all(one["refused"] for one in found):
        raise typer.Exit(1)


@app.command()
def decisions(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
    tenant: Annotated[str | None, typer.Option(help="Those of this tenant only.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """The latest decisions and their outcomes."""
    with Client(url, key) as service:
        _show(service.get("/v1/decisions", limit=limit, tenant=tenant), tables.decisions, as_json)


@app.command()
def explain(
    id_: Annotated[str, typer.Argument(metavar="ID", help="Id of a decision.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Why a decision was taken, what would be decided now, and what became of it."""
    with Client(url, key) as service:
        _show(service.get(f"/v1/decisions/{id_}/explain"), tables.decision, as_json)


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the reference page instead.")] = False,
) -> None:
    """Every setting: its value in force here, and what it does."""
    if markdown:
        typer.echo(tables.settings_markdown(), nl=False)
    else:
        console.print(tables.settings_table(Settings()))


@app.command("key")
def new_key(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    scopes: Annotated[list[str], typer.Option("--scope", help=f"Repeatable: {', '.join(get_args(Scope))}.")],
    tenant: Annotated[str | None, typer.Option(help="It sees and rewards this tenant's decisions only.")] = None,
    arms: Annotated[list[str] | None, typer.Option("--arm", help="Repeatable: arms that may serve it.")] = None,
) -> None:
    """Make a bearer key: the secret to hand out, and the line for the configuration (which holds its hash only)."""
    if unknown := set(scopes) - set(get_args(Scope)):
        raise typer.BadParameter(f"scope {unknown.pop()!r}, expected some of {', '.join(get_args(Scope))}")
    secret = f"pm-{secrets.token_urlsafe(32)}"
    entry = {"name": name, "sha256": key_hash(secret), "scopes": scopes, "tenant": tenant, "arms": arms}
    given = {field: value for field, value in entry.items() if value}
    try:
        ApiKey.model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        raise typer.BadParameter(f"{fault['loc'][0]} {fault['input']!r}: {fault['msg']}") from None
    console.print(f"Key, shown once:  {secret}", soft_wrap=True)
    console.print(f"For auth.keys:    - {json.dumps(given)}", soft_wrap=True, markup=False)


def _resolved(model: str | None) -> str | None:
    """A directory as the Ray workers see it; the name of a hub model as it is."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else model


def _show(answer: Any, table: Any, as_json: bool) -> None:
    console.print_json(json.dumps(answer)) if as_json else console.print(table(answer))


def main() -> None:
    """The entry point: errors that a user can mend are one line."""
    try:
        app()
    except (RuntimeError, ValueError, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
