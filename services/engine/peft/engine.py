"""The asyncio face of the PEFT model: one thread, batches in order of arrival."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from services.engine.base import Delta, Engine, EngineStopped, Prompt, Sampling
from services.engine.peft.model import PeftModelRunner, Request


class PeftEngine(Engine):
    """Serves the base and one adapter a request."""

    def __init__(
        self,
        path: str,
        adapters: Mapping[str, Path],
        *,
        dtype: str = "float32",
        device: str = "cpu",
        max_batch: int = 16,
        batch_window_ms: float = 5,
        encode_blocks: int = 2,
        image_cache: int = 64,
    ) -> None:
        self._model = PeftModelRunner(
            path, dtype=dtype, device=device, encode_blocks=encode_blocks, image_cache=image_cache
        )
        self._loaded = {name: self._model.load(directory) for name, directory in adapters.items()}
        self._replaced: set[str] = set()
        self._max_batch = max_batch
        self._window_s = batch_window_ms / 1000
        self._waiting: list[Request] = []
        self._scheduled = False
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "engine")

    @property
    def feature_size(self) -> int:
        return self._model.feature_size

    @property
    def resident(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    async def encode(self, prompt: Prompt) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._model.encode, prompt)

    async def generate(
        self, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling
    ) -> AsyncGenerator[Delta, None]:
        loop = asyncio.get_running_loop()
        output: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        given_up = asyncio.Event()

        def send(item: Delta | Exception) -> None:
            loop.call_soon_threadsafe(output.put_nowait, item)

        self._enqueue(Request(prompt, self._adapter(gates), sampling, send, given_up.is_set))
        try:
            while True:
                item = await output.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish_reason:
                    return
        finally:
            given_up.set()

    async def load(self, name: str, path: Path) -> None:
        if self._closed:
            raise EngineStopped("the engine was closed")
        loaded = await asyncio.get_running_loop().run_in_executor(self._thread, self._model.load, path)
        if name in self._loaded:
            self._replaced.add(self._loaded[name])
        self._loaded[name] = loaded
        self._free()

    def close(self) -> None:
        self._closed = True
        for request in self._waiting:
            request.send(EngineStopped("the engine was closed"))
        self._waiting.clear()
        self._thread.shutdown(wait=True)

    def _adapter(self, gates: Mapping[str, float]) -> str | None:
        if not gates:
            return None
        (name, weight), *others = gates.items()
        if others or weight != 1:
            raise ValueError(f"gates: {dict(gates)}, expected one adapter with gate 1 (this engine serves no mixtures)")
        if name not in self._loaded:
            raise KeyError(f"adapter {name!r}, expected one of {', '.join(self._loaded)}")
        return self._loaded[name]

    def _enqueue(self, request: Request) -> None:
        if self._closed:
            raise EngineStopped("the engine was closed")
        self._waiting.append(request)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(self._window_s, self._start_batch)

    def _start_batch(self) -> None:
        if self._closed:
            return
        batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._model.answer, batch)
        done.add_done_callback(lambda _: self._continue())
        self._free()

    def _free(self) -> None:
        """Unload what was replaced and no request waits for; the thread gets to it after the batch that it runs."""
        for adapter in self._replaced - {request.adapter for request in self._waiting}:
            self._replaced.remove(adapter)
            self._thread.submit(self._model.unload, adapter)

    def _continue(self) -> None:
        if self._waiting:
            self._start_batch()
        else:
            self._scheduled = False
