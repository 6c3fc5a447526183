"""The engine on the embedded Qwen3-VL: equal to PEFT and `generate`, alone and in a batch."""

import asyncio
import copy
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.settings import ModelSettings
from examples.miniwob.model import load_processor
from services.adapters.registry import Registry
from services.engine.base import EngineStopped, InvalidPrompt, InvalidSchema, Message, Part, Prompt, Sampling
from services.engine.grammar import schema_text
from services.engine.loading import load
from services.engine.routed import RoutedEngine
from services.engine.routed.decoder import Logits
from services.engine.routed.runner import Runner
from services.engine.routed.scheduler import Chunk, Scheduler
from services.engine.vision import Screen, Vision
from tests.services.engine.oracle import Oracle, random_oracle
from tests.services.engine.prompts import PROMPTS, chat, png
from tests.services.world import eventually

ONE_LOOP = pytest.mark.asyncio(loop_scope="module")  # an engine's answers go to the loop that asked
SETTINGS = ModelSettings()
TOKENS = 24
GREEDY = Sampling(TOKENS)


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    checkpoint = load(SETTINGS.path)
    return Oracle(checkpoint, Registry(SETTINGS.adapters).paths, load_processor(Path(SETTINGS.path)))


@pytest.fixture(scope="module")
def adapters(oracle: Oracle) -> tuple[str, ...]:
    return tuple(oracle.adapters)


@pytest.fixture(scope="module")
def engine(oracle: Oracle) -> Iterator[RoutedEngine]:
    engine = RoutedEngine(oracle.checkpoint, oracle.adapters, kv_tokens=8192, prefill_chunk=64)
    yield engine
    engine.close()


async def say(engine: RoutedEngine, prompt: Prompt, gates: Mapping[str, float], sampling: Sampling = GREEDY) -> str:
    return "".join([delta.text async for delta in engine.generate(prompt, gates, sampling)])


@ONE_LOOP
class TestExactness:
    @pytest.mark.parametrize("name", PROMPTS)
    async def test_the_base_answers_as_generate_does(self, engine: RoutedEngine, oracle: Oracle, name: str) -> None:
        assert await say(engine, PROMPTS[name], {}) == oracle.answer(PROMPTS[name], {}, TOKENS)

    async def test_every_adapter_answers_as_peft_does(self, engine: RoutedEngine, oracle: Oracle) -> None:
        prompt = PROMPTS["one screen"]
        for name in oracle.adapters:
            assert await say(engine, prompt, {name: 1.0}) == oracle.answer(prompt, {name: 1.0}, TOKENS), name

    async def test_staggered_requests_of_all_kinds_change_no_answer(
        self, engine: RoutedEngine, adapters: tuple[str, ...]
    ) -> None:
        every = [{}, *({name: 1.0} for name in adapters), dict.fromkeys(adapters[:3], 0.4)]
        rows = [(prompt, gates) for prompt in PROMPTS.values() for gates in every]
        alone = [await say(engine, prompt, gates) for prompt, gates in rows]

        async def later(turns: int, prompt: Prompt, gates: Mapping[str, float]) -> str:
            for _ in range(turns):
                await asyncio.sleep(0.001)
            return await say(engine, prompt, gates)

        together = await asyncio.gather(*[later(at % 7, prompt, gates) for at, (prompt, gates) in enumerate(rows)])
        assert together == alone
        assert len(set(alone)) > len(PROMPTS)

    async def test_other_shapes_answer_as_generate_does(self, tmp_path: Path) -> None:
        other = random_oracle("wide groups", tmp_path)
        engine = RoutedEngine(other.checkpoint, other.adapters, encode_blocks=1, kv_tokens=4096)
        kinds: list[dict[str, float]] = [{}, {"patterned": 1.0}, {"wide": 0.5, "late": 0.5}]
        rows = [(prompt, gates) for prompt in PROMPTS.values() for gates in kinds]
        try:
            together = await asyncio.gather(*[say(engine, prompt, gates, Sampling(8)) for prompt, gates in rows])
        finally:
            engine.close()
        assert together == [other.answer(prompt, gates, 8) for prompt, gates in rows]

    async def test_features_are_the_base_models_early_states(self, engine: RoutedEngine, oracle: Oracle) -> None:
        """Against the hidden states of a plain forward pass, the instruction's tokens found by their text."""
        found = np.frombuffer(await engine.encode(PROMPTS["one screen"]), np.float16)
        inputs, model = oracle.inputs(PROMPTS["one screen"]), oracle.model({})
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states[SETTINGS.encode_blocks][0]
            screen = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        words = load(SETTINGS.path).tokenizer("Click on the button.")["input_ids"]
        ids = inputs["input_ids"][0].tolist()
        at = next(i for i in range(len(ids)) if ids[i : i + len(words)] == words)
        expected = torch.cat([states[at : at + len(words)].mean(0), screen.pooler_output[0].mean(0), torch.ones(1)])
        assert len(found) == engine.feature_size
        np.testing.assert_allclose(found, expected.numpy(), rtol=2e-3, atol=2e-3)


