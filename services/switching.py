"""Which trained router decides: that of the settings, or one that was activated while the service runs."""

import asyncio
import logging

from cluster.settings import Settings
from cluster.store import Store
from policies.context import ContextMap
from services.arms import Arms
from services.configuration import make_modes, make_policy
from services.decider import Decider
from services.snapshots import SnapshotFollower

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
        return Decider(contexts, make_modes(self._settings, policy, snapshots), snapshots, self._arms)

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


async def active(store: Store, configured: ContextMap) -> ContextMap:
    """The router that is active: the `configured` one until another was activated. RuntimeError: the store lost it."""
    wanted = await store.active_router() or configured.fingerprint
    if wanted == configured.fingerprint:
        return configured
    files = await store.router_files(wanted)
    if files is None:
        raise RuntimeError(f"router {wanted} is active and not in the store, expected it under {store.prefix}routers")
    log.warning("router %s was activated: router.path with %s is not used", wanted, configured.fingerprint)
    return await asyncio.to_thread(ContextMap.parse, *files, f"the store ({wanted})")
