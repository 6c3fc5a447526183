"""What transformers and PEFT compute: small models with random weights, adapters of every kind, logits and answers."""

import copy
import io
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from PIL import Image
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cluster.settings import ModelSettings
from examples.miniwob.model import ImagesOnlyProcessor, load_processor
from services.engine.base import Gate, Prompt
from services.engine.loading import Checkpoint, load

WORLD: Final = Path(ModelSettings().path)
_BLOCK: Final = re.compile(r"language_model\.layers\.(\d+)\.")
ALL: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

SHAPES: Final[dict[str, dict[str, Any]]] = {
    "wide groups": {
        "text": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2]},
        },
        "vision": {"deepstack_visual_indexes": [0, 1], "temporal_patch_size": 2},
        "tied": False,
    },
    "a head for every key": {
        "text": {
            "hidden_size": 48,
            "intermediate_size": 80,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]},
        },
        "vision": {"deepstack_visual_indexes": [1], "temporal_patch_size": 1},
        "tied": True,
    },
    "one key for all heads": {
        "text": {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        },
        "vision": {"deepstack_visual_indexes": [], "temporal_patch_size": 2},
        "tied": False,
    },
    "wide enough to be packed": {
        "text": {
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "initializer_range": 0.05,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [12, 10, 10]},
        },
        "vision": {"deepstack_visual_indexes": [0], "temporal_patch_size": 2},
        "tied": True,
    },
}

