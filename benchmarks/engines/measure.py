"""All ways to answer the same requests, in turns, so that a busy moment of the machine hits none of them alone."""

import copy
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.progress import Progress

from benchmarks.engines.models import Subject, dense_bound, write_adapters
from benchmarks.engines.workload import Peft, requests, routed
from services.engine.loading import Checkpoint
from services.engine.routed import RoutedEngine

_ACTIVE, _RESIDENT, _BATCH = 8, 64, 16


class Figures(NamedTuple):
    """Seconds of every repetition of every way to answer, tokens of all answers, and the dense bound of decoding."""

    seconds: dict[str, list[float]]
    tokens: int
    bound: float

    def typical(self, way: str) -> float:
        """The median."""
        return median(self.seconds[way])

    def ratio(self, way: str, to: str) -> float:
        """The median over repetitions of one way's time ÷ another's in the same repetition."""
        return median(a / b for a, b in zip(self.seconds[way], self.seconds[to], strict=True))


def measure(subject: Subject, name: str, progress: Progress, *, quick: bool) -> Figures:
    """Answer the requests in every way, once unmeasured and then as often as it takes for a median."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ways, tokens, bound = _ways(subject, Path(folder), stack, quick=quick)
        repetitions = 1 if quick else 5
        task = progress.add_task(name, total=(repetitions + 1) * len(ways))
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for repetition in range(repetitions + 1):
            for way, run in ways.items():
                taken = run()
                if repetition:
                    seconds[way].append(taken)
                progress.advance(task)
    return Figures(seconds, tokens, bound)


def _ways(
    subject: Subject, folder: Path, stack: ExitStack, *, quick: bool
) -> tuple[dict[str, Callable[[], float]], int, float]:
    checkpoint = subject.make()
    paths = write_adapters(checkpoint, subject.rank, _RESIDENT, folder)
    active = list(paths)[:_ACTIVE]
    shortest, longest = subject.answers
    wanted = requests(12 if quick else 32, shortest, longest // 2 if quick else longest, active)
    bound = dense_bound(checkpoint.model, _ACTIVE * subject.rank)
    peft = Peft(checkpoint, {name: paths[name] for name in active})
    few = stack.enter_context(closing(_engine(checkpoint, {name: paths[name] for name in active})))
    many = stack.enter_context(closing(_engine(checkpoint, paths)))
    anew = stack.enter_context(closing(_engine(checkpoint, {})))
    keeping = stack.enter_context(closing(_engine(checkpoint, {}, kept=len(wanted))))
    single = [{request.adapter: 1.0} for request in wanted]
    third = 1 / 3
    mixed = [{active[(number + k) % _ACTIVE]: third for k in range(3)} for number in range(len(wanted))]
    ways: dict[str, Callable[[], float]] = {
        "PEFT static": lambda: peft.static(wanted, _BATCH),
        "PEFT one by one": lambda: peft.one_by_one(wanted),
        "routed": lambda: routed(few, wanted, single, subject.gap_s),
        "base": lambda: routed(few, wanted, [{}] * len(wanted), subject.gap_s),
        "routed, 64 resident": lambda: routed(many, wanted, single, subject.gap_s),
        "mixtures of 3": lambda: routed(few, wanted, mixed, subject.gap_s),
        "base, encoded": lambda: routed(anew, wanted, [{}] * len(wanted), subject.gap_s, encode=True),
        "base, states kept": lambda: routed(keeping, wanted, [{}] * len(wanted), subject.gap_s, encode=True),
    }
    return ways, sum(request.tokens for request in wanted), bound


def _engine(checkpoint: Checkpoint, paths: dict[str, Path], *, kept: int = 0) -> RoutedEngine:
    """Without a cache of images, as PEFT has none. `kept`: prompts whose first states are."""
    copied = checkpoint._replace(model=copy.deepcopy(checkpoint.model))
    return RoutedEngine(copied, paths, max_batch=_BATCH, kv_tokens=8192, image_cache=0, state_cache=kept)
