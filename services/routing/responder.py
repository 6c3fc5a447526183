"""Responder: asks for answers, tells them piece by piece, and logs how each ended."""

import logging
import time
from collections.abc import AsyncGenerator, Sequence

from cluster.events import Cancellation, Completion
from services.background import Background
from services.catalogue.arms import Arms
from services.engine.base import Delta
from services.routing.call import Routed
from services.routing.dispatcher import Dispatcher
from services.routing.generation import Generation
from services.routing.journal import Journal
from services.tracing import tracer

log = logging.getLogger(__name__)


class Responder:
    """What the Model says to requests that were routed; whatever ends an answer, its end is logged."""

    def __init__(self, dispatcher: Dispatcher, arms: Arms, journal: Journal, background: Background) -> None:
        self._dispatcher = dispatcher
        self._arms = arms
        self._journal = journal
        self._background = background

    def ask(self, routed: Routed) -> Generation:
        """Ask for an answer by the adapters' versions of now: where one has changed, the completion says what served.

        Raises AdapterUnavailable for one that was removed meanwhile.
        """
        return Generation(self._dispatcher.generate(routed, self._arms.versions(routed.decision.gates)))

    async def tell(self, routed: Routed) -> AsyncGenerator[Delta, None]:
        """The answer, piece by piece; its completion or cancellation is logged, even if nobody reads a piece of it.

        Where an adapter has to be fetched, this waits for the first piece. Raises what hinders that.
        """
        deltas = self._tell(routed)
        await anext(deltas)  # only a generator that has started is told when it is given up
        await anext(deltas)
        return deltas

    async def _tell(self, routed: Routed) -> AsyncGenerator[Delta, None]:
        generation, ended, span = routed.generation, list[Delta](), tracer.start_span("generate")
        try:
            yield Delta("")
            generation = generation or self.ask(routed)
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
                self._background.spawn(self._journal.end(completion))
            else:
                self._background.spawn(self._journal.end(_cancellation(routed.decision.id)))
            span.set_attributes({"pointsman.decision": routed.decision.id, "pointsman.first_token_ms": first_ms or 0.0})
            span.end()
            log.info("%s by %s", routed.decision.id, routed.decision.arm, extra=_line(routed, ended, ms))
            if generation:
                await generation.aclose()


def _completion(routed: Routed, ended: Sequence[Delta], latency_ms: float, first_ms: float | None) -> Completion:
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


def _cancellation(decision_id: str) -> Cancellation:
    return Cancellation(time=time.time(), decision_id=decision_id, reason="the answer was not finished")


def _line(routed: Routed, ended: Sequence[Delta], latency_ms: float) -> dict[str, object]:
    """What the log says of an answer besides its text."""
    decision = routed.decision
    reason = ended[-1].finish_reason if len(ended) == routed.call.sampling.n else "cancelled"
    said = {"decision_id": decision.id, "episode_id": decision.episode, "arm": decision.arm}
    return {**said, "finish_reason": reason, "latency_ms": round(latency_ms, 1)}
