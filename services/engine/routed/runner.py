"""The model of one engine thread: reads prompts, computes what a plan says, and the router's features."""

from collections.abc import Mapping
from collections.abc import Sequence as Ordered

import torch

from services.engine.answer import Answer
from services.engine.base import Prompt, Sampling
from services.engine.features import EarlyFeatures
from services.engine.grammar import Grammar
from services.engine.loading import Checkpoint
from services.engine.routed import decoder
from services.engine.routed.decoder import Decoder, Visual
from services.engine.routed.kv import KvArena
from services.engine.routed.lora import Adapter, AdapterReader
from services.engine.routed.pages import PAGE, PageWindow
from services.engine.routed.projections import Packed, Plain, Projections, own
from services.engine.routed.scheduler import Chunk
from services.engine.routed.sequence import Sequence
from services.engine.routed.shape import Rotary, Shape
from services.engine.routed.weights import Weights
from services.engine.sampler import Sampler
from services.engine.tokens import Tokenizer, Tokens
from services.engine.vision import Vision
from services.engine.vocabulary import Vocabulary


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
    ) -> None:
        model, tokenizer, images = checkpoint
        self._rope_index = model.model.get_rope_index
        self._dtype, self._device = model.dtype, model.device
        self._shape = shape = Shape.of(model)
        self._vision = Vision(model, images, image_cache)
        self._tokenizer = Tokenizer(tokenizer, model.config.image_token_id, shape.positions)
        self.vocabulary = Vocabulary(tokenizer, model.lm_head.out_features)
        self._rotary = Rotary(model)
        self._features = EarlyFeatures(shape.hidden, shape.layers, encode_blocks, self._early_states)
        self._weights = Weights(model, shape, lora_pages * PAGE)
        self.adapter = AdapterReader(shape, dtype=self._dtype, device=self._device).read
        self._decoder = Decoder(self._weights, shape)
        self._plain = Plain(self._weights)
        self.window = PageWindow(self._weights, shape, lora_pages)
        self.arena = KvArena(shape, kv_tokens, max_batch, dtype=self._dtype, device=self._device)

    @property
    def feature_size(self) -> int:
        """D of the raw features."""
        return self._features.size

    @torch.inference_mode()
    def encode(self, prompt: Prompt) -> bytes:
        """Raw features of what the router looks at, float16 [D]. Raises InvalidPrompt."""
        self._tokens(prompt, generate=True)  # refuse now what generation would refuse later
        routed = prompt.routed
        tokens = self._tokens(routed, generate=False)
        features = self._features(tokens, self._tokenizer.instruction_span(routed, tokens))
        return features.half().numpy().tobytes()

    @torch.inference_mode()
    def read(
        self, prompt: Prompt, gates: Mapping[Adapter, float], sampling: Sampling, grammar: Grammar | None = None
    ) -> list[Sequence]:
        """A sequence for each choice, that has computed nothing yet. Raises InvalidPrompt."""
        tokens = self._tokens(prompt, generate=True)
        positions, _ = self._rope_index(tokens.ids[None], tokens.types[None], tokens.grids)
        most = min(self._shape.positions, self.arena.tokens) - len(tokens.ids)
        stop, decode = self._tokenizer.stop_tokens, self._tokenizer.decode
        sequences = []
        for choice in range(sampling.n):
            answer = Answer(len(tokens.ids), sampling.at_most(most), stop, decode, choice)
            sampler = Sampler(sampling.of_choice(choice), grammar.copy() if grammar else None)
            sequences.append(Sequence(tokens, gates, answer, sampler, positions[:, 0], sampling.logprobs))
        return sequences

    @torch.inference_mode()
    def read_chunk(self, chunk: Chunk) -> torch.Tensor | None:
        """Compute a chunk; logits [1, vocabulary] when it ends the prompt."""
        sequence, tokens = chunk
        start, stop = sequence.computed, sequence.computed + tokens
        assert sequence.row is not None
        if sequence.project is None:
            sequence.project = own(self._weights, self._shape, sequence.gates)
        h, visual = self._embedded(sequence.prompt, sequence.ids, start, stop)
        turns = self._rotary.prompt(sequence.rotary(start, stop).to(self._device))
        attend = decoder.chunk(self.arena, self._shape, sequence.row, start)
        h = self._decoder.states(h, turns, sequence.project, attend, visual=visual)
        if stop < len(sequence.ids):
            return None
        sequence.project = None
        return self._decoder.logits(h[-1:])

    @torch.inference_mode()
    def decode(self, rows: Ordered[Sequence]) -> torch.Tensor:
        """One token of every row; logits [rows, vocabulary]. Rows that do not decode compute what nobody reads."""
        lengths = [s.computed for s in rows]
        numbers = torch.tensor(
            [[s.ids[s.computed], s.computed, s.computed + s.delta] for s in rows], device=self._device
        )
        h = self._weights.embeddings[numbers[:, 0]]
        attend = decoder.batch(self.arena, self._shape, numbers[:, 1], max(lengths) + 1)
        h = self._decoder.states(h, self._rotary.answer(numbers[:, 2]), self._projections(rows), attend)
        return self._decoder.logits(h)

    def _projections(self, rows: Ordered[Sequence]) -> Projections:
        if not any(sequence.gates for sequence in rows):
            return self._plain
        gates = self.window.gates([sequence.gates for sequence in rows])
        return Packed(self._weights, self.window, self._shape, gates.to(self._device, self._dtype))

    def _tokens(self, prompt: Prompt, *, generate: bool) -> Tokens:
        screens = tuple(self._vision.screen(image) for image in prompt.images)
        return self._tokenizer.encode(prompt, screens, generate=generate)

    def _early_states(self, tokens: Tokens, blocks: int) -> torch.Tensor:
        positions, _ = self._rope_index(tokens.ids[None], tokens.types[None], tokens.grids)
        h, visual = self._embedded(tokens, tokens.ids.tolist(), 0, len(tokens.ids))
        turns = self._rotary.prompt(positions[:, 0].to(self._device))
        attend = decoder.alone(self._shape)
        return self._decoder.states(h, turns, self._plain, attend, visual=visual, layers=range(blocks))

    def _embedded(self, tokens: Tokens, ids: list[int], start: int, stop: int) -> tuple[torch.Tensor, Visual | None]:
        """Embeddings [stop − start, hidden], and the vision features among them."""
        h = self._weights.embeddings[torch.tensor(ids[start:stop], device=self._device)]
        types = tokens.types[start:stop]
        if not tokens.screens or not types.any():
            return h, None
        first = int(tokens.types[:start].sum())
        part = slice(first, first + int(types.sum()))
        at = types.nonzero()[:, 0].to(self._device)
        h[at] = torch.cat([screen.embeddings for screen in tokens.screens])[part]
        layers = zip(*(screen.deepstack for screen in tokens.screens), strict=True)
        return h, Visual(at, [torch.cat(layer)[part] for layer in layers])
