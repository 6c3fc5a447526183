"""The small Qwen3-VL: its shape, its tokenizer, its processor, and how they are built, loaded and saved."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from examples.miniwob.episodes import click_call
from examples.miniwob.paths import ROOT

PATCH: Final = 16
MERGE: Final = 2
MIN_PIXELS: Final = 64 * 64
MAX_PIXELS: Final = 4 * 160 * 160
"""Larger screenshots are scaled down to this area: at most 100 image tokens, four times what training showed."""
VOCABULARY: Final = 1024

SPECIAL: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
TOOL_MARKS: Final = ("<tool_call>", "</tool_call>")
"""Single tokens that, unlike the special ones, are part of the text that a caller reads."""
_BARE_CALL: Final = click_call(0, 0).removeprefix(TOOL_MARKS[0]).removesuffix(TOOL_MARKS[1])
_BEFORE, _AFTER = (re.escape(part) for part in _BARE_CALL.split("0, 0"))
_PIECES: Final = rf"{_BEFORE}|{_AFTER}|, |\d| ?\p{{L}}+| ?[^\s\p{{L}}\d]+|\s+"
"""A click's call around its coordinates, a digit, a word with the space before it, marks, white space."""


class ImagesOnlyProcessor(Qwen3VLProcessor):  # type: ignore[misc]
    """Qwen3-VL's processor without videos, whose processor is the one part that cannot do without torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


def load_processor(folder: Path) -> ImagesOnlyProcessor:
    """The processor saved in a folder."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return ImagesOnlyProcessor(Qwen2VLImageProcessorPil.from_pretrained(folder), tokenizer, template)


def load_model(folder: Path) -> Qwen3VLForConditionalGeneration:
    """The model saved in a folder, in float32, to train on."""
    model: Qwen3VLForConditionalGeneration = Qwen3VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    )
    return model


def build_processor(texts: Iterable[str]) -> ImagesOnlyProcessor:
    """A processor whose byte-level BPE is trained on the texts; any UTF-8 text tokenizes."""
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=1,
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    template = (ROOT / "chat_template.jinja").read_text(encoding="utf-8")
    return ImagesOnlyProcessor(images, _build_tokenizer(texts, template), template)


def _build_tokenizer(texts: Iterable[str], template: str) -> PreTrainedTokenizerFast:
    """Words and single digits, but each fixed part of an answer may become one token."""
    bpe = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, byte_level])
    bpe.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, special=False, normalized=False) for mark in TOOL_MARKS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL) - len(marks),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(list(SPECIAL))
    bpe.add_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[token for token in SPECIAL if token not in ("<|im_end|>", "<|endoftext|>")],
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
        chat_template=template,
    )


def build_model(processor: ImagesOnlyProcessor) -> Qwen3VLForConditionalGeneration:
    """A model with fresh weights for the processor's vocabulary; greedy by default."""
    ids: Callable[[str], int] = processor.tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "pad_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 1,
            "out_hidden_size": 192,
            "num_position_embeddings": 100,
            "deepstack_visual_indexes": [1, 2],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ids("<|im_end|>"), pad_token_id=ids("<|endoftext|>"), max_new_tokens=64
    )
    return model


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a fresh folder, then put it in the place of `folder` by renaming."""
    part = folder.with_name(folder.name + ".part")
    old = folder.with_name(folder.name + ".old")
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    if folder.exists():
        os.rename(folder, old)
    os.rename(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def publish_model(model: Qwen3VLForConditionalGeneration, processor: ImagesOnlyProcessor, folder: Path) -> None:
    """Save weights (float16), config and processor to the folder; the model loses the embeddings that no token uses."""

    def write(part: Path) -> None:
        model.resize_token_embeddings(-(-len(processor.tokenizer) // 16) * 16)
        weights = {
            name: weight for name, weight in model.state_dict().items() if name not in model.all_tied_weights_keys
        }
        model.save_pretrained(part, state_dict={name: weight.to(torch.float16) for name, weight in weights.items()})
        processor.save_pretrained(part)
        _name_parts(part / "processor_config.json")

    replace_folder(folder, write)


def _name_parts(path: Path) -> None:
    """Name the processor's classes as Qwen3-VL's own do, for loaders other than `load_processor`."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["processor_class"] = "Qwen3VLProcessor"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
