"""Router: encode, decide, log, place, answer."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Collection
from dataclasses import replace
from typing import Self

from cluster.connection import UNAVAILABLE
from cluster.events import Decision
from cluster.request_store import Decided, EpisodeMoved, LastStep
from cluster.settings import RouterSettings, Settings
from cluster.store import Store
from services.adapters.metadata import AdapterLost
from services.background import Background, Loops
from services.catalogue.arms import Arms
from services.catalogue.outages import Outages
from services.configuration import policy_config
from services.engine.base import Delta
from services.model.base import Model
from services.model.report import Encoded
from services.routing import decision_ids
from services.routing.call import Call, Considered, Routed
from services.routing.dispatcher import Dispatcher
from services.routing.episodes import NoArm, OtherCoordinates
from services.routing.journal import Journal
from services.routing.placement import Placement
from services.routing.record import record
from services.routing.responder import Responder
from services.routing.screens import Screens
from services.routing.switching import Routers
from services.tracing import tracer

log = logging.getLogger(__name__)
_AGAIN_S = 5.0  # between two looks at an adapter's files that are gone


class Router:
    """Decides which arm serves a request, and has it answered. What it does beside requests it does in loops."""

    def __init__(
        self,
        settings: RouterSettings,
        *,
        base: str,
        model: Model,
        store: Store,
        arms: Arms,
        routers: Routers,
        screens: Screens,
        journal: Journal,
    ) -> None:
        self.base = base
        self.settings = settings
        self.model = model
        self.store = store
        self.arms = arms
        self.routers = routers
        self.screens = screens
        self.journal = journal
        self.decider = routers.make(routers.configured)
        self.placement = Placement(settings.page_in_ms, settings.look_s)
        self.outages = Outages(store, model, _AGAIN_S)
        self.background = Background()
        self.dispatcher = Dispatcher(model, self.placement, self._suspend)
        self.responder = Responder(self.dispatcher, arms, journal, self.background)
        self._loops = Loops()

    async def serve(self, call: Call) -> tuple[Routed, AsyncGenerator[Delta, None]]:
        """Route a request, and begin to answer it: see `route`, and `tell` of the `responder`.

        Where an adapter's files turn out to be gone, the decision is cancelled and another one taken without it.
        """
        lost: AdapterLost | None = None
        while True:
            try:
                routed = await self.route(call)
                return routed, await self.responder.tell(routed)
            except AdapterLost as error:
                lost, call = error, self._without(call, error)
            except (NoArm, OtherCoordinates):
                if lost:
                    raise lost from None  # all else that may serve
                raise

    async def route(self, call: Call) -> Routed:
        """Encode, decide, and make the decision durable.

        A retry gets the decision of its first attempt, unless what was chosen then can no longer serve. While the store
        is away decisions are taken on the last snapshot and kept by the journal. Raises Full, and what `consider` does.
        """
        if call.is_retry and call.request_key and (earlier := await self._earlier(call.request_key)):
            if self.arms.can_serve(earlier.gates):
                return Routed(call, earlier, fresh=False)
            call = replace(call, is_retry=False)  # it was cancelled: the adapter is gone
        with tracer.start_as_current_span("encode"):
            encoded = await self.dispatcher.encode(call.prompt)
        while True:
            with (
                contextlib.suppress(EpisodeMoved),
                tracer.start_as_current_span("decide", record_exception=False) as span,
            ):
                routed = await self._decided(call, encoded)
                span.set_attributes({"pointsman.decision": routed.decision.id, "pointsman.arm": routed.decision.arm})
                return routed

    async def consider(self, call: Call) -> Considered:
        """What the policy would choose. Raises InvalidPrompt, NoArm, OtherCoordinates. Nothing is logged."""
        encoded = await self.dispatcher.encode(call.prompt)
        last = await self._last_step(call)
        return self.decider.consider(call, encoded, last, self.placement, seed=call.episode or "route")

    async def _decided(self, call: Call, encoded: Encoded) -> Routed:
        if not self.journal.away:
            with contextlib.suppress(*UNAVAILABLE):
                return await self._decide(call, encoded)
        return self._decide_alone(replace(call, episode=None), encoded)

    async def _decide(self, call: Call, encoded: Encoded) -> Routed:
        """Decide, and ask for the answer while the decision is written; nothing of it is told before that is done."""
        async with self.journal.patience():
            id_, last = decision_ids.new(), await self._last_step(call)
        decider = self.decider  # another one may be there before the decision is written
        considered = decider.consider(call, encoded, last, self.placement, seed=call.episode or id_)
        decision = record(id_, call, considered, decider, base=self.base, top=self.settings.top_arms)
        routed = Routed(call, decision, fresh=True, encoded_at=encoded.report.replica)
        generation = self.responder.ask(routed)
        try:
            decided = await self.journal.decide(
                decision, call.request_key, self.settings.retry_window_s, replace=not call.is_retry, after=last
            )
        except BaseException:
            await generation.aclose()
            raise
        if not decided.fresh:
            await generation.aclose()
            return routed._replace(decision=decided.decision, fresh=False)
        if decision.basis:
            decider.snapshots.decided(decided.stream_id, decision.arm, considered.context.x)
        if call.prompt.images and self.screens.has_time:
            self.background.spawn(self.screens.keep(id_, call.prompt.images[-1]))
        return routed._replace(generation=generation)

    def _decide_alone(self, call: Call, encoded: Encoded) -> Routed:
        """Decide without the store, which alone knows the request's episode: the decision stands by itself."""
        id_, decider = decision_ids.new(kept=True), self.decider
        considered = decider.consider(call, encoded, None, self.placement, seed=id_)
        decision = record(id_, call, considered, decider, base=self.base, top=self.settings.top_arms)

        def written(decided: Decided) -> None:
            if decision.basis:
                decider.snapshots.decided(decided.stream_id, decision.arm, considered.context.x)

        self.journal.keep(decision, written)
        return Routed(call, decision, fresh=True, durable=False, encoded_at=encoded.report.replica)

    async def _earlier(self, request_key: str) -> Decision | None:
        """The decision that an earlier attempt of the request got, as far as the store answers."""
        if self.journal.away:
            return None
        with contextlib.suppress(*UNAVAILABLE):
            async with self.journal.patience():
                return await self.store.decision_of_request(request_key)
        return None

    async def _last_step(self, call: Call) -> LastStep | None:
        return await self.store.last_step(call.episode) if call.episode else None

    async def __aenter__(self) -> Self:
        """Connect, take over the posterior as last committed, and keep following the Learner."""
        await self.store.open()
        self.decider = await self.routers.start(self.decider)
        self._loops.start(self._follow(), self.journal.run(), self._look(), self.outages.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop following, and wait for what is still being written."""
        await self._loops.stop()
        await self.background.finish()
        try:
            await self.journal.drain()
        except UNAVAILABLE as error:
            log.warning("%d decisions are lost: the store is away (%s)", self.journal.size, error)
        await self.store.close()

    def check(self) -> None:
        """Raise what ended the following of Learner and replicas or the writing of what was kept, if one has ended."""
        self._loops.check()

    def tune(self, settings: Settings) -> None:
        """Go on with other values of tunable settings from the next decision on."""
        self.settings = settings.router
        self.placement.page_in_ms = settings.router.page_in_ms
        self.routers.tune(settings)
        self.decider.modes.tune(policy_config(settings), falls_back=settings.guard.fallback)

    async def _follow(self) -> None:
        """Follow the Learner; with every router that is activated by new snapshots, of its own contexts."""
        while True:
            await self.decider.snapshots.follow(self._switch)

    async def _switch(self) -> bool:
        """Decide with the active router from now on; whether it is another one."""
        successor = await self.routers.successor(self.decider)
        self.decider = successor or self.decider
        return successor is not None

    async def _look(self) -> None:
        """Ask all replicas how they are, again and again."""
        while True:
            await self.dispatcher.look()
            await asyncio.sleep(self.settings.look_s)

    def _without(self, call: Call, lost: AdapterLost) -> Call:
        """The request for those of its arms that are left, also by a newer version. Raises the loss if none is."""
        arms, registry, name = self.arms, self.arms.registry, lost.adapter
        gone = name in registry and registry[name].fingerprint == lost.fingerprint

        def left(names: Collection[str]) -> tuple[str, ...]:
            there = [arm for arm in map(arms.current, names) if arm in arms]
            return tuple(arm for arm in there if not (gone and name in arms.gates(arm)))

        eligible = left(call.eligible)
        if not eligible:
            raise lost
        return replace(call, eligible=eligible, members=left(call.members), is_retry=False)

    async def _suspend(self, lost: AdapterLost) -> None:
        try:
            await self.outages.suspend(lost)
            await self.decider.snapshots.refresh()
        except UNAVAILABLE as error:
            log.warning("the arms of %r could not be suspended, the store is away: %s", lost.adapter, error)
