"""The caches of `GET /v1/cache`, for people: one table a replica, what is on its device, and below it all the rest."""

from collections.abc import Iterator
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from services.cli.tables import plain


def caches(views: list[dict[str, Any]]) -> Group:
    """A table a replica."""
    return Group(*map(_replica, views))


def problems(views: list[dict[str, Any]]) -> list[str]:
    """What is wrong in the books of replicas."""
    return [f"{view['replica']}: {view['problem']}" for view in views if view["problem"]]


def _replica(view: dict[str, Any]) -> Table:
    title = f"{view['replica']} · {view['pages'] - view['free']} of {view['pages']} pages · {view['policy']}"
    table = plain(title, "adapter", "fingerprint", "pages", "requests", "")
    for entry in view["device"]:
        state = [word for word in ("kept", "outdated") if entry[word]] + ([] if entry["ready"] else ["on its way"])
        pages = ", ".join(map(str, entry["pages"]))
        table.add_row(entry["name"], entry["fingerprint"], pages, str(entry["pins"]), ", ".join(state))
    table.caption = "\n".join(_below(view))
    return table


def _below(view: dict[str, Any]) -> Iterator[str]:
    size = f"{view['host_bytes'] / 2**20:.1f} of {view['host_budget'] / 2**20:.0f} MiB"
    yield f"host: {size}: {', '.join(view['host']) or 'nothing'}"
    asked = view["hits"] + view["misses"]
    rate = f" ({view['hits'] / asked:.0%})" if asked else ""
    yield f"{view['hits']} hits{rate}, {view['misses']} misses; {view['waiting']} requests wait"
    yield (
        f"{view['page_ins']} page-ins{_took(view['page_in_ms'])}, of them the copy{_took(view['copy_ms'])}; "
        f"{view['disk_reads']} read from disk"
    )
    yield f"evicted: {', '.join(f'{count} {reason}' for reason, count in view['evictions'].items()) or 'none'}"
    if view["plan"]:
        yield f"plan: {', '.join(view['plan'])}"
    for name, why in view["broken"].items():
        yield f"[yellow]{escape(name)} cannot be loaded: {escape(why)}[/]"
    if view["problem"]:
        yield f"[bold red]the books are wrong: {escape(view['problem'])}[/]"


def _took(ms: dict[str, float | None]) -> str:
    return "" if ms["p50"] is None else f" in {ms['p50']:.1f} ms (99%: {ms['p99']:.1f} ms)"
