"""Steps of the engine without its thread: a batch of rows that decode, and prompts."""

import torch

from benchmarks.engines.device import seconds
from services.adapters.tiers import pages_of
from services.engine.base import Message, Part, Prompt, Sampling
from services.engine.loading import Checkpoint
from services.engine.routed.layout import Adapter, HostAdapter, PageLayout
from services.engine.routed.runner import Runner
from services.engine.routed.scheduler import Scheduler
from services.engine.routed.shape import GROUPS, Shape

ADAPTERS, RANK = 8, 16
_STEPS = 40


class Steps:
    """One model and 8 adapters with random weights on all seven projections."""

    def __init__(self, checkpoint: Checkpoint, batch: int, context: int) -> None:
        shape = Shape.of(checkpoint.model)
        head = checkpoint.model.lm_head.weight
        self._context = context
        self._token_bytes: int = 2 * shape.layers * shape.kv_heads * shape.head_dim * head.element_size()
        self._device = head.device
        linear = sum(sum(shape.outputs[m] for m in ms) * shape.inputs[group] for group, ms in GROUPS.items())
        self.weight_bytes = (shape.layers * linear + head.numel()) * head.element_size()
        row = 1 << (context + 2 * _STEPS - 1).bit_length()
        room = max(max(row, 256) * batch, 4096)
        self._runner = Runner(
            checkpoint, max_batch=batch, kv_tokens=room, lora_pages=16, encode_blocks=1, image_cache=0
        )
        self._adapters = [_random(f"adapter-{n}", shape, like=head) for n in range(ADAPTERS)]

    def kv_bytes(self, batch: int) -> int:
        """Bytes of keys and values that a step reads, at the middle of what is measured."""
        return batch * (self._context + _STEPS // 2) * self._token_bytes

    def measure(self, batch: int, *, adapters: bool) -> float:
        """Seconds of a decode step, its tokens on the host. Row n has adapter n modulo 8."""
        scheduler = self._filled(batch, self._context, adapters=adapters)
        while len(scheduler.rows) < batch or not all(sequence.decoding for sequence in scheduler.rows):
            self._read(scheduler)
        try:
            return seconds(lambda: self._decode(scheduler), self._device, warm=5, times=_STEPS)
        finally:
            for sequence in scheduler.all:
                scheduler.remove(sequence)

    def prefill(self, tokens: int) -> float:
        """Seconds to read a prompt of so many tokens with an adapter, in chunks of 512."""

        def read() -> None:
            scheduler = self._filled(1, tokens, adapters=True)
            while not scheduler.rows or not scheduler.rows[0].decoding:
                self._read(scheduler)
            scheduler.remove(scheduler.rows[0])

        return seconds(read, self._device, warm=2, times=5)

    def _filled(self, batch: int, tokens: int, *, adapters: bool) -> Scheduler:
        scheduler = Scheduler(self._runner.arena, self._runner.window, chunk=512, whole=self._runner.pads)
        for number in range(batch):
            gates = {self._adapters[number % ADAPTERS]: 1.0} if adapters else {}
            prompt = _prompt(tokens)
            (sequence,) = self._runner.read(prompt, gates, Sampling(max_tokens=4096))
            sequence.ids = sequence.ids[:tokens]
            scheduler.add(sequence)
        return scheduler

    def _read(self, scheduler: Scheduler) -> None:
        plan = scheduler.schedule()
        known = [chunk.sequence for chunk in plan.chunks if chunk.last]
        _, tokens = self._runner.read_chunks(plan.chunks).likeliest.tolist()
        for sequence, count in plan.chunks:
            scheduler.computed(sequence, count)
        for sequence, token in zip(known, tokens, strict=True):
            sequence.ids.append(int(token))

    def _decode(self, scheduler: Scheduler) -> None:
        plan = scheduler.schedule()
        logits = self._runner.decode(plan.rows)
        for sequence in plan.decoding:
            scheduler.computed(sequence, 1)
        _, tokens = logits.likeliest.tolist()
        for sequence in plan.decoding:
            sequence.ids.append(int(tokens[sequence.row or 0]))


def _prompt(tokens: int) -> Prompt:
    return Prompt((Message("user", (Part(text="click the blue button " * tokens),)),))


def _random(name: str, shape: Shape, *, like: torch.Tensor) -> Adapter:
    layout = PageLayout(shape)
    data = torch.empty(pages_of(RANK), layout.size, dtype=like.dtype, device=like.device).normal_(std=0.02)
    return layout.adapter(HostAdapter(name, RANK, data), like.device)
