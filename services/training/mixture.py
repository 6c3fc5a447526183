"""Qwen3-VL under a soft mixture of its LoRAs, another one for each example of a batch, with gradients of the gates."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from services.engine.loading import Checkpoint
from services.engine.tokens import Tokenizer
from services.engine.vision import Vision
from services.training import lora
from services.training.examples import Example, InvalidData
from services.training.lora import Pair

_IGNORED = -100
_BLOCK = re.compile(r"\.layers\.(\d+)\.")


class _Slot:
    """The gates [B,K] or [B,L,K] of the batch that is being computed."""

    def __init__(self) -> None:
        self.gates: Tensor | None = None


class MixedLinear(nn.Module):
    """y = Wx + Σₖ gₖ·sₖ·Bₖ(Aₖx), the adapters stacked on one axis of ranks."""

    def __init__(self, base: nn.Module, pairs: Mapping[int, Pair], slot: _Slot, layer: int) -> None:
        """`pairs` by the adapter's column among the gates; `layer`: the decoder block that it is in."""
        super().__init__()
        self.base = base
        self.A = nn.ParameterList([nn.Parameter(pair.A, requires_grad=False) for pair in pairs.values()])
        self.B = nn.ParameterList([nn.Parameter(pair.B, requires_grad=False) for pair in pairs.values()])
        ranks = torch.tensor([len(pair.A) for pair in pairs.values()])
        scales = torch.tensor([pair.scale for pair in pairs.values()])
        device = next(base.parameters()).device
        self.columns = torch.tensor(list(pairs)).repeat_interleave(ranks).to(device)
        self.scales = scales.repeat_interleave(ranks).to(device)
        self.at = dict(zip(pairs, range(len(pairs)), strict=True))
        self.layer = layer
        self._slot = slot

    def forward(self, x: Tensor) -> Tensor:
        """y [B,T,out] of x [B,T,in]."""
        y: Tensor = self.base(x)
        gates = self._slot.gates
        if gates is None:
            return y
        own = gates[:, self.layer] if gates.dim() == 3 else gates
        by_rank = (own[:, self.columns] * self.scales)[:, None].to(x.dtype)
        return y + (x @ torch.cat(list(self.A)).T * by_rank) @ torch.cat(list(self.B), dim=1).T


class _Read(NamedTuple):
    """An example as tokens, its answer included; labels are -100 where nothing is to be learned."""

    ids: Tensor
    types: Tensor
    labels: Tensor
    grids: Tensor
    images: list[bytes]


