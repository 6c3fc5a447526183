"""The engine's thread: it alone touches model, scheduler and sequences."""

import math
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from services.engine.base import Delta, EngineStopped
from services.engine.routed.decoder import Logits
from services.engine.routed.outbox import Outbox, Postman
from services.engine.routed.runner import Runner
from services.engine.routed.scheduler import Chunk, Plan, Scheduler
from services.engine.routed.sequence import Sequence

T = TypeVar("T")


@dataclass(eq=False)
class Request:
    """A prompt that has been read, where its answer goes, and whether the client still wants it."""

    sequence: Sequence
    outbox: Outbox
    others: list[Sequence] = field(default_factory=list)  # choices that wait until the first one has read the prompt
    cancelled: bool = False
    running: int = 0  # sequences that wait for their turn or are answered


class _Job(NamedTuple):
    run: Callable[[], None]
    fail: Callable[[Exception], None]
    computes: bool = False


class _Known(NamedTuple):
    rows: list[tuple[Sequence, int]]  # and the row of its logits
    logits: Logits


class Stepper:
    """Runs jobs and steps in turn, between two steps at most one job that computes."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._requests: dict[Sequence, Request] = {}
        self._postman = Postman()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def running(self) -> int:
        """Requests that are waiting for their turn or answered."""
        return len(self._requests)

    @property
    def closed(self) -> bool:
        """Whether it takes no more: it was closed, or has failed."""
        return self._closed

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run a function on the engine's thread. Raises EngineStopped."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)

        def fail(error: Exception) -> None:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

        self._put(_Job(run, fail, computes=True))
        return future

    def submit(self, request: Request) -> None:
        """Answer a request into its outbox. Raises EngineStopped."""
        self._put(_Job(lambda: self._add(request), lambda error: self._say_last(request, error)))

    def close(self) -> None:
        """Let the thread end; everything unfinished fails with EngineStopped."""
        with self._lock:
            self._closed = True
            self._jobs.put(_Job(lambda: None, lambda _: None))

    def run(self) -> None:
        """The thread's life. Whatever ends it, nobody waits for it afterwards."""
        try:
            while not self._closed:
                self._work()
                self._drop_cancelled()
                if not self._scheduler.idle:
                    self.step()
                self._postman.deliver()
        finally:
            self.close()
            self._stop()

    def step(self) -> None:
        """Schedule, run, postprocess."""
        plan = self._scheduler.schedule()
        for known in self._run(plan):
            self._postprocess(known)

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise EngineStopped("the engine has stopped")
            self._jobs.put(job)

    def _work(self) -> None:
        block, computes = self._scheduler.idle, False
        while not computes:
            try:
                job = self._jobs.get(block)
            except queue.Empty:
                return
            job.run()
            block, computes = False, job.computes

    def _add(self, request: Request) -> None:
        if request.cancelled:
            self._say_last(request, None)
            return
        self._enter(request, request.sequence)
        self._scheduler.add(request.sequence)

    def _enter(self, request: Request, sequence: Sequence) -> None:
        self._requests[sequence] = request
        request.running += 1

    def _run(self, plan: Plan) -> list[_Known]:
        """What is known of the tokens that come next."""
        return [*self._decode(plan), *self._read_chunks(plan.chunks)]

    def _decode(self, plan: Plan) -> list[_Known]:
        """A batch that cannot be computed fails as a whole; prompts go on."""
        if not plan.decoding:
            return []
        try:
            logits = self._runner.decode(plan.rows)
        except Exception as error:
            for sequence in plan.decoding:
                self._end(sequence, error)
            return []
        for sequence in plan.decoding:
            self._scheduler.computed(sequence, 1)
        # A chunk may have left the last token of a prompt to be computed here.
        rows = [(each, sequence.row or 0) for sequence in plan.decoding for each in self._with_choices(sequence)]
        return [_Known(rows, logits)]

    def _read_chunks(self, chunks: list[Chunk]) -> list[_Known]:
        """Prompts that cannot be computed together fail together."""
        if not chunks:
            return []
        known = [chunk.sequence for chunk in chunks if chunk.last]
        try:
            logits = self._runner.read_chunks(chunks)
        except Exception as error:
            for chunk in chunks:
                self._end(chunk.sequence, error)
            return []
        for sequence, tokens in chunks:
            self._scheduler.computed(sequence, tokens)
        together = [(each, row) for row, sequence in enumerate(known) for each in self._with_choices(sequence)]
        return [_Known(together, logits)]

    def _with_choices(self, sequence: Sequence) -> list[Sequence]:
        """A sequence that has read its prompt, and the other choices that go on from there; one without a row waits."""
        request, together = self._requests[sequence], [sequence]
        sequence.own = sequence.early = None
        while request.others:
            other = request.others.pop(0)
            self._enter(request, other)
            if self._scheduler.fork(sequence, other):
                together.append(other)
            else:
                self._scheduler.add(other)
        return together

    def _postprocess(self, known: _Known) -> None:
        """Draw, and say. Logits that are not finite end their own answer; the largest tells without another pass."""
        values, tokens = known.logits.likeliest.tolist()
        for sequence, at in known.rows:
            row, token = known.logits.rows[at], int(tokens[at])
            if not math.isfinite(values[at]):
                gates = {adapter.name: gate for adapter, gate in sequence.gates.items()}
                self._end(sequence, FloatingPointError(f"gates {gates} lead to logits that are not finite"))
                continue
            if not sequence.sampler.greedy:
                try:
                    token = sequence.sampler.draw(row)
                except ValueError as error:
                    self._end(sequence, error)
                    continue
            sequence.ids.append(token)
            top = sequence.logprobs
            told = None if top is None else self._runner.vocabulary.told(row, token, top)
            delta = sequence.answer.add(token, told)
            if delta.finish_reason:
                self._end(sequence, delta)
            else:
                self._postman.take(self._requests[sequence].outbox, delta)

    def _end(self, sequence: Sequence, last: Delta | Exception | None) -> None:
        self._scheduler.remove(sequence)
        request = self._requests.pop(sequence)
        request.running -= 1
        self._say_last(request, last)

    def _say_last(self, request: Request, last: Delta | Exception | None) -> None:
        """The last of a choice; and, when nothing of the request is left here, that it may let go of its adapters."""
        if last is not None:
            self._postman.take(request.outbox, last)
        if not request.running:
            self._postman.take(request.outbox, None)

    def _drop_cancelled(self) -> None:
        for sequence, request in list(self._requests.items()):
            if request.cancelled:
                self._end(sequence, None)

    def _stop(self) -> None:
        """Fail what is unfinished. Its rows and pages are left alone: a device that has failed would fail again."""
        stopped = EngineStopped("the engine has stopped")
        for request in set(self._requests.values()):
            request.running = 0
            self._say_last(request, stopped)
        self._requests.clear()
        while not self._jobs.empty():
            self._jobs.get().fail(stopped)
        self._postman.deliver()
