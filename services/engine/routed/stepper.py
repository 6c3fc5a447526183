"""The engine's thread: it alone touches model, scheduler and sequences."""

import math
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch

from services.engine.base import Delta, EngineStopped, Prompt, Sampling
from services.engine.grammar import Grammar
from services.engine.routed.lora import Adapter
from services.engine.routed.outbox import Outbox, Postman
from services.engine.routed.runner import Runner
from services.engine.routed.scheduler import Chunk, Plan, Scheduler
from services.engine.routed.sequence import Sequence

T = TypeVar("T")


@dataclass(eq=False)
class Request:
    """What a client wants, and whether it still does."""

    prompt: Prompt
    gates: Mapping[Adapter, float]
    sampling: Sampling
    outbox: Outbox
    grammar: Grammar | None = None
    cancelled: bool = False
    others: list[Sequence] = field(default_factory=list)  # choices that wait until the first one has read the prompt


class _Job(NamedTuple):
    run: Callable[[], None]
    fail: Callable[[Exception], None]


class Stepper:
    """Runs jobs (reading a prompt, encoding) and steps in turn, one job a step while anything runs."""

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

    def call(self, function: Callable[[], T]) -> "Future[T]":
        """Run a function on the engine's thread. Raises EngineStopped."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except Exception as error:
                    future.set_exception(error)

        self._put(_Job(run, future.set_exception))
        return future

    def submit(self, request: Request) -> None:
        """Answer a request into its outbox. Raises EngineStopped."""
        self._put(_Job(lambda: self._read(request), lambda error: self._postman.take(request.outbox, error)))

    def close(self) -> None:
        """Let the thread end; everything unfinished fails with EngineStopped."""
        with self._lock:
            self._closed = True
            self._jobs.put(_Job(lambda: None, lambda _: None))

    def run(self) -> None:
        """The thread's life."""
        while not self._closed:
            self._work()
            self._drop_cancelled()
            if not self._scheduler.idle:
                self.step()
            self._postman.deliver()
        self._stop()

    def step(self) -> None:
        """Schedule, run, postprocess."""
        plan = self._scheduler.schedule()
        for sequences, logits in self._run(plan):
            self._postprocess(sequences, logits)

    def _put(self, job: _Job) -> None:
        with self._lock:
            if self._closed:
                raise EngineStopped("the engine was closed")
            self._jobs.put(job)

    def _work(self) -> None:
        try:
            self._jobs.get(block=self._scheduler.idle).run()
        except queue.Empty:
            return

    def _read(self, request: Request) -> None:
        if request.cancelled:
            return
        try:
            read = self._runner.read(request.prompt, request.gates, request.sampling, request.grammar)
        except Exception as error:  # one that cannot be read must not stop the others
            self._postman.take(request.outbox, error)
            return
        first, *request.others = read
        self._requests[first] = request
        self._scheduler.add(first)

    def _run(self, plan: Plan) -> list[tuple[list[Sequence], torch.Tensor]]:
        """Logits [n, vocabulary] of the sequences that now know their next token."""
        return [*self._decode(plan), *(known for chunk in plan.chunks for known in self._read_chunk(chunk))]

    def _decode(self, plan: Plan) -> list[tuple[list[Sequence], torch.Tensor]]:
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
        return [(plan.decoding, logits[[sequence.row for sequence in plan.decoding]])]

    def _read_chunk(self, chunk: Chunk) -> list[tuple[list[Sequence], torch.Tensor]]:
        try:
            logits = self._runner.read_chunk(chunk)
        except Exception as error:
            self._end(chunk.sequence, error)
            return []
        self._scheduler.computed(chunk.sequence, chunk.tokens)
        return [] if logits is None else [self._with_choices(chunk.sequence, logits)]

    def _with_choices(self, sequence: Sequence, logits: torch.Tensor) -> tuple[list[Sequence], torch.Tensor]:
        """A sequence that has read its prompt, and the other choices that go on from there; one without a row waits."""
        request, together = self._requests[sequence], [sequence]
        while request.others:
            other = request.others.pop(0)
            self._requests[other] = request
            if self._scheduler.fork(sequence, other):
                together.append(other)
            else:
                self._scheduler.add(other)
        return together, logits.expand(len(together), -1)

    def _postprocess(self, sequences: list[Sequence], logits: torch.Tensor) -> None:
        """Draw, and say. Logits that are not finite end their own answer; max finds them without another pass."""
        values, tokens = (result.tolist() for result in logits.max(-1))
        for sequence, value, token, row in zip(sequences, values, tokens, logits, strict=True):
            if not math.isfinite(value):
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

    def _end(self, sequence: Sequence, last: Delta | Exception) -> None:
        self._scheduler.remove(sequence)
        self._postman.take(self._requests.pop(sequence).outbox, last)

    def _drop_cancelled(self) -> None:
        for sequence, request in list(self._requests.items()):
            if request.cancelled:
                self._scheduler.remove(sequence)
                del self._requests[sequence]

    def _stop(self) -> None:
        stopped = EngineStopped("the engine was closed")
        for sequence in list(self._requests):
            self._end(sequence, stopped)
        while not self._jobs.empty():
            self._jobs.get().fail(stopped)
        self._postman.deliver()
