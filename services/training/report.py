"""The course of a training as a picture and a page: losses, and how the gates were spread."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from services.training.summary import decision

PICTURE = "curves.png"
PAGE = "report.html"


def write(folder: Path, known: dict[str, Any]) -> None:
    """Draw curves.png and write report.html, which holds it too."""
    figure = draw(known["stages"])
    figure.savefig(folder / PICTURE, dpi=110)
    picture = base64.b64encode((folder / PICTURE).read_bytes()).decode()
    (folder / PAGE).write_text(page(known, picture), encoding="utf-8")


def draw(stages: list[dict[str, Any]]) -> Figure:
    """A row of three charts a stage: loss, entropy with peaked gates and recall, and the use of each adapter."""
    figure = Figure(figsize=(15, 3.6 * len(stages)), layout="constrained")
    charts = figure.subplots(len(stages), 3, squeeze=False)
    for (losses, spread, use), stage in zip(charts, stages, strict=True):
        rounds = stage["rounds"]
        numbers = [one["number"] for one in rounds]
        for name in ("loss", "held_out_loss"):
            losses.plot(numbers, [one[name] for one in rounds], label=name.replace("_", " "))
        for name in ("entropy", "peaked"):
            spread.plot(numbers, [one[name] for one in rounds], label=name)
        if rounds[0]["recall"]:
            spread.plot(numbers, [_mean(one["recall"]) for one in rounds], label="recall")
        arms = list(rounds[0]["use"])
        use.stackplot(numbers, [[one["use"][arm] for one in rounds] for arm in arms], labels=arms)
        for chart, title in ((losses, "loss"), (spread, "gates"), (use, "mean gate of each adapter")):
            chart.set_title(f"{stage['stage']}: {title}")
            chart.axvline(stage["kept"], color="grey", linestyle=":")
            chart.set_xlabel("round")
        losses.legend()
        spread.set_ylim(-0.02, 1.02)
        spread.legend()
        use.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def page(known: dict[str, Any], picture: str) -> str:
    """The page; `picture` is the PNG in base64."""
    kept = known["stages"][-1]
    last = next(one for one in kept["rounds"] if one["number"] == kept["kept"])
    rows = [
        (arm, f"{last['use'][arm]:.3f}", f"{last['chosen'][arm]:.3f}", _share(last["recall"].get(arm)))
        for arm in known["arms"]
    ]
    said = [f"<p class=alarm>{html.escape(alarm)}</p>" for alarm in known["alarms"]] or ["<p>No alarm.</p>"]
    advice = known["recommendation"]
    advised = f"<p>Serve <b>{advice['way']}</b>: {html.escape(advice['reason'])}</p>" if advice else ""
    compared = "".join(f"<p>{html.escape(decision(one))}</p>" for one in known["decisions"])
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Router {known["router"]}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }}
td, th {{ padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }}
.alarm {{ color: #b00020; font-weight: 600; }} img {{ max-width: 100%; }}
</style>
<h1>Router {known["router"]}</h1>
<p>Data {known["data"]}, run {known["run"]}; kept: round {kept["kept"]} of {kept["stage"]}, held-out loss
{last["held_out_loss"]:.4f}, entropy {last["entropy"]:.3f}, {last["peaked"]:.1%} of the gates above 0.9.</p>
{"".join(said)}{advised}{compared}
{_table(("adapter", "mean gate", "chosen", "recall"), rows)}
<img alt="Losses and gates over the rounds" src="data:image/png;base64,{picture}">
</html>
"""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<table><tr>{titles}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)