ADAPTERS: Final[dict[str, dict[str, Any]]] = {
    "all": {"r": 4, "lora_alpha": 8, "target_modules": ALL},
    "wide": {"r": 12, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "patterned": {
        "r": 6,
        "lora_alpha": 12,
        "target_modules": ALL,
        "rank_pattern": {"q_proj": 3, "mlp.down_proj": 9},
        "alpha_pattern": {"layers.1.self_attn.k_proj": 3},
    },
    "late": {"r": 16, "lora_alpha": 16, "target_modules": ["gate_proj", "up_proj", "o_proj"], "layers_to_transform": 1},
    "single": {"r": 1, "lora_alpha": 1, "target_modules": ["down_proj", "k_proj"]},
}

TOWER: Final[dict[str, dict[str, Any]]] = {
    "seeing": {"r": 4, "lora_alpha": 6, "target_modules": r".*visual.*\.(qkv|proj|linear_fc1|linear_fc2)"},
    "both": {
        "r": 10,
        "lora_alpha": 8,
        "target_modules": r".*(visual.*\.(qkv|linear_fc2)|language_model.*\.(q_proj|down_proj))",
        "use_rslora": True,
        "rank_pattern": {"attn.qkv": 3},
        "alpha_pattern": {"merger.linear_fc2": 3},
    },
}
"""Adapters that touch the vision tower."""


class Oracle:
    """One model, its adapters on disk, and what transformers and PEFT make of them."""

    def __init__(self, checkpoint: Checkpoint, adapters: Mapping[str, Path], processor: Any) -> None:
        self._checkpoint = checkpoint
        self.adapters = adapters
        self._processor = processor
        self._mixtures: dict[str, str] = {}
        self._scales: dict[tuple[str, str], float] = {}

    @property
    def checkpoint(self) -> Checkpoint:
        """A copy that an engine may have."""
        return self._checkpoint._replace(model=copy.deepcopy(self._checkpoint.model))

    @cached_property
    def _peft(self) -> PeftModel:
        model: Any = copy.deepcopy(self._checkpoint.model)
        for number, path in enumerate(self.adapters.values()):
            if number:
                model.load_adapter(str(path), adapter_name=self._names[path.name])
            else:
                model = PeftModel.from_pretrained(model, str(path), adapter_name=self._names[path.name])
        return model.eval()

    @cached_property
    def _names(self) -> dict[str, str]:
        return {name: f"adapter{number}" for number, name in enumerate(self.adapters)}

    def model(self, gates: Mapping[str, Gate]) -> Any:
        """The model under gates: a mixture is PEFT's exact combination `cat`, unless blocks have gates of their own."""
        if not gates:
            return self._checkpoint.model
        if any(isinstance(gate, tuple) for gate in gates.values()):
            return self._scaled(gates)
        self._rescale({})
        if list(gates.values()) == [1.0]:
            self._peft.set_adapter(self._names[next(iter(gates))])
            return self._peft
        key = ",".join(f"{name}={gate}" for name, gate in gates.items())
        if key not in self._mixtures:
            self._mixtures[key] = f"mixture{len(self._mixtures)}"
            names = [self._names[name] for name in gates]
            self._peft.add_weighted_adapter(names, list(gates.values()), self._mixtures[key], "cat")
            self._unscale(self._mixtures[key])
        self._peft.set_adapter(self._mixtures[key])
        return self._peft

    def _scaled(self, gates: Mapping[str, Gate]) -> Any:
        """PEFT's adapters side by side, each with the scale of every block times its gate there."""
        self._rescale({self._names[name]: gate for name, gate in gates.items()})
        self._peft.base_model.set_adapter([self._names[name] for name in gates])
        return self._peft

    def _rescale(self, gates: Mapping[str, Gate]) -> None:
        for path, module in self._peft.named_modules():
            if isinstance(module, LoraLayer) and (match := _BLOCK.search(path)):
                for name in set(self._names.values()) & set(module.scaling):
                    own = self._scales.setdefault((path, name), module.scaling[name])
                    gate = gates.get(name, 1.0)
                    module.scaling[name] = own * (gate[int(match[1])] if isinstance(gate, tuple) else gate)

    def _unscale(self, mixture: str) -> None:
        """PEFT has put the members' scales into the weights, but a first member with rsLoRA scales them once more."""
        for module in self._peft.modules():
            if isinstance(module, LoraLayer) and mixture in module.scaling:
                module.scaling[mixture] = 1.0

    @torch.inference_mode()
    def logits(self, prompt: Prompt, gates: Mapping[str, Gate], answer: list[int]) -> torch.Tensor:
        """Logits [1 + len(answer), vocabulary] from the prompt's last token on, in one plain pass."""
        inputs = self.inputs(prompt)
        ids = torch.tensor([answer], dtype=torch.long)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], ids], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(ids)], 1)
        model = self.model(gates)
        plain = model.get_base_model() if isinstance(model, PeftModel) else model
        plain.model.rope_deltas = None  # what an earlier call left there
        logits: torch.Tensor = model(**inputs).logits[0]
        return logits[-1 - len(answer) :]

    @torch.inference_mode()
    def answer(self, prompt: Prompt, gates: Mapping[str, Gate], tokens: int) -> str:
        """The greedy answer of `generate`."""
        inputs = self.inputs(prompt)
        output = self.model(gates).generate(**inputs, max_new_tokens=tokens, do_sample=False)
        return str(self._processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    def inputs(self, prompt: Prompt) -> dict[str, torch.Tensor]:
        """What Qwen3-VL's own processor makes of a chat."""
        chat = [
            {
                "role": message.role,
                "content": [
                    {"type": "image"} if part.text is None else {"type": "text", "text": part.text}
                    for part in message.parts
                ],
            }
            for message in prompt.messages
        ]
        text = self._processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        images = [Image.open(io.BytesIO(image)).convert("RGB") for image in prompt.images]
        return dict(self._processor(text=[text], images=images or None, return_tensors="pt"))


def random_oracle(shape: str, folder: Path, kinds: Mapping[str, dict[str, Any]] = ADAPTERS) -> Oracle:
    """A model of a shape with random weights, and random adapters of every kind."""
    torch.manual_seed(5)
    world = load_processor(WORLD)
    spec = SHAPES[shape]
    model = Qwen3VLForConditionalGeneration(_config(spec, world)).eval().requires_grad_(False)
    images = Qwen2VLImageProcessorPil(
        patch_size=16,
        merge_size=2,
        temporal_patch_size=spec["vision"]["temporal_patch_size"],
        size={"shortest_edge": 64 * 64, "longest_edge": 160 * 160},
    )
    adapters = {name: write(model, config, folder / name) for name, config in kinds.items()}
    processor = ImagesOnlyProcessor(images, world.tokenizer, world.chat_template)
    return Oracle(Checkpoint(model, world.tokenizer, images), adapters, processor)


def embedded_oracle(folder: Path, kinds: Mapping[str, dict[str, Any]]) -> Oracle:
    """The embedded model with random adapters."""
    torch.manual_seed(6)
    checkpoint = load(str(WORLD))
    adapters = {name: write(checkpoint.model, config, folder / name, 0.05) for name, config in kinds.items()}
    return Oracle(checkpoint, adapters, load_processor(WORLD))


def _config(spec: dict[str, Any], processor: Any) -> Qwen3VLConfig:
    world = Qwen3VLConfig.from_pretrained(WORLD)
    text = {"vocab_size": len(processor.tokenizer), "max_position_embeddings": 4096, "initializer_range": 0.3}
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 16}
    vision |= {"out_hidden_size": spec["text"]["hidden_size"], "num_position_embeddings": 64}
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    stops = {name: getattr(world.text_config, name) for name in ("eos_token_id", "pad_token_id")}
    return Qwen3VLConfig(
        text_config=text | stops | spec["text"],
        vision_config=vision | spec["vision"],
        tie_word_embeddings=spec["tied"],
        **{name: getattr(world, name) for name in ids},
    )


def write(model: Any, config: dict[str, Any], folder: Path, std: float = 0.2) -> Path:
    """Save an adapter whose B is as random as its A. A list of targets means the language model's."""
    if isinstance(config["target_modules"], list):
        config = config | {"target_modules": rf".*language_model.*\.({'|'.join(config['target_modules'])})"}
    if "layers_to_transform" in config:
        layer = config.pop("layers_to_transform")
        config["target_modules"] = config["target_modules"].replace(r".*\.(", rf".*layers\.{layer}\..*\.(")
    peft = get_peft_model(copy.deepcopy(model), LoraConfig(**config))
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=std)
    peft.save_pretrained(str(folder))
    return folder
