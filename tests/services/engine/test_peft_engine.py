"""The engine on the embedded Qwen3-VL: equal to PEFT and `generate`, alone and in a batch."""

import asyncio
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.numpy import load_file, save_file

from cluster.settings import ModelSettings
from examples.miniwob.model import load_processor
from services.adapters.registry import Registry
from services.engine.base import EngineStopped, InvalidPrompt, Message, Part, Prompt, Sampling
from services.engine.loading import Checkpoint, load
from services.engine.peft import PeftEngine
from services.engine.vision import Vision

ONE_LOOP = pytest.mark.asyncio(loop_scope="module")  # the engine belongs to one event loop
SETTINGS = ModelSettings()
TOKENS = 24
GREEDY = Sampling(TOKENS)


def png(seed: int, side: int = 160) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def chat(*parts: Part) -> Prompt:
    return Prompt((Message("user", parts),))


PROMPTS = {
    "one screen": chat(Part(image=png(1)), Part(text="Click on the button.")),
    "a larger screen": chat(Part(image=png(2, 250)), Part(text="How many sides does the shape have?")),
    "two screens": chat(Part(image=png(3)), Part(image=png(4)), Part(text="Click on the second one.")),
    "text only": chat(Part(text="Select Tab #3")),
    "a conversation": Prompt(
        (
            Message("system", (Part(text="You click."),)),
            Message("user", (Part(text="Find the red box."),)),
            Message("assistant", (Part(text="Where is it?"),)),
            Message("user", (Part(image=png(5)),)),
        )
    ),
}


@pytest.fixture(scope="module")
def adapters() -> dict[str, Path]:
    return Registry(SETTINGS.adapters).paths


@pytest.fixture(scope="module")
def engine(adapters: dict[str, Path]) -> Iterator[PeftEngine]:
    engine = PeftEngine(SETTINGS.path, adapters)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load(SETTINGS.path)


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor(Path(SETTINGS.path))


async def say(engine: PeftEngine, prompt: Prompt, arm: str | None, sampling: Sampling = GREEDY) -> str:
    gates = {arm: 1.0} if arm else {}
    return "".join([delta.text async for delta in engine.generate(prompt, gates, sampling)])


@torch.inference_mode()
def oracle(model: Any, processor: Any, prompt: Prompt) -> str:
    """What transformers and PEFT answer, through Qwen3-VL's own processor."""
    chat = [
        {
            "role": message.role,
            "content": [
                {"type": "image"} if p.text is None else {"type": "text", "text": p.text} for p in message.parts
            ],
        }
        for message in prompt.messages
    ]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    images = [Image.open(io.BytesIO(image)).convert("RGB") for image in prompt.images]
    inputs = processor(text=[text], images=images or None, return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
    return str(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


@ONE_LOOP
class TestExactness:
    @pytest.mark.parametrize("name", PROMPTS)
    async def test_the_base_answers_as_generate_does(
        self, engine: PeftEngine, checkpoint: Checkpoint, processor: Any, name: str
    ) -> None:
        assert await say(engine, PROMPTS[name], None) == oracle(checkpoint.model, processor, PROMPTS[name])

    async def test_every_adapter_answers_as_peft_does(
        self, engine: PeftEngine, adapters: dict[str, Path], processor: Any
    ) -> None:
        prompt = PROMPTS["one screen"]
        for name, path in adapters.items():
            model = PeftModel.from_pretrained(load(SETTINGS.path).model, str(path)).eval()
            assert await say(engine, prompt, name) == oracle(model, processor, prompt), name

    async def test_a_batch_of_different_prompts_and_adapters_changes_no_answer(
        self, engine: PeftEngine, adapters: dict[str, Path]
    ) -> None:
        rows = [(prompt, arm) for prompt in PROMPTS.values() for arm in (None, *adapters)]
        alone = [await say(engine, prompt, arm) for prompt, arm in rows]
        together = await asyncio.gather(*[say(engine, prompt, arm) for prompt, arm in rows])
        assert together == alone
        assert len(set(alone)) > len(PROMPTS)

    async def test_features_are_the_base_models_early_states(
        self, engine: PeftEngine, checkpoint: Checkpoint, processor: Any
    ) -> None:
        """Against the hidden states of a plain forward pass, the instruction's tokens found by their text."""
        instruction = "Click on the button."
        found = np.frombuffer(await engine.encode(PROMPTS["one screen"]), np.float16)
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction}]}]
        text = processor.apply_chat_template(chat, tokenize=False)
        image = Image.open(io.BytesIO(png(1))).convert("RGB")
        inputs = processor(text=[text], images=[image], return_tensors="pt")
        with torch.inference_mode():
            states = checkpoint.model(**inputs, output_hidden_states=True).hidden_states[SETTINGS.encode_blocks][0]
            screen = checkpoint.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        words = processor.tokenizer(instruction)["input_ids"]
        ids = inputs["input_ids"][0].tolist()
        at = next(i for i in range(len(ids)) if ids[i : i + len(words)] == words)
        expected = torch.cat([states[at : at + len(words)].mean(0), screen.pooler_output[0].mean(0), torch.ones(1)])
        assert len(found) == engine.feature_size
        np.testing.assert_allclose(found, expected.numpy(), rtol=2e-3, atol=2e-3)


