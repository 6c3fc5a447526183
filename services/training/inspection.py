"""What `pointsman data check` says of a file before anybody trains on it."""

import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image
from rich.table import Table

from services.training.examples import Example, InvalidData, divide, scan

_UNBALANCED: Final = 5.0
_FEW: Final = 10


@dataclass(frozen=True)
class DataReport:
    """Counts of each label by split; faults make the file unusable, warnings do not."""

    rows: int
    counts: dict[str, dict[str, int]]
    targets: int
    outcomes: int
    faults: list[str]
    warnings: list[str]


def check(path: Path, share: float, seed: int) -> DataReport:
    """Read every row and every image. Raises InvalidData for a file that is no data, or has no rows."""
    found, faults = scan(path)
    divided = divide(found, share, seed)
    faults += _unreadable(found)
    if not found and not faults:
        raise InvalidData(f"{path}: no rows, expected at least one example")
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"train": 0, "held_out": 0})
    for e in divided:
        assert e.split
        counts[e.label][e.split] += 1
    return DataReport(
        rows=len(found) + len(faults),
        counts=dict(sorted(counts.items())),
        targets=sum(bool(e.target) for e in found),
        outcomes=sum(bool(e.outcomes) for e in found),
        faults=faults,
        warnings=[*_balance(counts), *_duplicates(divided)],
    )


def table(report: DataReport) -> Table:
    """The counts."""
    usable = sum(sum(of.values()) for of in report.counts.values())
    caption = f"{usable} examples: {report.targets} with a target, {report.outcomes} with outcomes"
    made = Table("adapter", "train", "held out", "share", caption=caption, caption_justify="left")
    for label, of in report.counts.items():
        share = sum(of.values()) / usable
        made.add_row(label or "(none)", str(of["train"]), str(of["held_out"]), f"{share:.1%}")
    return made


def _unreadable(examples: Sequence[Example]) -> list[str]:
    """Images whose pixels cannot be decoded; their headers were read before."""
    faults = []
    for e in examples:
        for number, image in enumerate(e.prompt.images, start=1):
            try:
                with Image.open(io.BytesIO(image)) as opened:
                    opened.load()
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                faults.append(f"row {e.row}: image {number} of {len(image)} bytes cannot be decoded: {error}")
    return faults


def _balance(counts: dict[str, dict[str, int]]) -> list[str]:
    labelled = {label: of["train"] for label, of in counts.items() if label}
    said = [f"{label}: {n} examples to train on, expected at least {_FEW}" for label, n in labelled.items() if n < _FEW]
    said += [f"{label}: none held out" for label, of in counts.items() if label and not of["held_out"]]
    least, most = (
        min(labelled, key=labelled.__getitem__, default=""),
        max(labelled, key=labelled.__getitem__, default=""),
    )
    if labelled and labelled[most] > _UNBALANCED * max(1, labelled[least]):
        said.append(
            f"{most} has {labelled[most]} examples, {least} {labelled[least]}: batches are balanced, "
            "but a rare adapter stays badly known"
        )
    return said


def _duplicates(examples: Sequence[Example]) -> list[str]:
    """The same content on both sides of the split, twice on one side, or under different labels."""
    of: dict[str, list[Example]] = defaultdict(list)
    for e in examples:
        of[e.key].append(e)
    said: Counter[str] = Counter()
    first: dict[str, str] = {}
    for same in (same for same in of.values() if len(same) > 1):
        rows = ", ".join(str(e.row) for e in same[:4])
        kinds = {"across the split": len({e.split for e in same}) > 1, "under different adapters": _differ(same)}
        for kind in [kind for kind, holds in kinds.items() if holds] or ["within one split"]:
            said[kind] += 1
            first.setdefault(kind, rows)
    return [f"{n} duplicates {kind}, the first in rows {first[kind]}" for kind, n in sorted(said.items())]


def _differ(same: Sequence[Example]) -> bool:
    return len({e.label for e in same} - {""}) > 1
