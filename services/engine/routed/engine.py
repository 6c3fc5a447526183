"""The asyncio face: one thread steps the model, event loops wait for what it says."""

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from services.engine.base import Delta, Engine, EngineStopped, Gate, Prompt, Sampling
from services.engine.loading import Checkpoint
from services.engine.routed.layout import Adapter
from services.engine.routed.outbox import Outbox
from services.engine.routed.pool import DevicePages
from services.engine.routed.runner import Runner
from services.engine.routed.scheduler import Scheduler
from services.engine.routed.stepper import Request, Stepper

T = TypeVar("T")


class RoutedEngine(Engine):
    """Serves the base and exact mixtures of adapters, other ones for every request of a batch."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        adapters: Mapping[str, Path] = MappingProxyType({}),
        *,
        max_batch: int = 16,
        max_mixture: int = 4,
        kv_tokens: int = 16384,
        lora_pages: int = 32,
        prefill_chunk: int = 512,
        encode_blocks: int = 2,
        image_cache: int = 64,
        state_cache: int = 64,
        device_rows: int = 0,
        bases: Collection[str] = (),
    ) -> None:
        """The checkpoint becomes the engine's own. Raises ValueError for a model or an adapter that it cannot serve.

        adapters: those that stay for good, by the name that gates use. device_rows: rank rows of the device tier, for
        others. bases: what an adapter may say that it was trained on (none: anything).
        """
        self._runner = Runner(
            checkpoint,
            max_batch=max_batch,
            kv_tokens=kv_tokens,
            lora_pages=lora_pages,
            encode_blocks=encode_blocks,
            image_cache=image_cache,
            state_cache=state_cache,
            device_rows=device_rows,
            bases=bases,
        )
        self._adapters = {name: self._runner.adapter(path) for name, path in adapters.items()}
        self._max_mixture = max_mixture
        self._scheduler = Scheduler(
            self._runner.arena, self._runner.window, chunk=prefill_chunk, whole=self._runner.pads
        )
        self._stepper = Stepper(self._runner, self._scheduler)
        self._reader = ThreadPoolExecutor(1, "reader")
        self._thread = threading.Thread(target=self._stepper.run, name="engine", daemon=True)
        self._thread.start()

    @property
    def feature_size(self) -> int:
        return self._runner.feature_size

    @property
    def device(self) -> DevicePages:
        return self._runner.device_pages

    @property
    def running(self) -> int:
        """Requests that are being read or answered."""
        return self._stepper.running

    async def encode(self, prompt: Prompt) -> bytes:
        routed = await self._read(lambda: self._runner.read_routed(prompt))
        return await asyncio.wrap_future(self._stepper.call(lambda: self._runner.encode(*routed)))

    async def generate(
        self, prompt: Prompt, gates: Mapping[str, Gate], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        members = self._members(gates)
        schema, grammars = sampling.json_schema, self._runner.vocabulary
        grammar = await asyncio.to_thread(lambda: grammars.grammars.start(schema)) if schema else None
        first, *others = await self._read(lambda: self._runner.read(prompt, members, sampling, grammar))
        request = Request(first, Outbox(sampling.n), others)
        self._stepper.submit(request)
        try:
            async for delta in request.outbox:
                yield delta
        finally:
            request.cancelled = True
            await request.outbox.closed.wait()  # until then the engine may read the adapters' pages

    def check(self) -> None:
        if self._stepper.closed:
            raise EngineStopped("the engine has stopped")

    def close(self) -> None:
        self._stepper.close()
        self._thread.join()

    async def _read(self, read: Callable[[], T]) -> T:
        """Read a prompt beside the engine's thread. Raises EngineStopped."""
        self.check()
        return await asyncio.get_running_loop().run_in_executor(self._reader, read)

    def _members(self, gates: Mapping[str, Gate]) -> dict[Adapter, Gate]:
        for name, gate in gates.items():
            if not all(map(math.isfinite, gate if isinstance(gate, tuple) else (gate,))):
                raise ValueError(f"gates: {name} has {gate}, expected a finite number")
            if isinstance(gate, tuple) and len(gate) != self._runner.layers:
                raise ValueError(f"gates: {name} has {len(gate)}, expected one or {self._runner.layers} (blocks)")
        if len(gates) > self._max_mixture:
            raise ValueError(f"gates: {len(gates)} adapters, expected at most {self._max_mixture} (max_mixture)")
        members = {self._adapter(name): gate for name, gate in gates.items()}
        needed, pages = self._runner.window.size(members), self._runner.window.capacity
        if needed > pages:
            raise ValueError(f"gates: {needed} pages of adapters, expected at most {pages} (lora_pages)")
        return members

    def _adapter(self, name: str) -> Adapter:
        if name in self._adapters:
            return self._adapters[name]
        try:
            return self._runner.device_pages[name]
        except KeyError:
            raise KeyError(f"adapter {name!r}, expected one of {', '.join(self._adapters)}, or of the device") from None
