"""Logits of the engine on a device, and PEFT's, in float32 and in bfloat16."""

import copy
import io
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from PIL import Image

from benchmarks.engines.shapes import ModelShape, random_model
from services.engine.base import Gate, Message, Part, Prompt, Sampling
from services.engine.loading import Checkpoint
from services.engine.routed.runner import Runner
from services.engine.routed.scheduler import Scheduler
from services.engine.routed.sequence import Sequence
from services.engine.tokens import Tokens
from services.engine.vision import Pixels

_TARGETS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
_TOLD = 6
_BLOCK = re.compile(r"language_model\.layers\.(\d+)\.")
_GATES: list[dict[str, Gate]] = [
    {},
    {"a0": 1.0},
    {"a1": 1.0},
    {"a2": 1.0},
    {"a0": 0.5, "a1": 0.3, "a2": 0.2},
    {"a1": -0.5, "a2": 1.2},
    {"a0": (1.0, 0.5, 0.0, -0.5), "a1": (0.0, 0.5, 1.0, 0.3)},
]


class Errors(NamedTuple):
    """Of one kind of gates: the largest difference in float32, and relative distances to float32 in bfloat16."""

    gates: dict[str, Gate]
    float32: float
    ours: float
    peft: float


def precision(shape: ModelShape, device: str) -> list[Errors]:
    """Four layers of a shape; one batch of all kinds of gates, each row told the same answer."""
    checkpoint = random_model(shape.with_layers(4), device, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = _write(checkpoint.model, Path(folder))
        exact = _Peft(checkpoint.model, paths)
        ours = _engine(checkpoint, paths)
        rounded = checkpoint._replace(model=copy.deepcopy(checkpoint.model).to(torch.bfloat16))
        low, ours_low = _Peft(rounded.model, paths), _engine(rounded, paths)
    errors = []
    for number, gates in enumerate(_GATES):
        reference, tokens = exact.logits(ours.tokens, gates), ours_low.tokens
        found, told = ours_low.logits[number], low.logits(tokens, gates)
        difference = float((ours.logits[number] - reference).abs().max())
        errors.append(Errors(gates, difference, _distance(found, reference), _distance(told, reference)))
    return errors


class _Told(NamedTuple):
    logits: list[torch.Tensor]  # of each kind of gates: [1 + told, vocabulary]
    tokens: Tokens


class _Peft:
    def __init__(self, model: Any, paths: Mapping[str, Path]) -> None:
        self._plain = model
        self._model: Any = PeftModel.from_pretrained(copy.deepcopy(model), str(paths["a0"]), adapter_name="a0")
        for name, path in list(paths.items())[1:]:
            self._model.load_adapter(str(path), adapter_name=name)
        self._model.eval()

    @torch.inference_mode()
    def logits(self, tokens: Tokens, gates: Mapping[str, Gate]) -> torch.Tensor:
        model, device = self._plain, self._plain.device
        if any(isinstance(gate, tuple) for gate in gates.values()):
            with self._in_blocks(gates):
                return self._logits(self._model, tokens, device)
        if gates:
            name = "-".join(gates)
            if len(gates) > 1:
                self._model.add_weighted_adapter(list(gates), list(gates.values()), name, "cat")
            self._model.set_adapter(name)
            model = self._model
        return self._logits(model, tokens, device)

    @contextmanager
    def _in_blocks(self, gates: Mapping[str, Any]) -> Iterator[None]:
        """Meanwhile each adapter has its gate of a block as its scale there, which is 1 otherwise."""
        layers = [(path, layer) for path, layer in self._model.named_modules() if isinstance(layer, LoraLayer)]
        blocks = [(layer, int(match[1])) for path, layer in layers if (match := _BLOCK.search(path))]
        self._model.base_model.set_adapter(list(gates))
        for layer, block in blocks:
            layer.scaling.update({name: gate[block] for name, gate in gates.items()})
        yield
        for layer, _ in blocks:
            layer.scaling.update(dict.fromkeys(gates, 1.0))

    def _logits(self, model: Any, tokens: Tokens, device: torch.device) -> torch.Tensor:
        ids = torch.cat([tokens.ids, torch.arange(_TOLD) + 5])[None].to(device)
        types = torch.cat([tokens.types, torch.zeros(_TOLD, dtype=torch.long)])[None].to(device)
        pixels = torch.cat([image.values for image in tokens.images if isinstance(image, Pixels)]).to(
            device, self._plain.dtype
        )
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=types,
            pixel_values=pixels,
            image_grid_thw=tokens.grids.to(device),
        ).logits
        found: torch.Tensor = logits[0, -1 - _TOLD :].float()
        return found


@torch.inference_mode()
def _engine(checkpoint: Checkpoint, paths: Mapping[str, Path]) -> _Told:
    copied = checkpoint._replace(model=copy.deepcopy(checkpoint.model))
    runner = Runner(copied, max_batch=8, kv_tokens=2048, lora_pages=8, encode_blocks=1, image_cache=0)
    adapters = {name: runner.adapter(path) for name, path in paths.items()}
    scheduler = Scheduler(runner.arena, runner.window, chunk=2048, whole=runner.pads)
    sequences: list[Sequence] = []
    for gates in _GATES:
        members = {adapters[name]: gate for name, gate in gates.items()}
        sequences += runner.read(_prompt(), members, Sampling(_TOLD + 1))
        scheduler.add(sequences[-1])
    logits: dict[Sequence, list[torch.Tensor]] = {sequence: [] for sequence in sequences}
    plan = scheduler.schedule()
    found = runner.read_chunks(plan.chunks).rows
    for (sequence, count), row in zip(plan.chunks, found, strict=True):
        scheduler.computed(sequence, count)
        logits[sequence].append(row.float())
    for token in range(_TOLD):
        for sequence in sequences:
            sequence.ids.append(token + 5)
        found = runner.decode(scheduler.schedule().rows).rows
        for sequence in sequences:
            scheduler.computed(sequence, 1)
            logits[sequence].append(found[sequence.row or 0].float().clone())
    return _Told([torch.stack(rows) for rows in logits.values()], sequences[0].prompt)


def _distance(found: torch.Tensor, reference: torch.Tensor) -> float:
    return float((found - reference).norm() / reference.norm())


def _prompt() -> Prompt:
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return Prompt((Message("user", (Part(image=file.getvalue()), Part(text="click the blue button"))),))


def _write(model: Any, folder: Path) -> dict[str, Path]:
    """Adapters of ranks 16, 8 and 4, as PEFT saves them."""
    paths = {f"a{number}": folder / f"a{number}" for number in range(3)}
    for rank, path in zip((16, 8, 4), paths.values(), strict=True):
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS)
        peft = get_peft_model(copy.deepcopy(model), config)
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.05)
        peft.save_pretrained(str(path))
    return paths
