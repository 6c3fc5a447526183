"""Tables for people."""

import json
import os
import time
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from cluster.settings import CHECKOUT, EMBEDDED_WORLD, Settings


def bandit(state: dict[str, Any]) -> Table:
    """The arms of `GET /v1/bandit`."""
    age = state["learner_age_s"]
    title = f"{state['policy']} v{state['policy_version']} · {state['mode']} · router {state['router']}"
    life = "never seen" if age is None else f"{age:.1f} s ago"
    behind = f"{state['behind_events']} events behind ({state['behind_s']:.1f} s)"
    caption = f"posterior over {state['contexts']} recent contexts · Learner's last step {life} · {behind}"
    table = plain(
        title, "arm", "pulls", "pending", "matured", "reward (95%)", "posterior", "feedback", "updated", "resident"
    )
    notes = [*(_drift(arm["arm"], drift) for arm in state["arms"] for drift in arm["drifts"][-1:]), *state["warnings"]]
    table.caption = "\n".join([caption, *(f"[yellow]{escape(note)}[/]" for note in notes)])
    for arm in state["arms"]:
        table.add_row(
            arm["arm"] + (" (frozen)" if arm["state"] == "frozen" else ""),
            str(arm["pulls"]),
            str(arm["pending"]),
            str(arm["matured"]),
            _interval(arm["reward_mean"], arm["reward_interval"]),
            _plus_minus(arm["posterior_mean"], arm["posterior_width"]),
            _answers(*arm["answers"]),
            _ago(arm["updated"]),
            "yes" if arm["resident"] else "no",
        )
    return table


def _drift(arm: str, drift: dict[str, Any]) -> str:
    """The last change that an arm's rewards showed."""
    how = "less" if drift["worse"] else "more"
    why = ", as the supervised data say" if drift["restored"] else ""
    found = f"{arm}: since decision {drift['tick']} ({_ago(drift['time'])}) it earns {how} than was believed{why}"
    return f"{found}; trust {drift['kappa']:.2g}"


def policies(state: dict[str, Any]) -> Table:
    """The policies of `GET /v1/bandit`, by what the log says of their own choices."""
    table = plain("on the log, by SNIPS", "policy", "value (95%)", "units", "effective")
    for policy in state["policies"]:
        value = _interval(policy["value"], [policy["low"], policy["high"]])
        table.add_row(policy["policy"], value, str(policy["units"]), f"{policy['effective']:.0f}")
    return table


def evaluation(found: list[dict[str, Any]]) -> Table:
    """The policies of `POST /v1/evaluate`."""
    table = plain(None, "policy", "SNIPS", "DR", "IPS", "replay", "units", "effective", "matched")
    for one in found:
        if one["refused"]:
            table.add_row(one["policy"], f"[yellow]{escape(one['refused'])}[/]")
            continue
        estimates = [one["estimates"].get(name) for name in ("snips", "dr", "ips", "replay")]
        values = [_interval(each["value"], [each["low"], each["high"]]) if each else "–" for each in estimates]
        table.add_row(one["policy"], *values, str(one["units"]), f"{one['effective']:.0f}", f"{one['matched']:.0%}")
    level = found[0]["level"] if found else 0.95
    table.caption = f"what the policy's own choices would have earned, with {level:.0%} intervals"
    return table


def mode(view: dict[str, Any]) -> Table:
    """The view of `GET /v1/mode`."""
    table = plain(None, "chosen", "in force", "policy", "guard")
    guard = view["guard"]
    said = "nothing seen yet"
    if guard:
        seen = f"{guard['units']} units, {guard['differing']} of them differ, evidence {guard['evidence']:.2g}"
        said = seen if guard["alarm"] is None else f"ALARM at unit {guard['alarm']}: worse than the supervised router"
    table.add_row(view["chosen"], view["mode"], view["policy"], said)
    return table


def verification(found: dict[str, Any]) -> Table:
    """The arms of `GET /v1/bandit/verify`."""
    verdict = "the posterior is what the log comes to" if found["ok"] else "the posterior differs from its log"
    table = plain(f"{verdict} (version {found['version']})", "arm", "S", "e", "P", "counts")
    table.caption = f"folded {found['start']} to {found['position']} · largest relative difference, at most 1e-9"
    for arm in found["arms"]:
        sums = (f"{arm[name]:.1e}" for name in ("S", "e", "P"))
        table.add_row(arm["arm"], *sums, "equal" if arm["counts_equal"] else "[red]differ[/]")
    return table


