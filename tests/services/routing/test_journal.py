"""What a Router keeps while the store is away."""

from typing import Any

import pytest

from cluster.connection import Refused
from cluster.events import Cancellation
from cluster.request_store import Decided
from services.routing.journal import Journal
from tests.services.learning.test_fold import decision


class Refusing:
    """A store that refuses to write; what turns out to write nothing is not refused."""

    async def decide(self, *_: Any, **__: Any) -> Decided:
        raise Refused("OOM command not allowed when used memory > 'maxmemory'.")

    async def cancel(self, _: Cancellation) -> bool:
        return False


async def test_a_store_is_away_until_it_writes() -> None:
    store: Any = Refusing()
    journal = Journal(store, bound=2, patience_s=1)
    with pytest.raises(Refused):
        await journal.decide(decision("d1"), None, 1, replace=False, after=None)
    journal.keep(decision("k1"), lambda _: None)
    with pytest.raises(Refused):
        await journal.drain()
    assert (journal.away, journal.size) == (True, 1)
