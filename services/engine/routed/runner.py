"""The model of one engine thread: reads prompts, computes what a plan says, and the router's features."""

import itertools
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Ordered
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from services.adapters import files
from services.adapters.tiers import PAGE
from services.engine.answer import Answer
from services.engine.base import Gate, Prompt, Sampling
from services.engine.features import EarlyFeatures
from services.engine.grammar import Grammar
from services.engine.loading import Checkpoint
from services.engine.routed import decoder
from services.engine.routed.decoder import Decoder, Logits
from services.engine.routed.early import EarlyStates
from services.engine.routed.kv import KvArena
from services.engine.routed.layout import Adapter, PageLayout
from services.engine.routed.lora import AdapterReader
from services.engine.routed.pages import PageWindow
from services.engine.routed.pool import DevicePages
from services.engine.routed.projections import Own, Packed, Plain, Projections
from services.engine.routed.prompts import Part, PromptReader
from services.engine.routed.scheduler import Chunk
from services.engine.routed.sequence import Sequence
from services.engine.routed.shape import Rotary, Shape
from services.engine.routed.weights import Weights
from services.engine.sampler import Sampler
from services.engine.tokens import Tokenizer, Tokens
from services.engine.tower import Key, TowerMixture
from services.engine.vision import Vision
from services.engine.vocabulary import Vocabulary

if TYPE_CHECKING:
    from services.engine.routed.graphs import GraphDecoder