def explanation(answer: dict[str, Any]) -> Table:
    """The arms of `POST /v1/route`."""
    how = "explored" if answer["explored"] else "best score"
    table = plain(
        f"{answer['arm']} ({how}, propensity {_propensity(answer)}; supervised: {answer['supervised']})"
        + _mixed(answer["gates"]),
        "arm",
        "gate",
        "mean",
        "width",
        "cost ms",
        "score",
    )
    for arm in answer["arms"]:
        gate = "–" if arm["gate"] is None else f"{arm['gate']:.3f}"
        numbers = (f"{arm[name]:.3f}" for name in ("mean", "width", "cost_ms", "score"))
        table.add_row(arm["arm"], gate, *numbers, style="bold" if arm["arm"] == answer["arm"] else "")
    return table


def _mixed(gates: dict[str, float]) -> str:
    """The gates of a mixture."""
    return " = " + " + ".join(f"{gate:.3f} {name}" for name, gate in gates.items()) if len(gates) > 1 else ""


def decision(answer: dict[str, Any]) -> Group:
    """`GET /v1/decisions/{id}/explain`: the reason, the arms as they stood and as they stand, what became of it."""
    made, now = answer["stored"]["decision"], answer["now"]
    versions = f"{made['policy']} v{made['policy_version']}, propensity {_propensity(made)}"
    versions += _mixed(made["gates"])
    columns = ("arm", "gate", "mean", "width", "cost ms", "score", "mean now", "width now", "score now")
    table = plain(f"{made['id']} · {versions}", *columns)
    after = {arm["arm"]: arm for arm in now["arms"]} if now else {}
    for arm in made["scored"]:
        gate = "–" if arm["gate"] is None else f"{arm['gate']:.3f}"
        then = (f"{arm[name]:.3f}" for name in ("mean", "width", "cost_ms", "score"))
        name = answer["names"].get(arm["arm"], arm["arm"])
        later = after.get(name)
        since = (f"{later[name]:.3f}" for name in ("mean", "width", "score")) if later else ("–",) * 3
        shown = arm["arm"] if name == arm["arm"] else f"{arm['arm']} (now {name})"
        table.add_row(shown, gate, *then, *since, style="bold" if arm["arm"] == made["arm"] else "")
    nearest = ", ".join(f"{label} ({distance:.2f})" for label, distance in answer["nearest"])
    lines = [f"[bold]{escape(answer['reason'])}[/]", f"outcome: {escape(answer['outcome'])}"]
    lines += [f"labels of the nearest examples (distance): {nearest}"] if nearest else []
    lines += [
        f"now: v{now['policy_version']} would serve {now['arm']}" if now else "now: the trained router is another one"
    ]
    return Group(lines[0], table, *lines[1:])


def decisions(views: list[dict[str, Any]]) -> Table:
    """The rows of `GET /v1/decisions`."""
    table = plain(None, "decision", "when", "task", "arm", "propensity", "outcome")
    for view in views:
        decision = view["decision"]
        outcome = view["ledger"]["status"] if view["ledger"] else "not folded yet"
        rewards = ", ".join(f"{escape(source)}: {reward}" for source, (reward, _) in view["observations"].items())
        table.add_row(
            decision["id"],
            _ago(decision["time"]),
            escape(decision["task"] or "–"),
            decision["arm"] + (" (explored)" if decision["explored"] else ""),
            _propensity(decision),
            f"{outcome} ({rewards})" if rewards else outcome,
        )
    return table


def arms(records: dict[str, dict[str, Any]]) -> Table:
    """The records of `GET /v1/arms`."""
    table = plain(None, "arm", "state", "serves", "fingerprint", "earlier names", "why")
    for arm, record in records.items():
        names = ", ".join(record["former"]) or "–"
        why = escape(record["reason"])
        table.add_row(arm, record["state"], record["serves"], record["adapter_hash"] or "–", names, why)
    return table


def adapters(views: list[dict[str, Any]]) -> Table:
    """The rows of `GET /v1/adapters`."""
    table = plain(None, "adapter", "fingerprint", "rank", "KiB", "pinned", "about", "source")
    for view in views:
        size, pinned = f"{view['bytes'] / 1024:.0f}", "yes" if view["pinned"] else ""
        about = escape(" · ".join(filter(None, [view["description"], *view["tags"]])))
        about = f"[yellow]{escape(view['suspended'])}[/]" if view["suspended"] else about
        table.add_row(view["name"], view["fingerprint"], str(view["rank"]), size, pinned, about, escape(view["source"]))
    return table


