"""Which trained router decides: that of the settings, or one that was activated while the service runs."""

import asyncio
import logging
from typing import TYPE_CHECKING, NamedTuple

from cluster.settings import Settings
from cluster.store import Store
from policies.context import ContextMap
from services.arms import Arms
from services.configuration import make_modes, make_policy
from services.modes import Modes
from services.snapshots import SnapshotFollower

if TYPE_CHECKING:
    from services.router import Router

log = logging.getLogger(__name__)


class Decider(NamedTuple):
    """A trained router at work: contexts, and policies and beliefs in the space of these contexts and of no other."""

    contexts: ContextMap
    modes: Modes
    snapshots: SnapshotFollower


class Routers:
    """Makes deciders, and changes a Router's when another trained router is active.

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
        return Decider(contexts, make_modes(self._settings, policy, snapshots), snapshots)

    async def start(self, router: "Router") -> None:
        """Begin with the active router, and with what is believed in its contexts."""
        contexts = await active(self._store, self.configured)
        if contexts.fingerprint != router.contexts.fingerprint:
            router.adopt(self.make(contexts))
        await router.snapshots.start(contexts.fingerprint)

    async def switch(self, router: "Router") -> bool:
        """Adopt the active router once all evidence is in its contexts; whether that was so now."""
        wanted = await self._store.active_router() or self.configured.fingerprint
        if wanted == router.contexts.fingerprint:
            return False
        state = await self._store.learner_state()
        if state.router != wanted or state.rebuilding:
            return False
        made = await asyncio.to_thread(self.make, await active(self._store, self.configured))
        await made.snapshots.start(made.contexts.fingerprint)
        if not made.snapshots.version:  # it has been changed again
            return False
        router.adopt(made)
        log.info("deciding with router %s", made.contexts.fingerprint)
        return True


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
