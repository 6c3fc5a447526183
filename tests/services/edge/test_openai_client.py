"""OpenAI's own client against the whole service in one process: real HTTP, Redis, router, and the embedded Qwen3-VL."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from cluster.settings import Settings
from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.measurement import prompt
from policies.context import ContextMap
from services.adapters.registry import Registry
from services.engine.base import Sampling
from services.engine.loading import load
from services.engine.routed import RoutedEngine
from services.gateway import build_gateway
from tests.services.conftest import MakeSettings
from tests.services.world import listening, make_router

WORLD = Settings()
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 999}, "of": {"enum": ["button", "link"]}},
    "required": ["x", "of"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def engine() -> Iterator[RoutedEngine]:
    engine = RoutedEngine(load(WORLD.model.path), Registry(WORLD.model.adapters).paths, kv_tokens=8192, device_rows=256)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def episode() -> Episode:
    return load_all()[0]


@pytest.fixture
async def client(make_settings: MakeSettings, engine: RoutedEngine) -> AsyncIterator[AsyncOpenAI]:
    model = {"adapters": WORLD.model.adapters, "max_tokens": 200}
    settings = make_settings(model=model, router={"mixtures": ("top2", "soft")})
    app = build_gateway(make_router(settings, ContextMap.load(WORLD.router.path), engine), settings)
    async with (
        app.router.lifespan_context(app),
        listening(app) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client


async def ask(client: AsyncOpenAI, episode: Episode, **options: Any) -> Any:
    messages: Any = episode.messages()
    return await client.chat.completions.create(**{"model": "auto", "messages": messages} | options)


def content(answer: Any, number: int = 0) -> str:
    return str(answer.choices[number].message.content)


async def test_max_tokens_by_either_name_ends_with_length(client: AsyncOpenAI, episode: Episode) -> None:
    whole = await ask(client, episode)
    assert whole.choices[0].finish_reason == "stop"
    for name in ("max_tokens", "max_completion_tokens"):
        cut = await ask(client, episode, **{name: 5})
        assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 5)
        assert content(whole).startswith(content(cut))
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


async def test_a_stop_string_across_tokens_ends_the_answer(client: AsyncOpenAI, episode: Episode) -> None:
    whole = content(await ask(client, episode))
    for start in range(3, 25, 4):
        stop = whole[start : start + 9]
        cut = await ask(client, episode, stop=["never said", stop])
        assert (content(cut), cut.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")
        chunks = [chunk async for chunk in await ask(client, episode, stop=stop, stream=True)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole[: whole.index(stop)]


async def test_a_seed_repeats_an_answer(client: AsyncOpenAI, episode: Episode) -> None:
    warm = {"temperature": 2.0, "max_tokens": 30}
    answers = [content(await ask(client, episode, seed=seed, **warm)) for seed in (3, 3, 4, 5)]
    assert answers[0] == answers[1]
    assert len(set(answers)) > 1


async def test_a_stream_has_usage_at_its_end_when_asked(client: AsyncOpenAI, episode: Episode) -> None:
    whole = await ask(client, episode)
    chunks = [c async for c in await ask(client, episode, stream=True, stream_options={"include_usage": True})]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    plain = [c async for c in await ask(client, episode, stream=True)]
    assert all(chunk.usage is None for chunk in plain)


async def test_logprobs_are_the_same_streamed_and_spell_the_answer(client: AsyncOpenAI, episode: Episode) -> None:
    options = {"logprobs": True, "top_logprobs": 3}
    whole = await ask(client, episode, **options)
    said = whole.choices[0].logprobs.content
    assert b"".join(bytes(each.bytes) for each in said).decode() == content(whole)
    assert len(said) == whole.usage.completion_tokens - 1  # the token that ended it is not told
    for each in said:
        assert [other.logprob for other in each.top_logprobs] == sorted(
            (other.logprob for other in each.top_logprobs), reverse=True
        )
        assert (each.token, each.logprob) == (each.top_logprobs[0].token, each.top_logprobs[0].logprob)
        assert each.logprob <= 0
    chunks = [c async for c in await ask(client, episode, stream=True, **options)]
    streamed = [each for c in chunks if c.choices[0].logprobs for each in c.choices[0].logprobs.content]
    assert [each.token for each in streamed] == [each.token for each in said]
    assert [each.logprob for each in streamed] == pytest.approx([each.logprob for each in said], abs=1e-4)


async def test_choices_are_one_decision(client: AsyncOpenAI, episode: Episode) -> None:
    warm = {"temperature": 2.0, "seed": 3, "max_tokens": 30}
    alone = await ask(client, episode, **warm)
    several = await ask(client, episode, n=3, **warm)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert content(several) == content(alone)
    assert len({content(several, number) for number in range(3)}) > 1
    assert several.usage.prompt_tokens == alone.usage.prompt_tokens
    chunks = [c async for c in await ask(client, episode, n=3, stream=True, **warm)]
    for number in range(3):
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == number]
        assert "".join(choice.delta.content or "" for choice in own) == content(several, number)
        assert own[-1].finish_reason == several.choices[number].finish_reason


@pytest.mark.parametrize("stream", [False, True])
async def test_json_fits_its_schema(client: AsyncOpenAI, episode: Episode, stream: bool) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "point", "strict": True, "schema": POINT}}
    options = {"response_format": wanted, "temperature": 1.0, "seed": 1, "max_tokens": 150, "stream": stream}
    answer = await ask(client, episode, **options)
    text = "".join([chunk.choices[0].delta.content or "" async for chunk in answer]) if stream else content(answer)
    point = json.loads(text)
    assert point.keys() == {"x", "of"}
    assert 0 <= point["x"] <= 999
    assert point["of"] in ("button", "link")


async def test_a_json_object_is_one(client: AsyncOpenAI, episode: Episode) -> None:
    answer = await ask(client, episode, response_format={"type": "json_object"}, max_tokens=200)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert content(answer).startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content(answer)), dict)


async def test_a_schema_that_cannot_be_kept_names_its_field(client: AsyncOpenAI, episode: Episode) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "odd", "schema": {"not": {"type": "string"}}}}
    with pytest.raises(BadRequestError, match="Unimplemented") as caught:
        await ask(client, episode, response_format=wanted)
    assert caught.value.param == "response_format.json_schema.schema"


async def test_mixtures_answer_as_the_engine_does_under_their_gates(
    client: AsyncOpenAI, engine: RoutedEngine, episode: Episode
) -> None:
    own = {"click-tab": 0.5, "click-color": 0.75}
    for options in ({"model": "soft"}, {"model": "top2"}, {"extra_body": {"routing": {"gates": own}}}):
        answer = await ask(client, episode, **options)
        gates = answer.model_extra["routing"]["gates"]
        deltas = engine.generate(prompt(episode), gates, Sampling(200))
        assert content(answer) == "".join([delta.text async for delta in deltas])
        assert len(gates) == (4 if options.get("model") == "soft" else 2)
    assert gates == own
    assert sum((await ask(client, episode, model="soft")).model_extra["routing"]["gates"].values()) == pytest.approx(1)
