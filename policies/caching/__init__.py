"""What stays resident where there is room for some adapters only. Importing the package registers its policies."""

from policies.caching import gdsf, lfu, lru, planned, static
from policies.caching.base import ResidencyConfig, ResidencyPolicy, create, names, register

__all__ = [
    "ResidencyConfig",
    "ResidencyPolicy",
    "create",
    "gdsf",
    "lfu",
    "lru",
    "names",
    "planned",
    "register",
    "static",
]
