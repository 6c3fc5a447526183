"""Router: encode, decide, log, place, answer."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from cluster.connection import UNAVAILABLE
from cluster.events import CUSTOM, Cancellation, Completion, Decision, EpisodeStep
from cluster.request_store import Decided, EpisodeMoved, LastStep
from cluster.settings import RouterSettings, Settings
from cluster.store import Store
from policies.base import Choice, Context, Policy
from services import custom, decision_ids, episodes
from services.adapters.metadata import AdapterLost, AdapterUnavailable
from services.adapters.shelf import Adapter
from services.arms import Arms
from services.configuration import policy_config
from services.edge.tracing import tracer
from services.engine.base import Delta, Gate, Prompt, Sampling
from services.episodes import NoArm, OtherCoordinates
from services.generation import Generation
from services.journal import Journal
from services.model import Model
from services.modes import Serving
from services.offers import Offer, offers
from services.outages import Outages
from services.placement import Placement
from services.reasons import arm_scores, best, tuning
from services.replicas import Encoded, ReplicaLost
from services.schemas import RoutingInfo
from services.screens import Screens
from services.switching import Decider, Routers

log = logging.getLogger(__name__)
_TRIES = 3
_AGAIN_S = 5.0  # between two looks at an adapter's files that are gone


@dataclass(frozen=True)
class Call:
    """One request to route, as the gateway understood it.

    Mixtures may draw from the adapters of the arms `members`. `gates` are the client's own: then nothing is chosen.
    """

    prompt: Prompt
    eligible: tuple[str, ...]
    sampling: Sampling
    members: tuple[str, ...] = ()
    gates: Mapping[str, float] | None = None
    episode: str | None = None
    task: str | None = None
    tenant: str | None = None
    key: str = "anonymous"
    request_key: str | None = None
    is_retry: bool = False


class Routed(NamedTuple):
    """A request with its decision, fresh unless an earlier attempt of the request had got it already.

    The decision is `durable` unless the store is away: then this Router keeps it until the store is back.
    """

    call: Call
    decision: Decision
    fresh: bool
    durable: bool = True
    encoded_at: str = ""  # the replica that has its screen encoded
    generation: Generation | None = None  # its answer, if that has begun

    @property
    def gates(self) -> Mapping[str, Gate]:
        """What the engine serves."""
        return self.decision.layer_gates or self.decision.gates

    @property
    def info(self) -> RoutingInfo:
        """What the client is told."""
        fields = ["arm", "gates", "policy", "policy_version", "propensity", "explored", "supervised"]
        return RoutingInfo(
            decision_id=self.decision.id,
            resident=set(self.decision.gates) <= set(self.decision.resident),
            durable=self.durable,
            **{name: getattr(self.decision, name) for name in fields},
        )


class Considered(NamedTuple):
    """A choice that has not become a decision."""

    choice: Choice
    offer: Offer
    context: Context
    encoded: Encoded
    step: EpisodeStep | None
    policy: str
    mode: Serving


class Router:
    """Decides which arm serves a request, and follows the answer to its end."""

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
        self.contexts, self.modes, self.snapshots = routers.make(routers.configured)
        self.placement = Placement(settings.page_in_ms, settings.look_s)
        self.outages = Outages(store, model, _AGAIN_S)
        self.resent = 0
        """How often a request was sent to another replica, as its own was lost or lacked files."""
        self._background: set[asyncio.Task[Any]] = set()
        self._following: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._mending: asyncio.Task[None] | None = None

    @property
    def policy(self) -> Policy:
        """The policy that serves now."""
        return self.modes.policy

    async def __aenter__(self) -> Self:
        """Connect, take over the posterior as last committed, and keep following the Learner."""
        await self.store.open()
        await self.routers.start(self)
        self._following = asyncio.create_task(self._follow())
        self._writing = asyncio.create_task(self.journal.run())
        self._looking = asyncio.create_task(self._look())
        self._mending = asyncio.create_task(self.outages.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stop following, and wait for what is still being written."""
        for task in (self._following, self._writing, self._looking, self._mending):
            while task and not task.done():
                task.cancel()  # more than once: on Python 3.11 the Redis client can swallow one
                await asyncio.wait([task], timeout=0.1)
        await asyncio.gather(*self._background, return_exceptions=True)
        try:
            await self.journal.drain()
        except UNAVAILABLE as error:
            log.warning("%d decisions are lost: the store is away (%s)", self.journal.size, error)
        await self.store.close()

    async def _follow(self) -> None:
        """Follow the Learner; with every router that is activated by new snapshots, of its own contexts."""
        while True:
            await self.snapshots.follow(lambda: self.routers.switch(self))

    async def _look(self) -> None:
        """Ask all replicas how they are, again and again."""
        while True:
            try:
                self.placement.all(await self.model.look())
            except Exception as error:  # whatever it is, requests go on with what is known
                log.warning("the replicas could not be asked: %s", error)
            await asyncio.sleep(self.settings.look_s)

    def adopt(self, decider: Decider) -> None:
        """Decide with another trained router from now on."""
        self.contexts, self.modes, self.snapshots = decider

    def tune(self, settings: Settings) -> None:
        """Go on with other values of tunable settings from the next decision on."""
        self.settings = settings.router
        self.placement.page_in_ms = settings.router.page_in_ms
        self.routers.tune(settings)
        self.modes.tune(policy_config(settings), falls_back=settings.guard.fallback)

    def check(self) -> None:
        """Raise what ended the following of Learner and replicas or the writing of what was kept, if one has ended."""
        for task in (self._following, self._writing, self._looking, self._mending):
            if task and task.done():
                task.result()

    async def route(self, call: Call) -> Routed:
        """Encode, decide, and make the decision durable. A retry gets the decision of its first attempt.

        Unless what was chosen then can no longer serve.

        While the store is away decisions are taken on the last snapshot and kept by the journal. Raises Full.
        """
        if call.is_retry and call.request_key and (earlier := await self._earlier(call.request_key)):
            if self.arms.can_serve(earlier.gates):
                return Routed(call, earlier, fresh=False)
            call = replace(call, is_retry=False)  # it was cancelled: the adapter is gone
        with tracer.start_as_current_span("encode"):
            encoded = await self._encode(call.prompt)
        while True:
            with (
                contextlib.suppress(EpisodeMoved),
                tracer.start_as_current_span("decide", record_exception=False) as span,
            ):
                routed = await self._decided(call, encoded)
                span.set_attributes({"pointsman.decision": routed.decision.id, "pointsman.arm": routed.decision.arm})
                return routed

    async def serve(self, call: Call) -> tuple[Routed, AsyncGenerator[Delta, None]]:
        """Route a request, and begin to answer it: see `route` and `answer`.

        Where an adapter's files turn out to be gone, the decision is cancelled and another one taken without it.
        """
        lost: AdapterLost | None = None
        while True:
            try:
                routed = await self.route(call)
                return routed, await self.answer(routed)
            except AdapterLost as error:
                lost, call = error, self._without(call, error)
            except (NoArm, OtherCoordinates):
                if lost:
                    raise lost from None  # all else that may serve
                raise

    async def consider(self, call: Call) -> Considered:
        """What the policy would choose. Raises InvalidPrompt, NoArm, OtherCoordinates. Nothing is logged."""
        encoded = await self._encode(call.prompt)
        return self._consider(call, encoded, await self._last_step(call), seed=call.episode or "route")

    async def _encode(self, prompt: Prompt) -> Encoded:
        """Features, from the least busy replica; another one if that is lost. Raises InvalidPrompt, ReplicaLost."""
        for tries_left in reversed(range(_TRIES)):
            at = self.placement.encoder()
            try:
                encoded = await self.model.encode(prompt, at)
            except ReplicaLost:
                self.placement.lost(at)
                if not tries_left:
                    raise
                self.resent += 1
            else:
                self.placement.heard(encoded.report)
                return encoded
        raise AssertionError("unreachable")

    async def _earlier(self, request_key: str) -> Decision | None:
        """The decision that an earlier attempt of the request got, as far as the store answers."""
        if self.journal.away:
            return None
        with contextlib.suppress(*UNAVAILABLE):
            async with self.journal.patience():
                return await self.store.decision_of_request(request_key)
        return None

    async def _decided(self, call: Call, encoded: Encoded) -> Routed:
        if not self.journal.away:
            with contextlib.suppress(*UNAVAILABLE):
                return await self._decide(call, encoded)
        return self._decide_alone(replace(call, episode=None), encoded)

    def _decide_alone(self, call: Call, encoded: Encoded) -> Routed:
        """Decide without the store, which alone knows the request's episode: the decision stands by itself."""
        id_, snapshots = decision_ids.new(kept=True), self.snapshots
        considered = self._consider(call, encoded, None, seed=id_)
        decision = self._decision(id_, call, considered)

        def written(decided: Decided) -> None:
            if decision.basis:
                snapshots.decided(decided.stream_id, decision.arm, considered.context.x)

        self.journal.keep(decision, written)
        return Routed(call, decision, fresh=True, durable=False, encoded_at=encoded.report.replica)

    async def _decide(self, call: Call, encoded: Encoded) -> Routed:
        async with self.journal.patience():
            id_, last = decision_ids.new(), await self._last_step(call)
        snapshots = self.snapshots  # another router may be adopted while the decision is written
        considered = self._consider(call, encoded, last, seed=call.episode or id_)
        decision = self._decision(id_, call, considered)
        routed = Routed(call, decision, fresh=True, encoded_at=encoded.report.replica)
        generation = self._begin(routed)  # while the decision is written; nothing of it is told before that is done
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
            snapshots.decided(decided.stream_id, decision.arm, considered.context.x)
        self._keep_screen(id_, call.prompt)
        return routed._replace(generation=generation)

    async def _last_step(self, call: Call) -> LastStep | None:
        return await self.store.last_step(call.episode) if call.episode else None

    def _consider(self, call: Call, encoded: Encoded, last: LastStep | None, *, seed: str) -> Considered:
        h = np.frombuffer(encoded.features, np.float16)
        known = self.contexts.map(h)._replace(task=call.task)
        context = self.policy.posterior.named(known)
        mode, policy = self.modes.mode, self.modes.policy
        if call.gates is not None:
            step = custom.step(call.gates, self.arms, last) if call.episode else None
            return Considered(custom.CHOICE, Offer(dict(call.gates)), context, encoded, step, CUSTOM, mode)
        offered = self._offers(call, known.gates, last)
        gates = {arm: offer.gates for arm, offer in offered.items()}
        hashes = {arm: self.arms.fingerprints(turned_on).values() for arm, turned_on in gates.items()}
        places = self.placement.places(hashes, encoded.report.replica)
        waits = {arm: place.ms for arm, place in places.items()}
        course = episodes.course(last, self.arms.current)
        choice = policy.decide(context, eligible=tuple(offered), costs=waits, seed=seed, course=course)
        offer = offered[choice.arm].in_blocks(self.contexts.layer_gates(h))
        step = episodes.step(choice.course, self.arms.convention(*offer.gates), last) if call.episode else None
        return Considered(choice, offer, context, encoded, step, policy.name, mode)

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

    def resident(self) -> list[str]:
        """Adapters that some replica can serve without a page-in."""
        hashes = self.placement.resident
        return [adapter.name for adapter in self.arms.registry if adapter.fingerprint in hashes]

    async def answer(self, routed: Routed) -> AsyncGenerator[Delta, None]:
        """The answer, piece by piece; its completion or cancellation is logged, even if nobody reads a piece of it.

        Where an adapter has to be fetched, this waits for the first piece. Raises what hinders that.
        """
        deltas = self._answer(routed)
        await anext(deltas)  # only a generator that has started is told when it is given up
        await anext(deltas)
        return deltas

    def _adapters(self, names: Collection[str]) -> dict[str, Adapter]:
        """Their versions of now: where one has changed since the decision, the completion says what served."""
        if gone := [name for name in names if name not in self.arms.registry]:
            raise AdapterUnavailable(f"adapter {gone[0]!r} was removed after the decision")
        return {name: self.arms.registry[name] for name in names}

    def _begin(self, routed: Routed) -> Generation:
        """Ask for the answer. Raises AdapterUnavailable."""
        return Generation(self._generate(routed, self._adapters(routed.decision.gates)))

    async def _answer(self, routed: Routed) -> AsyncGenerator[Delta, None]:
        generation, ended, span = routed.generation, list[Delta](), tracer.start_span("generate")
        try:
            yield Delta("")
            generation = generation or self._begin(routed)
            if not routed.info.resident:
                await generation.begun()
            yield Delta("")
            async for delta in generation:
                ended += [delta] if delta.finish_reason else []
                yield delta
            if len(ended) < routed.call.sampling.n:
                raise RuntimeError("the model's answer ended without a finish reason")
        finally:
            ms, first_ms = (generation.ms, generation.first_ms) if generation else (0.0, None)
            if len(ended) == routed.call.sampling.n:
                completion = _completion(routed, ended, ms, first_ms)
                span.set_attribute("pointsman.completion_tokens", completion.completion_tokens)
                self._spawn(self.journal.end(completion))
            else:
                self._spawn(self.journal.end(_cancellation(routed.decision.id)))
            span.set_attributes({"pointsman.decision": routed.decision.id, "pointsman.first_token_ms": first_ms or 0.0})
            span.end()
            log.info("%s by %s", routed.decision.id, routed.decision.arm, extra=_line(routed, ended, ms))
            if generation:
                await generation.aclose()

    async def _generate(self, routed: Routed, adapters: Mapping[str, Adapter]) -> AsyncGenerator[Delta, None]:
        """The answer of the replica where it comes soonest; of another one if that is lost before it said anything.

        Likewise where files are gone that another replica may have; what none can load is suspended.
        """
        call, needed, lost = routed.call, [adapter.fingerprint for adapter in adapters.values()], list[str]()
        while True:
            at = self.placement.places({"": needed}, routed.encoded_at, besides=lost)[""].replica
            said = False
            stream = self.model.generate(call.prompt, routed.gates, call.sampling, adapters, at)
            try:
                with self.placement.sent(at, needed):
                    async with contextlib.aclosing(stream):
                        async for delta in stream:
                            said = True
                            yield delta
                return
            except ReplicaLost:
                self.placement.lost(at)
                lost.append(at)
                if said or len(lost) == _TRIES:
                    raise
                self.resent += 1
            except AdapterLost as error:
                self.placement.lacks(at, error.fingerprint)
                lost.append(at)
                others = set(self.placement.replicas) - set(lost)
                if not others or len(lost) == _TRIES:
                    if not self.placement.able(needed, besides=lost):
                        await self._suspend(error)
                    raise
                self.resent += 1

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
            await self.snapshots.refresh()
        except UNAVAILABLE as error:
            log.warning("the arms of %r could not be suspended, the store is away: %s", lost.adapter, error)

    def _decision(self, id_: str, call: Call, considered: Considered) -> Decision:
        choice, offer, context, encoded, step, policy, mode = considered
        return Decision(
            id=id_,
            time=time.time(),
            episode=call.episode,
            task=call.task,
            tenant=call.tenant,
            key=call.key,
            model=self.base,
            arm=choice.arm,
            gates=offer.gates,
            mixture=offer.mixture,
            layer_gates=offer.layer_gates,
            adapters=self.arms.fingerprints(offer.gates),
            propensity=choice.propensity,
            propensity_error=choice.error,
            explored=choice.explored,
            best=best(choice),
            supervised=choice.supervised,
            policy=policy,
            policy_version=self.snapshots.version,
            mode=mode,
            tuning=tuning(self.modes.policy.config),
            router=self.contexts.fingerprint,
            eligible=list(choice.arms),
            costs=choice.costs.tolist(),
            resident=self.resident(),
            scored=arm_scores(choice, context, self.settings.top_arms),
            step=step,
            basis=None if choice.arm == CUSTOM else self.snapshots.basis,
            features=encoded.features,
        )

    def _keep_screen(self, id_: str, prompt: Prompt) -> None:
        if self.screens.has_time and prompt.images:
            self._spawn(self.screens.keep(id_, prompt.images[-1]))

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run to the end even if the request is cancelled now."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("what follows a request could not be written: %s", error)


def _completion(routed: Routed, ended: list[Delta], latency_ms: float, first_ms: float | None) -> Completion:
    last = ended[-1]
    return Completion(
        time=time.time(),
        decision_id=routed.decision.id,
        latency_ms=latency_ms,
        first_token_ms=first_ms,
        prompt_tokens=last.prompt_tokens,
        completion_tokens=sum(choice.completion_tokens for choice in ended),
        finish_reason=",".join(str(choice.finish_reason) for choice in sorted(ended, key=lambda one: one.choice)),
        replica=last.replica,
        adapters=dict(last.adapters or {}),
    )


def _line(routed: Routed, ended: Sequence[Delta], latency_ms: float) -> dict[str, object]:
    """What the log says of an answer besides its text."""
    decision = routed.decision
    reason = ended[-1].finish_reason if len(ended) == routed.call.sampling.n else "cancelled"
    said = {"decision_id": decision.id, "episode_id": decision.episode, "arm": decision.arm}
    return {**said, "finish_reason": reason, "latency_ms": round(latency_ms, 1)}


def _cancellation(decision_id: str) -> Cancellation:
    return Cancellation(time=time.time(), decision_id=decision_id, reason="the answer was not finished")