@ONE_LOOP
class TestEncode:
    async def test_only_the_latest_screen_and_the_first_instruction_count(self, engine: PeftEngine) -> None:
        first, last = Part(image=png(6)), Part(image=png(7))
        history = Prompt(
            (
                Message("system", (Part(text="Long rules."),)),
                Message("user", (first, Part(text="Buy a ticket."))),
                Message("assistant", (Part(text="Clicked."),)),
                Message("user", (last,)),
            )
        )
        assert await engine.encode(history) == await engine.encode(chat(last, Part(text="Buy a ticket.")))
        assert await engine.encode(history) != await engine.encode(chat(first, Part(text="Buy a ticket.")))

    async def test_text_alone_has_no_vision_and_says_so(self, engine: PeftEngine) -> None:
        features = np.frombuffer(await engine.encode(PROMPTS["text only"]), np.float16)
        hidden = engine.feature_size // 2
        assert features[:hidden].any()
        assert not features[hidden:].any()

    async def test_generation_in_between_changes_nothing(self, engine: PeftEngine, adapters: dict[str, Path]) -> None:
        before = await engine.encode(PROMPTS["two screens"])
        await say(engine, PROMPTS["two screens"], next(iter(adapters)))
        assert await engine.encode(PROMPTS["two screens"]) == before

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            (chat(Part(text="<|im_end|>")), r"control token '<\|im_end\|>'"),
            (chat(Part(text="<|image_pad|>")), r"control token '<\|image_pad\|>'"),
            (chat(Part(image=png(1)[:60]), Part(text="x")), "60 bytes cannot be decoded"),
            (chat(Part(text="word " * 9000)), "tokens, expected fewer than"),
        ],
    )
    async def test_what_cannot_be_read_is_refused(self, engine: PeftEngine, prompt: Prompt, message: str) -> None:
        with pytest.raises(InvalidPrompt, match=message):
            await engine.encode(prompt)

    async def test_any_text_can_be_read(self, engine: PeftEngine) -> None:
        assert await engine.encode(chat(Part(text="Öffne 日本語 \U0001f642 \x00 {}<tool_call>")))


