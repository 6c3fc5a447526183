"""What each arm would turn on for one request: an adapter as always, a mixture by the request's supervised gates."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from cluster.events import Mixture
from policies.checks import Array
from policies.mixtures import in_blocks, mixture
from services.catalogue.arms import Arms


class Offer(NamedTuple):
    """Adapters with their weights, and for a mixture what these were drawn from.

    layer_gates: their weights in each decoder block, of a mixture by a router that has a head for each.
    """

    gates: dict[str, float]
    mixture: Mixture | None = None
    layer_gates: dict[str, tuple[float, ...]] = {}  # noqa: RUF012 - never changed

    def in_blocks(self, layers: Mapping[str, Array]) -> "Offer":
        """The offer with the gates [L] of each decoder block, if it is a mixture and there are any."""
        return self._replace(layer_gates=in_blocks(self.gates, layers)) if self.mixture and layers else self


def offers(
    names: Collection[str],
    arms: Arms,
    supervised: Mapping[str, float],
    members: Collection[str],
    coordinates: str | None = None,
) -> dict[str, Offer]:
    """The offers of the arms `names`, without mixtures of fewer than two adapters. No mixture takes more than the room.

    A mixture draws from the adapters of the arms `members` that the trained router knows, `supervised` are its gates
    by adapter. They share one coordinate convention: `coordinates`, or that of the largest gate.
    """
    mixed = [name for name in names if arms.size(name)]
    known = _known(arms, supervised, members, coordinates) if mixed else {}
    found = {name: _mixed(known, arms.size(name), arms) if name in mixed else Offer(arms.gates(name)) for name in names}
    return {name: offer for name, offer in found.items() if name not in mixed or len(offer.gates) > 1}


def drawn_again(rule: Mixture, supervised: Mapping[str, float]) -> dict[str, float]:
    """The gates of a mixture that was logged, from the supervised gates."""
    return mixture({name: supervised[name] for name in rule.members}, rule.most)


def _mixed(known: Mapping[str, float], size: int, arms: Arms) -> Offer:
    """The mixture of at most `size` adapters, of fewer where a device has no room for so many."""
    for most in range(size, 1, -1):
        rule = Mixture(members=list(known), most=most)
        gates = drawn_again(rule, known)
        if arms.registry.pages(gates) <= arms.registry.room:
            return Offer(gates, rule)
    return Offer({})


def _known(
    arms: Arms, supervised: Mapping[str, float], members: Collection[str], coordinates: str | None
) -> dict[str, float]:
    known = {name: supervised[name] for name in arms.adapters(members) if supervised.get(name, 0.0) > 0}
    if not known:
        return {}
    convention = coordinates or arms.convention(max(known, key=lambda name: known[name]))
    return {name: gate for name, gate in known.items() if arms.convention(name) == convention}
