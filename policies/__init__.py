"""Who gets the request. Importing the package registers the policies that come with it."""

from policies import fixed, linucb, mlp
from policies.base import Array, Choice, Context, Policy, PolicyConfig, create, register

__all__ = ["Array", "Choice", "Context", "Policy", "PolicyConfig", "create", "fixed", "linucb", "mlp", "register"]
