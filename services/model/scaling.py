"""How many Model replicas there should be: by the requests they have, and by how many of those wait for an adapter."""

import math

from ray.serve.config import AutoscalingContext

PAGE_IN = "page_in_share"  # what replicas report: requests that waited for an adapter, of those since the last report


class Scaling:
    """The autoscaling policy of the Model deployment; Serve applies its bounds and delays to what this returns.

    target: requests in flight that a replica should have.  page_in_share: share of a replica's requests that may wait
    for an adapter to be paged in; where more do, on average, one replica more spreads the adapters over more room.
    """

    def __init__(self, target: float, page_in_share: float) -> None:
        self._target = target
        self._page_in_share = page_in_share

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, float]]:
        """Replicas wanted now, and no state of its own."""
        reported = list((context.aggregated_metrics or {}).get(PAGE_IN, {}).values())
        waiting = sum(reported) / len(reported) if reported else 0.0
        return self.replicas(context.current_num_replicas, context.total_num_requests, waiting), {}

    def replicas(self, current: int, ongoing: float, waiting: float) -> int:
        """Replicas for `ongoing` requests of which the share `waiting` waits for adapters, on `current` replicas."""
        by_requests = math.ceil(ongoing / self._target)
        crowded = waiting > self._page_in_share and ongoing > 0
        return max(by_requests, current + 1 if crowded else 0, 1)
