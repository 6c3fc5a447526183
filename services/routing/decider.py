"""Decider: a request's features in, the choice of an arm and what that turns on out. It awaits nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cluster.events import CUSTOM
from cluster.request_store import LastStep
from policies.base import Policy
from policies.context import ContextMap
from services.catalogue.arms import Arms
from services.model.report import Encoded
from services.routing import custom, episodes
from services.routing.call import Call, Considered
from services.routing.episodes import NoArm
from services.routing.modes import Modes
from services.routing.offers import Offer, offers
from services.routing.placement import Placement
from services.routing.snapshots import SnapshotFollower


@dataclass(frozen=True)
class Decider:
    """A trained router at work: contexts, and policies and beliefs in the space of these contexts and of no other."""

    contexts: ContextMap
    modes: Modes
    snapshots: SnapshotFollower
    arms: Arms

    @property
    def policy(self) -> Policy:
        """The policy that serves now."""
        return self.modes.policy

    def consider(
        self, call: Call, encoded: Encoded, last: LastStep | None, placement: Placement, *, seed: str
    ) -> Considered:
        """What the policy chooses for a call whose episode has come to `last`. Raises NoArm, OtherCoordinates."""
        h = np.frombuffer(encoded.features, np.float16)
        known = self.contexts.map(h)._replace(task=call.task)
        context = self.policy.posterior.named(known)
        if call.gates is not None:
            choice, offer, policy = custom.CHOICE, Offer(dict(call.gates)), CUSTOM
            step = custom.step(call.gates, self.arms, last) if call.episode else None
        else:
            offered = self._offers(call, known.gates, last)
            course = episodes.course(last, self.arms.current)
            waits = self._waits(offered, placement, encoded.report.replica)
            choice = self.policy.decide(context, eligible=tuple(offered), costs=waits, seed=seed, course=course)
            offer, policy = offered[choice.arm].in_blocks(self.contexts.layer_gates(h)), self.policy.name
            step = episodes.step(choice.course, self.arms.convention(*offer.gates), last) if call.episode else None
        resident = self.arms.named(placement.resident)
        version, mode = self.snapshots.version, self.modes.mode
        return Considered(choice, offer, context, encoded, step, policy, version, mode, resident)

    def _offers(self, call: Call, supervised: Mapping[str, float], last: LastStep | None) -> dict[str, Offer]:
        """What each arm that may serve would turn on. Raises NoArm, OtherCoordinates."""
        eligible = episodes.eligible(call.eligible, last, self.arms)
        members = self.arms.mixable([self.arms.current(arm) for arm in call.members])
        found = offers(eligible, self.arms, supervised, members, last.step.coordinates if last else None)
        if not found:
            raise NoArm(
                f"{', '.join(eligible)} would mix fewer than two adapters that may serve, expected more of them"
            )
        return found

    def _waits(self, offered: Mapping[str, Offer], placement: Placement, encoded_at: str) -> dict[str, float]:
        """Milliseconds that each arm's answer would wait at its best replica."""
        hashes = {arm: self.arms.fingerprints(offer.gates).values() for arm, offer in offered.items()}
        return {arm: place.ms for arm, place in placement.places(hashes, encoded_at).items()}
