"""Requests of which the logits of every step can be compared with what transformers and PEFT compute."""

import itertools
from collections.abc import Mapping
from typing import Any, Final

import torch

from services.engine.base import Gate, Prompt, Sampling
from services.engine.routed.layout import Adapter
from services.engine.routed.runner import Runner
from services.engine.routed.scheduler import Chunk, Scheduler
from services.engine.routed.sequence import Sequence
from tests.services.engine.oracle import Oracle

TOKENS: Final = 6


def make_runner(oracle: Oracle, **changes: Any) -> Runner:
    """A runner of the oracle's model, small enough for a test."""
    sizes: dict[str, Any] = {"max_batch": 16, "kv_tokens": 8192, "lora_pages": 8, "encode_blocks": 1, "image_cache": 8}
    return Runner(oracle.checkpoint, **sizes | changes)


class Batch:
    """Sequences that are told their next tokens, so that the logits of every step can be compared."""

    def __init__(self, oracle: Oracle, runner: Runner, chunk: int = 512) -> None:
        self.runner = runner
        self._adapters = {name: runner.adapter(path) for name, path in oracle.adapters.items()}
        self.scheduler = Scheduler(runner.arena, runner.window, chunk=chunk)
        self.logits: dict[Sequence, list[torch.Tensor]] = {}
        self._said: dict[Sequence, list[int]] = {}

    def add(self, prompt: Prompt, gates: Mapping[str, Gate], said: list[int]) -> Sequence:
        return self.add_with(prompt, {self._adapters[name]: gate for name, gate in gates.items()}, said)

    def add_with(self, prompt: Prompt, members: Mapping[Adapter, Gate], said: list[int]) -> Sequence:
        (sequence,) = self.runner.read(prompt, members, Sampling(max_tokens=len(said) + 1))
        self.logits[sequence], self._said[sequence] = [], list(said)
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> None:
        plan = self.scheduler.schedule()
        if plan.decoding:
            logits = self.runner.decode(plan.rows).rows
            for sequence in plan.decoding:
                self.scheduler.computed(sequence, 1)
            for sequence in plan.decoding:
                assert sequence.row is not None
                self.logits[sequence].append(logits[sequence.row])
        if plan.chunks:
            self._read(plan.chunks)
        for sequence in self.scheduler.rows[::-1]:
            self._tell(sequence)
        self.scheduler.check_integrity()

    def run(self) -> None:
        while not self.scheduler.idle:
            self.step()

    def _read(self, chunks: list[Chunk]) -> None:
        known = [chunk.sequence for chunk in chunks if chunk.last]
        found = self.runner.read_chunks(chunks).rows
        for sequence, tokens in chunks:
            self.scheduler.computed(sequence, tokens)
        for sequence, logits in zip(known, found, strict=True):
            self.logits[sequence].append(logits)

    def _tell(self, sequence: Sequence) -> None:
        if sequence.pending:
            return
        if self._said[sequence]:
            sequence.ids.append(self._said[sequence].pop(0))
        else:
            self.scheduler.remove(sequence)


def all_are_exact(
    oracle: Oracle,
    runner: Runner,
    prompts: Mapping[str, Prompt],
    every_gates: list[dict[str, float]],
    chunk: int,
) -> None:
    """Every prompt under all kinds of gates, in one batch that has more of them than rows."""
    rows = list(itertools.product(prompts.values(), every_gates))
    batch = Batch(oracle, runner, chunk=chunk)
    sequences = [batch.add(prompt, gates, said(seed)) for seed, (prompt, gates) in enumerate(rows)]
    batch.run()
    for seed, (sequence, (prompt, gates)) in enumerate(zip(sequences, rows, strict=True)):
        close(batch.logits[sequence], oracle.logits(prompt, gates, said(seed)))


def said(seed: int) -> list[int]:
    return torch.randint(0, 500, (TOKENS,), generator=torch.Generator().manual_seed(seed)).tolist()


def close(found: list[torch.Tensor], expected: torch.Tensor) -> None:
    assert len(found) == len(expected)
    torch.testing.assert_close(torch.stack(found), expected, atol=1e-4, rtol=0)
