"""Means alone: what LinUCB would do if it did not care what it does not know."""

from policies.base import Policy, register
from policies.checks import Array
from policies.request import Request


@register
class Greedy(Policy):
    """score = θᵀx − c·cost; the mixing still explores."""

    name = "greedy"

    def score(self, request: Request) -> Array:
        return request.beliefs.means - request.penalties
