"""The replica's side of POLAR: hold to the plan of the epoch."""

from policies.caching.base import register
from policies.caching.lru import LRU


@register
class Polar(LRU):
    """Keeps the set planned for a fixed epoch; what else is needed passes through, least recently used first."""

    name = "polar"
    planned = True


@register
class PolarPlus(Polar):
    """The same with the plans of epochs that double, beside forced exploration."""

    name = "polar_plus"
