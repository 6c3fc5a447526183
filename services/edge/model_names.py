"""What the `model` field of a request may say, and which arms that makes eligible."""

from collections.abc import Collection, Sequence

from services.adapters.registry import AUTO, BASE, Registry
from services.edge.errors import ApiError


class ModelNames:
    """`auto`, the base's public name, `<base>:<adapter>`, and `<adapter>` alone."""

    def __init__(self, base: str, registry: Registry) -> None:
        """Raises ValueError for a base whose name means something else already."""
        if base == AUTO or base in registry:
            raise ValueError(f"model.name: {base!r}, expected neither {AUTO!r} nor the name of an adapter")
        self._registry = registry
        self._pinned = (
            {base: BASE} | {f"{base}:{a.name}": a.name for a in registry} | {a.name: a.name for a in registry}
        )

    @property
    def all(self) -> list[str]:
        """Every name, routed first."""
        return [AUTO, *self._pinned]

    def fits(self, model: str, arms: Collection[str]) -> bool:
        """Whether one of `arms` may serve what the name asks for."""
        return model == AUTO or self._pinned[model] in arms

    def eligible(self, model: str, arms: Sequence[str] | None) -> tuple[str, ...]:
        """Arms that may serve. Raises ApiError 404 for an unknown model, 400 for arms that do not fit."""
        if model == AUTO:
            return self._restricted(arms) if arms else self._registry.arms
        if model not in self._pinned:
            raise ApiError(
                404,
                f"model: {model!r} is unknown, expected one of {', '.join(self.all[:20])}",
                param="model",
                code="model_not_found",
            )
        if arms and self._pinned[model] not in arms:
            message = f"routing.arms: {list(arms)} leaves out {self._pinned[model]!r}, which model {model!r} asks for"
            raise ApiError(400, message, param="routing.arms", code="invalid_value")
        return (self._pinned[model],)

    def _restricted(self, arms: Sequence[str]) -> tuple[str, ...]:
        for arm in arms:
            if arm not in self._registry.arms:
                known = ", ".join(self._registry.arms[:20])
                message = f"routing.arms: {arm!r} is unknown, expected some of {known}"
                raise ApiError(400, message, param="routing.arms", code="unknown_arm")
        return tuple(arm for arm in self._registry.arms if arm in arms)