@ONE_LOOP
class TestGenerate:
    async def test_the_length_is_kept_and_told(self, engine: PeftEngine) -> None:
        deltas = [delta async for delta in engine.generate(PROMPTS["text only"], {}, Sampling(3))]
        assert deltas[-1].finish_reason == "length"
        assert deltas[-1].completion_tokens == 3
        assert all(delta.finish_reason is None for delta in deltas[:-1])

    async def test_a_stop_string_ends_the_answer_before_it(self, engine: PeftEngine, adapters: dict[str, Path]) -> None:
        arm = next(iter(adapters))
        whole = await say(engine, PROMPTS["one screen"], arm)
        stop = whole[15:22]
        stopped = await say(engine, PROMPTS["one screen"], arm, Sampling(TOKENS, stop=("never said", stop)))
        assert stopped == whole[: whole.index(stop)]

    async def test_a_seed_repeats_the_draw_whatever_else_is_in_the_batch(self, engine: PeftEngine) -> None:
        warm = Sampling(TOKENS, temperature=1.5, seed=7)
        alone = await say(engine, PROMPTS["one screen"], None, warm)
        others = [say(engine, prompt, None) for prompt in PROMPTS.values()]
        again, *_ = await asyncio.gather(say(engine, PROMPTS["one screen"], None, warm), *others)
        assert again == alone
        other = await say(engine, PROMPTS["one screen"], None, Sampling(TOKENS, temperature=1.5, seed=8))
        assert other != alone

    @pytest.mark.parametrize(
        ("gates", "error", "message"),
        [({"nobody": 1.0}, KeyError, "nobody"), ({"a": 0.5, "b": 0.5}, ValueError, "one adapter with gate 1")],
    )
    async def test_gates_that_cannot_be_served_are_refused(
        self, engine: PeftEngine, gates: dict[str, float], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            await anext(engine.generate(PROMPTS["text only"], gates, Sampling(1)))

    async def test_one_that_gives_up_does_not_hold_the_others(self, engine: PeftEngine) -> None:
        leaving = engine.generate(PROMPTS["one screen"], {}, Sampling(4000))
        await anext(leaving)
        await leaving.aclose()
        assert await asyncio.wait_for(say(engine, PROMPTS["text only"], None), 60)

    async def test_a_prompt_that_cannot_be_read_fails_alone(self, engine: PeftEngine) -> None:
        bad = say(engine, chat(Part(image=b"no image"), Part(text="x")), None)
        good, failed = await asyncio.gather(say(engine, PROMPTS["text only"], None), bad, return_exceptions=True)
        assert isinstance(good, str)
        assert isinstance(failed, InvalidPrompt)

    async def test_more_requests_than_a_batch_holds_are_all_answered(self) -> None:
        engine = PeftEngine(SETTINGS.path, {}, max_batch=2, batch_window_ms=0)
        try:
            answers = await asyncio.gather(*[say(engine, prompt, None, Sampling(2)) for prompt in PROMPTS.values()])
        finally:
            engine.close()
        assert len(answers) == len(PROMPTS)
        with pytest.raises(EngineStopped):
            await say(engine, PROMPTS["text only"], None)


@ONE_LOOP
class TestLoad:
    async def test_other_weights_serve_what_starts_later_and_no_other_adapter(self, adapters: dict[str, Path]) -> None:
        (old, old_path), (new, new_path), (other, other_path) = list(adapters.items())[:3]
        prompt = PROMPTS["one screen"]
        engine = PeftEngine(SETTINGS.path, {old: old_path, other: other_path, new: new_path}, max_batch=2)
        try:
            before = {name: await say(engine, prompt, name) for name in (old, new, other)}
            assert len(set(before.values())) == 3
            waiting = [asyncio.create_task(say(engine, prompt, old)) for _ in range(7)]
            await asyncio.sleep(0)  # they have asked; the first batch has not begun
            await engine.load(old, new_path)
            later = [asyncio.create_task(say(engine, prompt, old)) for _ in range(3)]
            assert await asyncio.gather(*waiting) == [before[old]] * 7
            assert await asyncio.gather(*later) == [before[new]] * 3
            assert await say(engine, prompt, other) == before[other]
            await engine.load(old, old_path)
            assert await say(engine, prompt, old) == before[old]
            assert engine.resident == (old, other, new)
        finally:
            engine.close()

    async def test_a_new_name_is_added(self, adapters: dict[str, Path]) -> None:
        (first, path), (second, other) = list(adapters.items())[:2]
        engine = PeftEngine(SETTINGS.path, {first: path})
        try:
            await engine.load(second, other)
            assert engine.resident == (first, second)
            assert await say(engine, PROMPTS["one screen"], second)
        finally:
            engine.close()
        with pytest.raises(EngineStopped):
            await engine.load(second, other)

    async def test_what_does_not_fit_is_refused_and_the_old_serves_on(
        self, adapters: dict[str, Path], tmp_path: Path
    ) -> None:
        name, path = next(iter(adapters.items()))
        shutil.copytree(path, tmp_path / "wide")
        tensors = load_file(path / "adapter_model.safetensors")
        wide = {key: np.concatenate([value, value], axis=int("lora_A" in key)) for key, value in tensors.items()}
        save_file(wide, tmp_path / "wide" / "adapter_model.safetensors")
        engine = PeftEngine(SETTINGS.path, adapters)
        try:
            before = await say(engine, PROMPTS["one screen"], name)
            with pytest.raises(ValueError, match="wide"):
                await engine.load(name, tmp_path / "wide")
            assert await say(engine, PROMPTS["one screen"], name) == before
        finally:
            engine.close()


def test_a_screen_is_computed_once_while_it_is_kept() -> None:
    keeping, forgetful = Vision(*_vision_parts(), 2), Vision(*_vision_parts(), 0)
    assert keeping.screen(png(8)) is keeping.screen(png(8))
    assert forgetful.screen(png(8)) is not forgetful.screen(png(8))
    first = keeping.screen(png(8))
    for other in (9, 10):
        keeping.screen(png(other))
    assert keeping.screen(png(8)) is not first


def test_more_blocks_than_the_model_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"encode_blocks: 99, expected at most \d+"):
        PeftEngine(SETTINGS.path, {}, encode_blocks=99)


def _vision_parts() -> tuple[Any, Any]:
    model, _, images = load(SETTINGS.path)
    return model, images
