"""LinUCB with one linear model an arm (Li et al. 2010), a supervised prior and a cost of waiting."""

from policies.base import Request, register
from policies.checks import Array
from policies.mixing import MixingPolicy


@register
class LinUCB(MixingPolicy):
    """score = θᵀx + α√(xᵀ(V+P)⁻¹x) − c·cost."""

    name = "linucb"

    def estimate(self, request: Request) -> tuple[Array, Array]:
        means, widths = self.posterior.means(request.x), self.posterior.widths(request.x)
        return means[request.rows], widths[request.rows]