@ONE_LOOP
class TestEncode:
    async def test_only_the_latest_screen_and_the_first_instruction_count(self, engine: RoutedEngine) -> None:
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

    async def test_text_alone_has_no_vision_and_says_so(self, engine: RoutedEngine) -> None:
        features = np.frombuffer(await engine.encode(PROMPTS["text only"]), np.float16)
        hidden = engine.feature_size // 2
        assert features[:hidden].any()
        assert not features[hidden:].any()

    async def test_generation_in_between_changes_nothing(self, engine: RoutedEngine, adapters: tuple[str, ...]) -> None:
        before = await engine.encode(PROMPTS["two screens"])
        await say(engine, PROMPTS["two screens"], {adapters[0]: 1.0})
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
    async def test_what_cannot_be_read_is_refused(self, engine: RoutedEngine, prompt: Prompt, message: str) -> None:
        with pytest.raises(InvalidPrompt, match=message):
            await engine.encode(prompt)

    async def test_any_text_can_be_read(self, engine: RoutedEngine) -> None:
        assert await engine.encode(chat(Part(text="Öffne 日本語 \U0001f642 \x00 {}<tool_call>")))


@ONE_LOOP
class TestGenerate:
    async def test_the_length_is_kept_and_told(self, engine: RoutedEngine) -> None:
        deltas = [delta async for delta in engine.generate(PROMPTS["text only"], {}, Sampling(3))]
        assert deltas[-1].finish_reason == "length"
        assert deltas[-1].completion_tokens == 3
        assert [delta.finish_reason for delta in deltas[:-1]] == [None, None]

    async def test_a_stop_string_ends_the_answer_before_it(
        self, engine: RoutedEngine, adapters: tuple[str, ...]
    ) -> None:
        gates = {adapters[0]: 1.0}
        whole = await say(engine, PROMPTS["one screen"], gates)
        stop = whole[15:22]
        stopped = await say(engine, PROMPTS["one screen"], gates, Sampling(TOKENS, stop=("never said", stop)))
        assert stopped == whole[: whole.index(stop)]

    async def test_a_seed_repeats_the_draw_whatever_else_is_in_the_batch(self, engine: RoutedEngine) -> None:
        warm = Sampling(TOKENS, temperature=1.5, seed=7)
        alone = await say(engine, PROMPTS["one screen"], {}, warm)
        others = [say(engine, prompt, {}) for prompt in PROMPTS.values()]
        again, *_ = await asyncio.gather(say(engine, PROMPTS["one screen"], {}, warm), *others)
        assert again == alone
        other = await say(engine, PROMPTS["one screen"], {}, Sampling(TOKENS, temperature=1.5, seed=8))
        assert other != alone

    async def test_choices_are_drawn_apart_from_one_reading_of_the_prompt(
        self, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[int] = []
        compute = Runner.read_chunks

        def counted(own: Runner, chunks: list[Chunk]) -> Logits:
            read.extend(chunk.tokens for chunk in chunks)
            return compute(own, chunks)

        monkeypatch.setattr(Runner, "read_chunks", counted)
        name = next(iter(oracle.adapters))
        engine = RoutedEngine(oracle.checkpoint, {name: oracle.adapters[name]}, max_batch=3, kv_tokens=2048)
        prompt, gates = PROMPTS["one screen"], {name: 0.5}

        async def choices(sampling: Sampling) -> list[str]:
            deltas = [delta async for delta in engine.generate(prompt, gates, sampling)]
            ended = [delta.choice for delta in deltas if delta.finish_reason]
            assert sorted(ended) == list(range(sampling.n))
            return ["".join(d.text for d in deltas if d.choice == number) for number in range(sampling.n)]

        try:
            warm = Sampling(TOKENS, temperature=3.0, seed=7)
            alone = [(await choices(warm.of_choice(number)))[0] for number in range(4)]
            read.clear()
            three = await choices(replace(warm, n=3))
            once, four = len(read), await choices(replace(warm, n=4))
            greedy = await choices(Sampling(TOKENS, n=2))
        finally:
            engine.close()
        assert (three, four) == (alone[:3], alone)
        assert len(set(alone)) == 4
        assert once == 1
        assert greedy == [oracle.answer(prompt, gates, TOKENS)] * 2

    async def test_a_failing_choice_fails_the_request_and_leaves_no_row(
        self, engine: RoutedEngine, adapters: tuple[str, ...]
    ) -> None:
        with pytest.raises(FloatingPointError):
            await say(engine, PROMPTS["one screen"], dict.fromkeys(adapters[:2], 1e25), Sampling(TOKENS, n=3))
        leaving = engine.generate(PROMPTS["one screen"], {}, Sampling(4000, n=3))
        await anext(leaving)
        await leaving.aclose()
        assert await asyncio.wait_for(say(engine, PROMPTS["text only"], {}), 60)
        assert engine.running == 0

    async def test_log_probabilities_are_those_of_a_forward_pass(
        self, engine: RoutedEngine, oracle: Oracle, adapters: tuple[str, ...]
    ) -> None:
        prompt, gates = PROMPTS["one screen"], {adapters[0]: 1.0}
        deltas = [delta async for delta in engine.generate(prompt, gates, Sampling(TOKENS, logprobs=3))]
        told = [each for delta in deltas for each in delta.logprobs]
        assert b"".join(each.token for each in told).decode() == "".join(delta.text for delta in deltas)
        said: list[int] = []
        for each in told:
            values, tokens = oracle.logits(prompt, gates, said)[-1].log_softmax(-1).topk(3)
            assert each.logprob == pytest.approx(float(values[0]), abs=1e-3)
            assert [value for _, value in each.top] == pytest.approx(values.tolist(), abs=1e-3)
            assert each.token == each.top[0][0] == oracle.checkpoint.tokenizer.decode(tokens[0]).encode()
            said.append(int(tokens[0]))

    @pytest.mark.parametrize("warm", [False, True])
    async def test_an_answer_fits_its_schema_beside_others_that_have_none(
        self, engine: RoutedEngine, adapters: tuple[str, ...], warm: bool
    ) -> None:
        schema = schema_text(
            {
                "type": "object",
                "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 999}, "y": {"enum": ["up", "down"]}},
                "required": ["x", "y"],
                "additionalProperties": False,
            }
        )
        asked = Sampling(120, temperature=1.2 if warm else 0.0, seed=5, n=2, json_schema=schema)
        prompt, gates = PROMPTS["one screen"], {adapters[0]: 1.0}
        alone = await say(engine, prompt, gates)

        async def fitting() -> list[Any]:
            deltas = [delta async for delta in engine.generate(prompt, gates, asked)]
            assert {delta.finish_reason for delta in deltas if delta.finish_reason} == {"stop"}
            return [json.loads("".join(d.text for d in deltas if d.choice == number)) for number in range(2)]

        points, plain = await asyncio.gather(fitting(), say(engine, prompt, gates))
        assert plain == alone
        for point in points:
            assert 0 <= point["x"] <= 999
            assert point["y"] in ("up", "down")

    async def test_a_schema_that_cannot_be_kept_fails_its_own_request(self, engine: RoutedEngine) -> None:
        with pytest.raises(InvalidSchema, match=r"Unimplemented keys: \[\"not\"\]"):
            await say(engine, PROMPTS["text only"], {}, Sampling(5, json_schema='{"not": {}}'))
        assert await say(engine, PROMPTS["text only"], {})

    @pytest.mark.parametrize(
        ("gates", "error", "message"),
        [
            ({"nobody": 1.0}, KeyError, "nobody"),
            ({0: float("nan")}, ValueError, "has nan, expected a finite number"),
            ({0: (0.5,)}, ValueError, r"has 1, expected one or \d+ \(blocks\)"),
            (dict.fromkeys(range(5), 0.2), ValueError, "5 adapters, expected at most 4"),
        ],
    )
    async def test_gates_that_cannot_be_served_are_refused(
        self,
        engine: RoutedEngine,
        adapters: tuple[str, ...],
        gates: dict[int | str, float],
        error: type[Exception],
        message: str,
    ) -> None:
        named = {adapters[key] if isinstance(key, int) else key: gate for key, gate in gates.items()}
        with pytest.raises(error, match=message):
            await anext(engine.generate(PROMPTS["text only"], named, Sampling(1)))

    async def test_gates_out_of_all_bounds_fail_their_own_request(
        self, engine: RoutedEngine, adapters: tuple[str, ...]
    ) -> None:
        gates = dict.fromkeys(adapters[:2], 1e25)
        alone = await say(engine, PROMPTS["one screen"], {})
        failed, *good = await asyncio.gather(
            say(engine, PROMPTS["one screen"], gates),
            *[say(engine, PROMPTS["one screen"], {}) for _ in range(4)],
            return_exceptions=True,
        )
        assert isinstance(failed, FloatingPointError)
        assert good == [alone] * 4

    async def test_a_mixture_wider_than_all_pages_is_refused_and_others_are_served(self, oracle: Oracle) -> None:
        engine = RoutedEngine(oracle.checkpoint, oracle.adapters, kv_tokens=2048, lora_pages=2)
        first, second, third, *_ = oracle.adapters
        try:
            with pytest.raises(ValueError, match="3 pages of adapters, expected at most 2"):
                await say(engine, PROMPTS["text only"], dict.fromkeys((first, second, third), 1.0))
            prompt, kinds = PROMPTS["one screen"], [{name: 1.0} for name in (first, second, third)]
            answers = await asyncio.gather(*[say(engine, prompt, gates) for gates in kinds])
        finally:
            engine.close()
        assert answers == [oracle.answer(prompt, gates, TOKENS) for gates in kinds]

    async def test_one_that_gives_up_does_not_hold_the_others(self, engine: RoutedEngine) -> None:
        leaving = engine.generate(PROMPTS["one screen"], {}, Sampling(4000))
        await anext(leaving)
        await leaving.aclose()
        assert await asyncio.wait_for(say(engine, PROMPTS["text only"], {}), 60)
        assert engine.running == 0

    async def test_a_prompt_that_cannot_be_read_fails_alone(self, engine: RoutedEngine) -> None:
        bad = say(engine, chat(Part(image=b"no image"), Part(text="x")), {})
        good, failed = await asyncio.gather(say(engine, PROMPTS["text only"], {}), bad, return_exceptions=True)
        assert isinstance(good, str)
        assert isinstance(failed, InvalidPrompt)

    async def test_a_prompt_that_leaves_no_room_for_its_answer_is_refused_and_others_are_served(
        self, oracle: Oracle
    ) -> None:
        engine = RoutedEngine(oracle.checkpoint, {}, kv_tokens=64)
        long = chat(Part(text="Open the red box. " * 12))
        try:
            failed, tokens, answer = await asyncio.gather(
                say(engine, long, {}),
                engine.encode(long),
                say(engine, PROMPTS["text only"], {}),
                return_exceptions=True,
            )
        finally:
            engine.close()
        for refused in (failed, tokens):
            assert isinstance(refused, InvalidPrompt)
            assert "tokens, expected fewer than 64" in str(refused)
        assert answer == oracle.answer(PROMPTS["text only"], {}, TOKENS)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    async def test_nobody_waits_for_an_engine_that_has_failed(
        self, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = RoutedEngine(oracle.checkpoint, {}, max_batch=2, kv_tokens=1024)
        engine.check()

        def fail(_: Scheduler) -> None:
            raise RuntimeError("device lost")

        try:
            asked = [asyncio.create_task(say(engine, PROMPTS["text only"], {}, Sampling(900, n=2))) for _ in range(3)]
            await anext(engine.generate(PROMPTS["text only"], {}, Sampling(900)))
            monkeypatch.setattr(Scheduler, "schedule", fail)
            ended = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)
            assert all(isinstance(result, EngineStopped) for result in ended)
            for failing in (say(engine, PROMPTS["text only"], {}), engine.encode(PROMPTS["text only"])):
                with pytest.raises(EngineStopped):
                    await failing
            with pytest.raises(EngineStopped):
                engine.check()
        finally:
            engine.close()

    async def test_work_that_was_given_up_keeps_nobody_waiting_when_it_is_closed(self, oracle: Oracle) -> None:
        engine = RoutedEngine(oracle.checkpoint, {}, kv_tokens=1024)
        started, over = threading.Event(), threading.Event()

        def hold() -> None:
            started.set()
            over.wait()

        async def queued() -> bool:
            return engine._stepper._jobs.qsize() == 2

        try:
            engine._stepper.call(hold)
            await asyncio.to_thread(started.wait)
            engine._stepper.call(dict).cancel()
            asked = asyncio.create_task(say(engine, PROMPTS["text only"], {}))
            await eventually(queued)
            engine._stepper.close()
        finally:
            over.set()
            engine.close()
        with pytest.raises(EngineStopped):
            await asyncio.wait_for(asked, 30)

    async def test_more_requests_than_there_are_rows_are_all_answered_until_it_is_closed(self, oracle: Oracle) -> None:
        engine = RoutedEngine(oracle.checkpoint, {}, max_batch=2, kv_tokens=1024)
        try:
            answers = await asyncio.gather(*[say(engine, prompt, {}, Sampling(2)) for prompt in PROMPTS.values()])
            waiting = [asyncio.create_task(say(engine, PROMPTS["text only"], {}, Sampling(900))) for _ in range(5)]
            await asyncio.sleep(0)
        finally:
            engine.close()
        assert len(answers) == len(PROMPTS)
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, EngineStopped) for result in ended[2:])
        with pytest.raises(EngineStopped):
            await say(engine, PROMPTS["text only"], {})


def test_a_screen_is_computed_once_while_it_is_kept(oracle: Oracle) -> None:
    model, _, images = oracle.checkpoint
    keeping, forgetful = Vision(copy.deepcopy(model), images, 2), Vision(model, images, 0)

    def screen(vision: Vision, seed: int) -> Screen:
        return vision.screens([vision.read(png(seed))])[0]

    assert screen(keeping, 8) is screen(keeping, 8)
    assert screen(forgetful, 8) is not screen(forgetful, 8)
    first = screen(keeping, 8)
    for other in (9, 10):
        screen(keeping, other)
    assert screen(keeping, 8) is not first


def test_more_blocks_than_the_model_has_are_refused(oracle: Oracle) -> None:
    with pytest.raises(ValueError, match=r"encode_blocks: 99, expected at most \d+"):
        RoutedEngine(oracle.checkpoint, {}, encode_blocks=99)
