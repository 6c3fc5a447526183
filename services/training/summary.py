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
