"""Who gets the request. Importing the package registers the policies that come with it."""

from policies import fixed, greedy, knn, lints, linucb, mlp, poly, retrieval
from policies.base import Array, Choice, Context, Policy, PolicyConfig, create, register

__all__ = [
    "Array",
    "Choice",
    "Context",
    "Policy",
    "PolicyConfig",
    "create",
    "fixed",
    "greedy",
    "knn",
    "lints",
    "linucb",
    "mlp",
    "poly",
    "register",
    "retrieval",
]
