"""Which trained router decides: that of the settings, or one that was activated while the service runs."""

import asyncio
import logging

from cluster.settings import Settings
from cluster.store import Store
from policies import Policy, create
from policies.context import ContextMap
from services.catalogue.arms import Arms
from services.catalogue.routers import active
from services.configuration import make_policy
from services.routing.decider import Decider
from services.routing.modes import Modes
from services.routing.snapshots import SnapshotFollower

log = logging.getLogger(__name__)


class Routers:
    """Makes deciders: first that of the active router, and another one when another trained router is active.

    Beliefs are never carried from one space of contexts to another. The Learner folds the whole log again with the
    active router; until it is done a Router goes on with the one that it has.
    """

    def __init__(self, settings: Settings, store: Store, arms: Arms, configured: ContextMap) -> None:
        self._settings = settings
        self._store = store
        self._arms = arms
        self.configured = configured

    def tune(self, settings: Settings) -> None:
        """Make deciders with these settings from now on."""
        self._settings = settings

    def make(self, contexts: ContextMap) -> Decider:
        """A decider that believes nothing yet but what the supervised data say."""
        policy = make_policy(self._settings, contexts)
        snapshots = SnapshotFollower(
            self._store,
            policy.posterior,
            self._arms,
            discount=self._settings.learner.discount,
            refresh_s=self._settings.router.refresh_s,
            mode=self._settings.router.mode,
        )
        return Decider(contexts, self._modes(policy, snapshots), snapshots, self._arms)

    async def start(self, decider: Decider) -> Decider:
        """Begin with the active router, the decider's or another one, and with what is believed in its contexts."""
        contexts = await active(self._store, self.configured)
        if contexts.fingerprint != decider.contexts.fingerprint:
            decider = self.make(contexts)
        await decider.snapshots.start(contexts.fingerprint)
        return decider

    async def successor(self, decider: Decider) -> Decider | None:
        """The decider of the active router, if that is another one by now and all evidence is in its contexts."""
        wanted = await self._store.active_router() or self.configured.fingerprint
        if wanted == decider.contexts.fingerprint:
            return None
        state = await self._store.learner_state()
        if state.router != wanted or state.rebuilding:
            return None
        made = await asyncio.to_thread(self.make, await active(self._store, self.configured))
        await made.snapshots.start(made.contexts.fingerprint)
        if not made.snapshots.version:  # it has been changed again
            return None
        log.info("deciding with router %s", made.contexts.fingerprint)
        return made

    def _modes(self, policy: Policy, snapshots: SnapshotFollower) -> Modes:
        """Who serves, between the policy and the supervised one over the same posterior."""
        supervised = create("mlp", policy.posterior, policy.config)
        return Modes(policy, supervised, snapshots, falls_back=self._settings.guard.fallback)
