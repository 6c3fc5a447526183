"""What docs/metrics.md says is what there is, and labels stay bounded."""

import re
from pathlib import Path

from services.edge.cache_metrics import Caches
from services.edge.metrics import Metrics

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(pointsman_\w+)` \| (\w+) \|([^|]*)\| (.+) \|$", re.M)


def _names(labels: str) -> list[str]:
    return [label for label in labels.strip().split(", ") if label]


def test_the_page_lists_every_metric() -> None:
    documented = {
        name: (kind, _names(labels), meaning) for name, kind, labels, meaning in ROW.findall(PAGE.read_text())
    }
    there = {}
    for metric in vars(Metrics()).values():
        if hasattr(metric, "_labelnames"):
            (family,) = metric.collect()
            there[family.name] = (family.type, list(metric._labelnames), family.documentation)
    for metric in Caches([]).collect():
        there[metric.name] = (metric.type, list(getattr(metric, "_labelnames", ())), metric.documentation)
    assert documented == there


def test_every_label_is_explained() -> None:
    labels = {label for _, _, names, _ in ROW.findall(PAGE.read_text()) for label in _names(names)}
    bounded = PAGE.read_text().split("Label values are bounded")[1].split("\n\n")[0]
    assert {label for label in labels if f"`{label}`" not in bounded} == set()
