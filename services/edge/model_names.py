"""What the `model` field of a request may say, and which arms that makes eligible."""

from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from services.adapters.registry import AUTO, BASE
from services.catalogue.arms import Arms
from services.edge.errors import ApiError, invalid


class ModelNames:
    """`auto`, the base's public name, `<base>:<arm>`, and `<arm>` alone."""

    def __init__(self, base: str, arms: Arms) -> None:
        """Raises ValueError for a base whose name means something else already."""
        if base == AUTO or base in arms.registry:
            raise ValueError(f"model.name: {base!r}, expected neither {AUTO!r} nor the name of an adapter")
        self._base = base
        self._arms = arms

    @property
    def all(self) -> list[str]:
        """Every name, routed first."""
        named = [arm for arm in self._arms.names if arm != BASE]
        base = [self._base] if BASE in self._arms else []
        return [AUTO, *base, *(f"{self._base}:{arm}" for arm in named), *named]

    def fits(self, model: str, arms: Collection[str]) -> bool:
        """Whether one of `arms` may serve what the name asks for."""
        return model == AUTO or self._pinned(model) in arms

    def eligible(self, model: str, arms: Sequence[str] | None) -> tuple[str, ...]:
        """Arms that may serve, or are suspended. Raises ApiError 404 for an unknown model, 400 for unfit arms.

        A frozen arm serves who asks for it by its model name; a choice leaves it out.
        """
        if model == AUTO:
            return self._restricted(arms) if arms else (*self._arms.routed, *self._arms.suspended)
        pinned = self._pinned(model)
        if pinned is None:
            raise ApiError(
                404,
                f"model: {model!r} is unknown, expected one of {', '.join(self.all[:20])}",
                param="model",
                code="model_not_found",
            )
        if arms and pinned not in arms:
            message = f"routing.arms: {list(arms)} leaves out {pinned!r}, which model {model!r} asks for"
            raise ApiError(400, message, param="routing.arms", code="invalid_value")
        return (pinned,)

    def there(self, model: str, arms: Collection[str]) -> tuple[str, ...]:
        """Those of the arms that are not suspended. Raises ApiError 503 if all of them are."""
        left = tuple(arm for arm in arms if arm not in self._arms.suspended)
        if arms and not left:
            raise self._away(f"model: {model!r}", "model", next(iter(arms)))
        return left

    def members(self, arms: Sequence[str] | None) -> tuple[str, ...]:
        """Arms whose adapters mixtures may draw from: those that are named, or all where none of them is named."""
        named = arms or ()
        has_adapter = self._arms.adapters(named) or any(arm in self._arms.suspended for arm in named)
        return self._arms.mixable(named if has_adapter else self._arms.names)

    def gates(self, model: str, gates: Mapping[str, float]) -> dict[str, float]:
        """A client's own gates by adapter.

        Raises ApiError 400 for what has no gate, or would mix coordinates, 503 for what is suspended.
        """
        if model not in (AUTO, self._base):
            raise invalid("routing.gates", f"given with model {model!r}, expected {AUTO!r} or {self._base!r}")
        named: dict[str, float] = {}
        for arm, gate in gates.items():
            if arm in self._arms.suspended:
                raise self._away("routing.gates", "routing.gates", arm)
            adapter = next(iter(self._arms.adapters([arm])), None)
            if adapter is None or adapter in named:
                found = f"{arm!r} is {'no adapter' if adapter is None else f'{adapter!r} once more'}"
                known = ", ".join(each.name for each in islice(self._arms.registry, 20))
                raise invalid("routing.gates", f"{found}, expected some of {known}, each once")
            named[adapter] = gate
        conventions = {adapter: self._arms.convention(adapter) for adapter in named}
        if len(set(conventions.values())) > 1:
            raise invalid("routing.gates", f"coordinates are {conventions}, expected one convention")
        return named

    def _pinned(self, model: str) -> str | None:
        """The arm that a name asks for; none if there is no such arm."""
        arm = BASE if model == self._base else model.removeprefix(f"{self._base}:")
        asks_for_base = arm == BASE and model != self._base  # it goes by its public name alone
        known = arm in self._arms or arm in self._arms.suspended
        return arm if known and not asks_for_base else None

    def _away(self, what: str, param: str, arm: str) -> ApiError:
        why = self._arms.suspended[arm]
        return ApiError(503, f"{what}: {why}", param=param, code="adapter_unavailable", retry_after_s=5)

    def _restricted(self, arms: Sequence[str]) -> tuple[str, ...]:
        for arm in arms:
            if arm not in self._arms and arm not in self._arms.suspended:
                known = ", ".join(self._arms.names[:20])
                message = f"routing.arms: {arm!r} is unknown, expected some of {known}"
                raise ApiError(400, message, param="routing.arms", code="unknown_arm")
        routed = tuple(arm for arm in (*self._arms.routed, *self._arms.suspended) if arm in arms)
        if not routed:
            message = f"routing.arms: {', '.join(arms)} frozen, expected an arm that the router may choose"
            raise ApiError(409, message, param="routing.arms", code="no_arm")
        return routed
