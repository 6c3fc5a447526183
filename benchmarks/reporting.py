"""What every benchmark ends with: a table for people, raw figures for machines, and an exit code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Check(NamedTuple):
    """One figure that was promised: its value, the goal in words, and whether it was met."""

    name: str
    value: float
    goal: str
    ok: bool


def report(title: str, table: Table, checks: Sequence[Check], json_file: Path | None = None, **figures: Any) -> None:
    """Print the table and the checks, write `figures` and checks to `json_file`; SystemExit(1) if one is not met."""
    console = Console()
    console.print(table)
    summary = Table("check", "value", "goal", "ok", title=title, title_justify="left")
    for check in checks:
        summary.add_row(check.name, f"{check.value:.4g}", check.goal, "yes" if check.ok else "[bold red]no")
    console.print(summary)
    if json_file is not None:
        document = {"title": title, "checks": [check._asdict() for check in checks], **figures}
        json_file.write_text(json.dumps(document, indent=1) + "\n")
    if not all(check.ok for check in checks):
        raise SystemExit(1)