class Runner:
    """Holds weights, adapters, keys and values; knows no order among requests."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        max_batch: int,
        kv_tokens: int,
        lora_pages: int,
        encode_blocks: int,
        image_cache: int,
        state_cache: int = 0,
        device_rows: int = 0,
        bases: Collection[str] = (),
    ) -> None:
        model, tokenizer, images = checkpoint
        self._dtype, self._device = model.dtype, model.device
        self._shape = shape = Shape.of(model)
        if encode_blocks > shape.layers:
            raise ValueError(f"encode_blocks: {encode_blocks}, expected at most {shape.layers} decoder blocks")
        self._rope_index = model.model.get_rope_index
        self._vision = Vision(model, images, image_cache)
        room = min(shape.positions, kv_tokens)
        self._tokenizer = Tokenizer(tokenizer, self._vision, model.config.image_token_id, room)
        self.vocabulary = Vocabulary(tokenizer, model.lm_head.out_features)
        self._rotary = Rotary(model)
        self._features = EarlyFeatures(shape.hidden)
        self._weights = Weights(model, shape, lora_pages * PAGE)
        self._layout = PageLayout(shape)
        pages = device_rows // PAGE
        self._reader = AdapterReader(
            shape,
            self._layout,
            dtype=self._dtype,
            pinned=self._device.type == "cuda",
            pages=min(lora_pages, pages or lora_pages),
            bases=bases,
        )
        self.device_pages = DevicePages(self._layout, self._reader, pages, dtype=self._dtype, device=self._device)
        self._decoder = Decoder(self._weights, shape)
        self._plain = Plain(self._weights)
        self._packed: Projections = self._plain
        self._packed_for: tuple[int, list[Mapping[Adapter, Gate]]] = (0, [])
        self.window = PageWindow(self._weights, shape, lora_pages)
        self.arena = KvArena(shape, kv_tokens, max_batch, dtype=self._dtype, device=self._device)
        self._early = EarlyStates(encode_blocks, state_cache)
        self._prompts = PromptReader(self._weights, shape, self._decoder, self._rotary, self.arena, encode_blocks)
        self._graphs = self._make_graphs(max_batch)

    @property
    def pads(self) -> bool:
        """Whether a step computes more rows than decode, so that it must know all of them."""
        return self._graphs is not None

    @property
    def layers(self) -> int:
        """Decoder blocks."""
        return self._shape.layers

    @property
    def feature_size(self) -> int:
        """D of the raw features."""
        return self._features.size

    def adapter(self, path: Path) -> Adapter:
        """The adapter of a directory, in memory of its own. Raises InvalidAdapter."""
        described, data, _ = files.read(path)
        return self._layout.adapter(self._reader.read(path.name, described, data), self._device)

    @torch.inference_mode()
    def read_routed(self, prompt: Prompt) -> tuple[Tokens, slice]:
        """What the router looks at, and where the instruction is in it. Raises InvalidPrompt, as `read` would."""
        self._tokenizer.encode(prompt, generate=True)
        routed = prompt.routed
        tokens = self._tokenizer.encode(routed, generate=False)
        return tokens, self._tokenizer.instruction_span(routed, tokens)

    @torch.inference_mode()
    def encode(self, tokens: Tokens, instruction: slice) -> bytes:
        """Raw features of what the router looks at, float16 [D]."""
        screens = self._vision.screens(tokens.images)
        early = self._prompts.begin(Part(tokens, screens, tokens.ids, self._positions(tokens)))
        self._early.keep(tokens, early)
        features = self._features(early.states, instruction, screens[-1] if screens else None)
        return features.half().numpy().tobytes()

    @torch.inference_mode()
    def read(
        self, prompt: Prompt, gates: Mapping[Adapter, Gate], sampling: Sampling, grammar: Grammar | None = None
    ) -> list[Sequence]:
        """A sequence for each choice, that has computed nothing yet. Raises InvalidPrompt."""
        if sampling.logprobs is not None:
            self.vocabulary.prepare()
        tower = TowerMixture((adapter.tower, _mean(gate)) for adapter, gate in gates.items())
        tokens = self._tokenizer.encode(prompt, generate=True, tower=tower)
        positions = self._positions(tokens)
        most = self._tokenizer.room - len(tokens.ids)
        stop, decode = self._tokenizer.stop_tokens, self._tokenizer.decode
        sequences = []
        for choice in range(sampling.n):
            answer = Answer(len(tokens.ids), sampling.at_most(most), stop, decode, choice)
            sampler = Sampler(sampling.of_choice(choice), grammar.copy() if grammar else None)
            sequences.append(Sequence(tokens, gates, answer, sampler, positions, sampling.logprobs))
        return sequences

    @torch.inference_mode()
    def read_chunks(self, chunks: Ordered[Chunk]) -> Logits:
        """Compute chunks together; the logits of those that end what is known of their sequence."""
        self._see([sequence for sequence, _ in chunks])
        h = self._prompts.read([self._part(sequence, tokens) for sequence, tokens in chunks])
        ends = list(itertools.accumulate(tokens for _, tokens in chunks))
        last = [end - 1 for end, chunk in zip(ends, chunks, strict=True) if chunk.last]
        return self._decoder.logits(h[last])

    @torch.inference_mode()
    def decode(self, rows: Ordered[Sequence]) -> Logits:
        """One token of every row, valid until the next call. Rows that do not decode compute what nobody reads."""
        lengths = [s.computed for s in rows]
        numbers = torch.tensor([[s.ids[s.computed] for s in rows], lengths, [s.computed + s.delta for s in rows]])
        if self._graphs:
            return self._graphs(numbers, [s.gates for s in rows])
        tokens, at, positions = numbers.to(self._device)
        attend = decoder.batch(self.arena, self._shape, at, max(lengths) + 1)
        h = self._weights.embeddings[tokens]
        h = self._decoder.states(h, self._rotary.answer(positions), self._projections(rows), attend)
        return self._decoder.logits(h)

    def _projections(self, rows: Ordered[Sequence]) -> Projections:
        if not any(sequence.gates for sequence in rows):
            return self._plain
        self.window.settle(len(rows))
        wanted = [sequence.gates for sequence in rows]
        if (self.window.version, wanted) != self._packed_for:
            gates = self.window.gates(wanted)
            self._packed = Packed(self.window, self._shape, gates.to(self._device, self._dtype))
            self._packed_for = (self.window.version, wanted)
        return self._packed

    def _make_graphs(self, rows: int) -> "GraphDecoder | None":
        if self._device.type != "cuda":
            return None
        from services.engine.routed.graphs import GraphDecoder  # needs Triton

        if not GraphDecoder.fits(self._shape, self._dtype):
            return None
        return GraphDecoder(self._weights, self._shape, self._rotary, self.arena, self.window, rows)

    def _part(self, sequence: Sequence, tokens: int) -> Part:
        """The next tokens of a sequence."""
        start, stop = sequence.computed, sequence.computed + tokens
        if not start:
            sequence.early = self._early.find(sequence.prompt, list(sequence.gates))
        if sequence.gates and sequence.own is None:
            sequence.own = Own(self._shape, sequence.gates)
        ids, positions = torch.tensor(sequence.ids[start:stop]), sequence.rotary(start, stop)
        about = sequence.prompt, sequence.screens or (), ids, positions
        return Part(*about, start, sequence.row or 0, sequence.own, sequence.early)

    def _positions(self, tokens: Tokens) -> torch.Tensor:
        """Positions [3, T]: time, height, width."""
        positions: torch.Tensor = self._rope_index(tokens.ids[None], tokens.types[None], tokens.grids)[0][:, 0]
        return positions

    def _see(self, sequences: Ordered[Sequence]) -> None:
        """Compute the screens of prompts that are read for the first time, together where the same tower looks."""
        groups: dict[Key, list[Sequence]] = {}
        for sequence in sequences:
            if sequence.screens is None:
                groups.setdefault(sequence.prompt.tower.key, []).append(sequence)
        for group in groups.values():
            images = [image for sequence in group for image in sequence.prompt.images]
            found = iter(self._vision.screens(images, group[0].prompt.tower))
            for sequence in group:
                sequence.screens = list(itertools.islice(found, len(sequence.prompt.images)))


def _mean(gate: Gate) -> float:
    return sum(gate) / len(gate) if isinstance(gate, tuple) else gate
