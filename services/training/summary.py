"""What a training came to, for people."""

from typing import Any

from rich.table import Table


def table(known: dict[str, Any]) -> Table:
    """The kept round of every stage."""
    caption = f"router {known['router']} of data {known['data']}, {len(known['arms'])} adapters"
    if calibration := known["calibration"]:
        before, after, temperature = (calibration[name] for name in ("ece_before", "ece_after", "temperature"))
        caption += f"\ncalibration error {before:.3f}, {after:.3f} at temperature {temperature:.2f}"
    made = Table("stage", "round", "held-out loss", "recall", "entropy", "peaked", "most used", caption=caption)
    made.caption_justify = "left"
    for stage in known["stages"]:
        kept = next(one for one in stage["rounds"] if one["number"] == stage["kept"])
        recall, most = kept["recall"].values(), max(kept["use"], key=kept["use"].__getitem__)
        made.add_row(
            stage["stage"],
            f"{stage['kept']} of {stage['rounds'][-1]['number']}",
            f"{kept['held_out_loss']:.4f}",
            f"{sum(recall) / len(recall):.3f}" if recall else "–",
            f"{kept['entropy']:.3f}",
            f"{kept['peaked']:.3f}",
            f"{most} {kept['use'][most]:.2f}",
        )
    return made


def decision(one: dict[str, Any]) -> str:
    """What the comparison of two stages came to."""
    verdict = "kept" if one["kept"] else f"rolled back to {one['against']}"
    return (
        f"{one['stage']}: success {one['success']:.3f}, {one['against']} {one['before']:.3f} on {one['examples']} "
        f"held-out examples ({one['won']} won, {one['lost']} lost): {verdict}"
    )


def evaluation(found: dict[str, Any]) -> Table:
    """Both routers on the last part of the log."""
    verdicts = {None: "the log cannot tell", True: "not worse: it may be activated", False: "worse: keep the old one"}
    made = Table("router", "SNIPS", "IPS", "DR", "units", caption=f"off-policy: {verdicts[found['better']]}")
    made.caption_justify = "left"
    for name in ("before", "after"):
        of = found[name]
        if of["refused"]:
            made.add_row(name, "–", "–", "–", of["refused"])
            continue
        cells = [
            f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"
            for one in (of["estimates"][estimator] for estimator in ("snips", "ips", "dr"))
        ]
        made.add_row(name, *cells, str(of["units"]))
    return made
