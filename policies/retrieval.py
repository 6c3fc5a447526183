"""Retrieves the adapter whose examples look most like the request (LoraRetriever, Zhao et al. 2024)."""

import numpy as np

from policies.base import Policy, register
from policies.checks import Array
from policies.prior import cosines
from policies.request import Request

_UNKNOWN = -1.0  # the least similarity there is


@register
class Retrieval(Policy):
    """score = cosine of x and the mean example of the arm, − c·cost; an arm without examples has the least score."""

    name = "retrieval"

    def score(self, request: Request) -> Array:
        centroids = [self.posterior.centroid(arm) for arm in request.arms]
        similar = np.full(request.beliefs.means.shape, _UNKNOWN)
        known = [k for k, centroid in enumerate(centroids) if centroid is not None]
        if known:
            C = np.stack([centroid for centroid in centroids if centroid is not None])
            similar[:, known] = cosines(request.X, C)
        return similar - request.penalties
