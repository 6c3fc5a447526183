"""Prometheus metrics of the Model replicas' caches, as one Router is told of them at a scrape."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from services.adapters.cache_view import CacheView

_COUNTERS: Final = {
    "hits": "Adapters that requests needed and that were on the device.",
    "misses": "Adapters that requests needed and that were not.",
    "page_ins": "Adapters that were copied to the device.",
    "disk_reads": "Adapters that were read from disk.",
}


class Caches:
    """What `generate_latest` asks a registry for."""

    def __init__(self, views: Sequence[CacheView]) -> None:
        self._views = views

    def collect(self) -> Iterable[Metric]:
        """The families, each sample with its replica."""
        for name, meaning in _COUNTERS.items():
            counter = CounterMetricFamily(f"pointsman_cache_{name}", meaning, labels=["replica"])
            for view in self._views:
                counter.add_metric([view.replica], getattr(view, name))
            yield counter
        yield self._evictions()
        yield self._page_in()
        yield self._pages()
        yield self._gauge("waiting", "Requests that wait for adapters.", lambda view: view.waiting)
        yield self._gauge("broken", "Adapters that could not be loaded.", lambda view: len(view.broken))

    def _gauge(self, name: str, meaning: str, of: Callable[[CacheView], float]) -> Metric:
        gauge = GaugeMetricFamily(f"pointsman_cache_{name}", meaning, labels=["replica"])
        for view in self._views:
            gauge.add_metric([view.replica], of(view))
        return gauge

    def _evictions(self) -> Metric:
        meaning = "Adapters that left the device, by reason."
        evictions = CounterMetricFamily("pointsman_cache_evictions", meaning, labels=["replica", "reason"])
        for view in self._views:
            for reason, count in view.evictions.items():
                evictions.add_metric([view.replica, reason], count)
        return evictions

    def _page_in(self) -> Metric:
        meaning = "Seconds from asking for an adapter's pages to having it there, of the latest thousand."
        seconds = GaugeMetricFamily("pointsman_cache_page_in_seconds", meaning, labels=["replica", "quantile"])
        for view in self._views:
            for quantile, ms in (("0.5", view.page_in_ms.p50), ("0.99", view.page_in_ms.p99)):
                if ms is not None:
                    seconds.add_metric([view.replica, quantile], ms / 1000)
        return seconds

    def _pages(self) -> Metric:
        pages = GaugeMetricFamily("pointsman_cache_pages", "Pages of the device.", labels=["replica", "state"])
        for view in self._views:
            pages.add_metric([view.replica, "free"], view.free)
            pages.add_metric([view.replica, "used"], view.pages - view.free)
        return pages


def cache_exposition(views: Sequence[CacheView]) -> bytes:
    """The exposition text of the replicas' caches."""
    return generate_latest(cast(CollectorRegistry, Caches(views)))