class SoftMixture:
    """The TaskModel of stages 2 and 3: cross entropy of the targets' tokens, a mean over each example's own.

    The checkpoint becomes the mixture's. Screens go through the vision tower once, as many as `screens` are kept.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        adapters: Mapping[str, Path],
        arms: Sequence[str],
        examples: Sequence[Example],
        *,
        screens: int = 4096,
    ) -> None:
        """`adapters` are those of the arms; an arm without (base) adds nothing. InvalidData: a prompt is refused."""
        self._model, tokenizer, images = checkpoint
        self._arms = list(arms)
        self._adapters = {arm: adapters[arm] for arm in arms if arm in adapters}
        self._slot = _Slot()
        self._vision = Vision(self._model, images, screens)
        config = self._model.config
        positions = config.text_config.max_position_embeddings
        self._tokenizer = tokenizer
        self._chat = Tokenizer(tokenizer, self._vision, config.image_token_id, positions)
        self._read = [self._tokens(example) for example in examples]
        self._mixed = self._mix()

    @property
    def layers(self) -> int:
        """Decoder blocks."""
        return int(self._model.config.text_config.num_hidden_layers)

    @property
    def experts(self) -> dict[str, nn.Parameter]:
        """The adapters' weights."""
        return {
            name: weight
            for path, module in self._mixed.items()
            for name, weight in module.named_parameters(prefix=path)
            if f"{path}.base." not in name
        }

    @property
    def others(self) -> dict[str, Tensor]:
        """The base's weights."""
        own = {id(weight) for weight in self.experts.values()}
        return {name: weight for name, weight in self._model.named_parameters() if id(weight) not in own}

    def losses(self, rows: Sequence[int], gates: Tensor) -> Tensor:
        read = [self._read[row] for row in rows]
        ids = nn.utils.rnn.pad_sequence([one.ids for one in read], batch_first=True)
        types = nn.utils.rnn.pad_sequence([one.types for one in read], batch_first=True)
        labels = nn.utils.rnn.pad_sequence([one.labels for one in read], batch_first=True, padding_value=_IGNORED)
        self._slot.gates = gates.to(self._model.device)
        try:
            hidden = self._states(read, ids, types)
        finally:
            self._slot.gates = None
        return self._cross_entropy(hidden, labels.to(self._model.device)).to(gates.device)

    def weights(self, arm: str) -> dict[str, Pair]:
        """An adapter's weights as they are now."""
        column, found = self._arms.index(arm), {}
        for path, module in self._mixed.items():
            if (at := module.at.get(column)) is not None:
                first = int((module.columns == column).nonzero()[0])
                found[path] = Pair(module.A[at].cpu(), module.B[at].cpu(), float(module.scales[first]))
        return found

    def save(self, directory: Path) -> None:
        """Every adapter as a PEFT directory."""
        for arm, source in self._adapters.items():
            lora.write(source, directory / arm, self.weights(arm))

    def _states(self, read: Sequence[_Read], ids: Tensor, types: Tensor) -> Tensor:
        """Last states [B,T,hidden]. Rows are padded on the right and attention is causal: no answer sees padding."""
        device = self._model.device
        grids = torch.cat([one.grids for one in read])
        positions, _ = self._model.model.get_rope_index(ids, types, grids if len(grids) else None)
        seen = {"mm_encoder_outputs": {"image": self._seen(read)}} if len(grids) else {}
        found = self._model.model(input_ids=ids.to(device), position_ids=positions.to(device), **seen)
        states: Tensor = found.last_hidden_state
        return states

    @torch.no_grad()
    def _seen(self, read: Sequence[_Read]) -> BaseModelOutputWithDeepstackFeatures:
        screens = self._vision.screens([self._vision.read(image) for one in read for image in one.images])
        pooled = torch.cat([screen.embeddings for screen in screens])
        deep = [torch.cat(layer) for layer in zip(*(screen.deepstack for screen in screens), strict=True)]
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=(pooled,), deepstack_features=[(layer,) for layer in deep]
        )

    def _cross_entropy(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Means [B] over each row's labelled tokens."""
        learned = labels[:, 1:] != _IGNORED
        logits = self._model.lm_head(hidden[:, :-1][learned]).float()
        losses = nn.functional.cross_entropy(logits, labels[:, 1:][learned], reduction="none")
        rows = learned.nonzero()[:, 0]
        counts = learned.sum(dim=1)
        return losses.new_zeros(len(labels)).index_add(0, rows, losses) / counts

    @torch.no_grad()
    def _tokens(self, example: Example) -> _Read:
        try:
            tokens = self._chat.encode(example.prompt, generate=True)
        except ValueError as error:
            raise InvalidData(f"row {example.row}: {error}") from None
        answer = self._tokenizer(example.target, add_special_tokens=False)["input_ids"]
        answer = torch.tensor([*answer, self._tokenizer.eos_token_id])
        ids = torch.cat([tokens.ids, answer])
        types = torch.cat([tokens.types, torch.zeros_like(answer)])
        labels = torch.cat([torch.full_like(tokens.ids, _IGNORED), answer])
        return _Read(ids, types, labels, tokens.grids, example.prompt.images)

    def _mix(self) -> dict[str, MixedLinear]:
        """Put a MixedLinear in the place of every layer that an adapter changes."""
        found: dict[str, dict[int, Pair]] = {}
        for arm, directory in self._adapters.items():
            for path, pair in lora.read(directory).items():
                found.setdefault(path, {})[self._arms.index(arm)] = pair
        mixed = {}
        for path, pairs in found.items():
            parent, _, name = path.rpartition(".")
            owner = self._model.get_submodule(parent)
            (layer,) = _BLOCK.findall(path)  # lora.read knows no other modules
            module = MixedLinear(getattr(owner, name), pairs, self._slot, int(layer))
            setattr(owner, name, module.to(self._model.device))
            mixed[path] = module
        return mixed
