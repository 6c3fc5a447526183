"""Settings from the options of a command."""

from typing import Any, cast

from cluster.settings import Settings


def settings(**groups: dict[str, Any]) -> Settings:
    """Settings with the options that were given; the environment and the file say the rest."""
    given = {name: {k: v for k, v in group.items() if v is not None} for name, group in groups.items()}
    return Settings(**cast(Any, {name: group for name, group in given.items() if group}))