def show(console: Console, answer: Any, table: Any, as_json: bool) -> None:
    """A table of an answer, or its JSON."""
    console.print_json(json.dumps(answer)) if as_json else console.print(table(answer))


def print_urls(console: Console, url: str) -> None:
    """Where the service is and how to try it."""
    console.print(f"Pointsman serves at [bold]{url}[/]", highlight=False)
    for path, what in (
        ("/v1", "OpenAI-compatible base URL (model=auto)"),
        ("/docs", "the API"),
        ("/v1/bandit", "what the bandit believes (or: pointsman bandit)"),
        ("/metrics", "Prometheus"),
    ):
        console.print(f"  {url}{path:<12} {what}", highlight=False)
    sample = os.path.relpath(EMBEDDED_WORLD.parent / "request.json")
    console.print("Try it:", highlight=False)
    console.print(
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d @{sample}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    console.print("Ctrl-C stops it.")


def settings_table(settings: Settings) -> Table:
    """Every setting with the value in force."""
    table = plain(None, "setting", "value", "what it does")
    for group in Settings.model_fields:
        values: BaseModel = getattr(settings, group)
        for name, field in type(values).model_fields.items():
            value = escape(str(getattr(values, name)))
            table.add_row(f"{group}.{name}", value, escape(field.description or ""))
        table.add_section()
    return table


def settings_markdown() -> str:
    """The reference page of the settings."""
    lines = [
        "# Settings",
        "",
        "Read, strongest first, from the command line of `pointsman serve`, the environment",
        "(`POINTSMAN_<GROUP>__<NAME>`, such as `POINTSMAN_SERVER__PORT=9000`; lists and sets as JSON), and the YAML",
        "file that `POINTSMAN_CONFIG` names. `pointsman settings` shows the values in force,",
        "`pointsman settings --markdown` prints this page.",
    ]
    for group, field in Settings.model_fields.items():
        kind = cast(type[BaseModel], field.annotation)
        lines += [
            "",
            f"## {group}",
            "",
            field.description or "",
            "",
            "| setting | default | what it does |",
            "|---|---|---|",
        ]
        lines += [f"| `{group}.{n}` | {_default(f.default)} | {f.description} |" for n, f in kind.model_fields.items()]
    return "\n".join(lines) + "\n"


def _default(value: object) -> str:
    """A default as the page shows it; paths inside the checkout are given relative to it."""
    text = str(value)
    if EMBEDDED_WORLD.name in text and str(CHECKOUT) in text:
        text = str(Path(text).relative_to(CHECKOUT))
    return f"`{text}`" if text not in ("", "()", "frozenset()") else "none"


def plain(title: str | None, *columns: str) -> Table:
    """An empty table without lines between its cells."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in columns:
        numeric = column in {"pulls", "pending", "matured", "gate", "cost ms", "rank", "KiB"}
        numeric = numeric or column.startswith(("mean", "width", "score"))
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=column == "arm")
    return table


def _propensity(decided: dict[str, Any]) -> str:
    error = decided["propensity_error"]
    return f"{decided['propensity']:.3f}" + (f" ± {error:.3f}" if error else "")


def _interval(mean: float | None, interval: list[float] | None) -> str:
    return "–" if mean is None or interval is None else f"{mean:.2f} ({interval[0]:.2f}–{interval[1]:.2f})"


def _plus_minus(mean: float | None, width: float | None) -> str:
    return "–" if mean is None or width is None else f"{mean:.2f} ± {width:.2f}"


def _answers(_: int, __: int, coverage: float | None, median: float | None, p90: float | None) -> str:
    """Share of finished decisions with an outcome; median and 90% quantile of its delay."""
    share = "–" if coverage is None else f"{coverage:.0%}"
    return share if median is None or p90 is None else f"{share} in {_span(median)}, {_span(p90)}"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.2g} s"


def _ago(when: float | None) -> str:
    if when is None:
        return "never"
    age = max(0.0, time.time() - when)
    return f"{age:.0f} s ago" if age < 120 else f"{age / 60:.0f} min ago"
