"""Qwen3-VL under a soft mixture of its LoRAs, another one for each example of a batch, with gradients of the gates."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from services.engine.loading import Checkpoint
from services.engine.tokens import Tokenizer
from services.engine.tower import TOWER
from services.engine.vision import Vision
from services.training import lora
from services.training.examples import Example, InvalidData
from services.training.lora import Pair

_IGNORED = -100
_BLOCK = re.compile(r"model\.language_model\.layers\.(\d+)\.")


class _Slot:
    """The gates [B,K] or [B,L,K] of the batch that is being computed, and whose each patch of its screens is."""

    def __init__(self) -> None:
        self.gates: Tensor | None = None
        self.owners: Tensor | None = None  # [patches], rows of the batch

    def block(self, layer: int) -> Tensor | None:
        """[B,1,K]: those of a decoder block."""
        if self.gates is None:
            return None
        return (self.gates[:, layer] if self.gates.dim() == 3 else self.gates)[:, None]

    def tower(self, rows: int) -> Tensor | None:
        """[rows,K]: those of a layer of the vision tower, a row for a patch or for some that were merged.

        One screen is looked at once for all blocks: with the mean of their gates, as the engine does.
        """
        if self.gates is None or self.owners is None:
            return None
        mean = self.gates.mean(dim=1) if self.gates.dim() == 3 else self.gates
        return mean[self.owners[:: len(self.owners) // rows]]


class MixedLinear(nn.Module):
    """y = Wx + Σₖ gₖ·sₖ·Bₖ(Aₖx), the adapters stacked on one axis of ranks."""

    def __init__(self, base: nn.Linear | nn.Conv3d, pairs: Mapping[int, Pair], slot: _Slot, layer: int | None) -> None:
        """`pairs` by the adapter's column among the gates; `layer`: its decoder block, None on the vision tower."""
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

    @property
    def weight(self) -> Tensor:
        """W, whose number format the patches' embedding goes by."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """y [B,T,out] of x [B,T,in]; on the tower y [N,out] of x [N,in], where a convolution's windows are rows too."""
        y: Tensor = self.base(x)
        gates = self._slot.tower(len(x)) if self.layer is None else self._slot.block(self.layer)
        if gates is None:
            return y
        A, B = torch.cat(list(self.A)), torch.cat(list(self.B), dim=1)
        rows = (x.flatten(1) if self.layer is None else x).to(A.dtype)
        added = (rows @ A.T * (gates[..., self.columns] * self.scales)) @ B.T
        return y + added.view_as(y).to(y.dtype)


class _Read(NamedTuple):
    """An example as tokens, its answer included; labels are -100 where nothing is to be learned."""

    ids: Tensor
    types: Tensor
    labels: Tensor
    grids: Tensor
    images: list[bytes]


class SoftMixture:
    """The TaskModel of stages 2 and 3: cross entropy of the targets' tokens, a mean over each example's own.

    The checkpoint becomes the mixture's. Screens go through the vision tower once, as many as `screens` are kept; where
    an adapter is on the tower they go through it in every step.
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
        layers = {arm: lora.read(directory) for arm, directory in self._adapters.items()}
        self._looks_anew = any(path.startswith(TOWER) for pairs in layers.values() for path in pairs)
        self._vision = Vision(self._model, images, screens, packed=not self._looks_anew)
        config = self._model.config
        positions = config.text_config.max_position_embeddings
        self._tokenizer = tokenizer
        self._chat = Tokenizer(tokenizer, self._vision, config.image_token_id, positions)
        self._read = [self._tokens(example) for example in examples]
        self._mixed = self._mix(layers)

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
            self._slot.gates = self._slot.owners = None
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
        seen: dict[str, Any] = {}
        if len(grids):
            seen = (
                self._looked_at(read, grids)
                if self._looks_anew
                else {"mm_encoder_outputs": {"image": self._seen(read)}}
            )
        found = self._model.model(input_ids=ids.to(device), position_ids=positions.to(device), **seen)
        states: Tensor = found.last_hidden_state
        return states

    def _looked_at(self, read: Sequence[_Read], grids: Tensor) -> dict[str, Tensor]:
        """Screens as the tower takes them, whose rows then go by the gates of their examples."""
        device = self._model.device
        owners = torch.tensor([row for row, one in enumerate(read) for _ in one.images])
        self._slot.owners = owners.repeat_interleave(grids.prod(dim=1)).to(device)
        values = torch.cat([self._vision.pixels(image).values for one in read for image in one.images])
        return {"pixel_values": values.to(device, self._model.dtype), "image_grid_thw": grids.to(device)}

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

    def _mix(self, layers: Mapping[str, Mapping[str, Pair]]) -> dict[str, MixedLinear]:
        """Put a MixedLinear in the place of every layer that an adapter changes."""
        found: dict[str, dict[int, Pair]] = {}
        for arm, pairs in layers.items():
            for path, pair in pairs.items():
                found.setdefault(path, {})[self._arms.index(arm)] = pair
        mixed = {}
        for path, by_column in found.items():
            parent, _, name = path.rpartition(".")
            owner = self._model.get_submodule(parent)
            block = _BLOCK.match(path)
            module = MixedLinear(getattr(owner, name), by_column, self._slot, int(block[1]) if block else None)
            setattr(owner, name, module.to(self._model.device))
            mixed[path] = module
        return mixed
