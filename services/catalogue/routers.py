"""The trained router that is active: that of the settings, or one that was activated while the service runs."""

import asyncio
import logging

from cluster.store import Store
from policies.context import ContextMap

log = logging.getLogger(__name__)


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
