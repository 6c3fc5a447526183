"""Deletion on request: decisions and what was said of them leave the log, sealed or hot, and the store.

Later events are erased before earlier ones, and a decision comes before all that is said of it. So whoever is killed
on the way leaves the decisions, by which the next one finds again what is still to be erased.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.archive import Segment
from cluster.connection import Entry
from cluster.events import (
    Cancellation,
    Completion,
    Decision,
    DriftFound,
    Event,
    Feedback,
    Forgotten,
    Timeout,
    decode,
)
from cluster.forget_store import ForgetRequest
from cluster.store import Store
from cluster.stream import START, stream_order
from services.learning.sealing import drop_checkpoints

_PAGE = 1000


@dataclass
class _Found:
    """What a request is about: its decisions with their episodes, and the number of events."""

    request: ForgetRequest
    decisions: dict[str, str | None] = field(default_factory=dict)
    events: int = 0

    def holds(self, event: Event, *, before_cut: bool) -> bool:
        """Whether the event is to be erased; decisions count only `before_cut`, what is said of them always."""
        request = self.request
        match event:
            case Decision():
                chosen = before_cut and (event.id == request.decision_id or self._owned(event))
                if chosen:
                    self.decisions[event.id] = event.episode
                return chosen
            case Feedback():
                return (before_cut and self._owned(event)) or self._about(event.members)
            case Completion() | Cancellation() | Timeout() | DriftFound():
                return self._about([event.decision_id])
            case _:
                return False

    def _owned(self, event: Decision | Feedback) -> bool:
        """Whether the event is of the tenant or of the key."""
        tenant, key = self.request.tenant, self.request.key
        return (tenant is not None and event.tenant == tenant) or (key is not None and event.key == key)

    def _about(self, decision_ids: Sequence[str]) -> bool:
        known = [id_ in self.decisions or id_ == self.request.decision_id for id_ in decision_ids]
        return bool(known) and all(known)


async def forget(
    store: Store, requests: Mapping[str, ForgetRequest], beat: Callable[[str], Awaitable[None]]
) -> dict[str, Forgotten]:
    """Erase what the requests name, of all that was logged until now; what was done for each. Safe to be done again.

    `beat` is called with each position. Raises Damaged where the log cannot be read; nothing is erased then.

    For the one process that writes the archive. The evidence of what was erased is not touched: fold again.
    """
    found = {id_: _Found(request) for id_, request in requests.items()}
    selection = _Selection(store, list(found.values()), beat)
    await selection.scan()
    decisions = {id_: episode for one in found.values() for id_, episode in one.decisions.items()}
    await store.forget_decisions(decisions)
    await selection.scan_rest()  # from here on nobody appends anything about these decisions
    await selection.unsay(decisions)
    await selection.erase()
    if store.archive:
        await asyncio.to_thread(drop_checkpoints, store.archive)
    await store.compact()
    return {
        id_: Forgotten(**one.request.model_dump(), decisions=len(one.decisions), events=one.events)
        for id_, one in found.items()
    }


class _Selection:
    """The events that requests are about, by the segment that holds them."""

    def __init__(self, store: Store, wanted: list[_Found], beat: Callable[[str], Awaitable[None]]) -> None:
        self._store = store
        self._beat = beat
        self._wanted = wanted
        self._sealed: list[tuple[Segment, set[str]]] = []
        self._hot: list[str] = []
        self._words: list[Feedback] = []
        self._end = START

    async def scan(self) -> None:
        """Look through everything that is logged now."""
        for segment in await asyncio.to_thread(self._store.archive.segments) if self._store.archive else []:
            entries = [one async for batch in self._store.history(segment.after, segment.last) for one in batch]
            if chosen := self._chosen(entries, before_cut=True):
                self._sealed.append((segment, set(chosen)))
            self._end = segment.last
            await self._beat(self._end)
        self._hot += self._chosen(await self._store.deferred(), before_cut=True)
        async for entries in self._rest():
            self._hot += self._chosen(entries, before_cut=True)

    async def scan_rest(self) -> None:
        """Look for what was said meanwhile of the decisions that were found."""
        async for entries in self._rest():
            self._hot += self._chosen(entries, before_cut=False)

    async def unsay(self, erased: Mapping[str, str | None]) -> None:
        """Take back words on decisions that stay."""
        for word in self._words:
            kind, target = ("episode", word.episode_id) if word.episode_id else ("decision", word.decision_id)
            if left := [id_ for id_ in word.members if id_ not in erased]:
                await self._store.unsay((kind, target or ""), word.label, left)

    async def erase(self) -> None:
        """Delete the events, the latest first."""
        hot = sorted(self._hot, key=stream_order, reverse=True)
        await self._store.erase(hot)
        for segment, chosen in reversed(self._sealed):
            if self._store.archive:
                await asyncio.to_thread(self._store.archive.erase, segment, chosen)
                await self._beat(segment.after)

    async def _rest(self) -> AsyncIterator[list[Entry]]:
        while page := await self._store.raw_events(self._end, _PAGE):
            self._end = page[-1][0]
            yield [(at, decode(fields)) for at, fields in page]

    def _chosen(self, entries: Iterable[Entry], *, before_cut: bool) -> list[str]:
        return [at for at, event in entries if self._chooses(event, before_cut=before_cut)]

    def _chooses(self, event: Event, *, before_cut: bool) -> bool:
        holders = [one for one in self._wanted if one.holds(event, before_cut=before_cut)]
        for one in holders:
            one.events += 1
        if holders and isinstance(event, Feedback):
            self._words.append(event)
        return bool(holders)
