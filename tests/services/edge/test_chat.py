"""From chats to prompts: images by URL only from open hosts, tool calls as text, roles, OpenAI's other fields."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cluster.settings import LimitSettings
from services.edge.chat import ChatReader
from services.edge.errors import ApiError
from services.edge.fetching import CheckedNetwork, RefusedAddress
from services.schemas import ChatRequest
from tests.services.images import data_url, encoded, image_part

HOST = "127.0.0.1"
OPEN = LimitSettings.model_validate({"image_hosts": {HOST}, "image_networks": ["127.0.0.0/8"]})
SCREEN = encoded()


class ImageServer:
    """Answers every path with one screen, but /missing, /moved, /away, /round, /nowhere and /text."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked.append(path)
        status, extra, body = {
            "/missing": ("404 Not Found", "", b""),
            "/moved": ("302 Found", "Location: /screen.png\r\n", b""),
            "/away": ("302 Found", "Location: http://localhost:1/screen.png\r\n", b""),
            "/round": ("302 Found", "Location: /round\r\n", b""),
            "/nowhere": ("302 Found", "", b""),
            "/text": ("200 OK", "", b"hello"),
        }.get(path, ("200 OK", "", SCREEN))
        head = f"HTTP/1.1 {status}\r\n{extra}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


@pytest.fixture
def server() -> ImageServer:
    return ImageServer()


@pytest.fixture
async def url(server: ImageServer) -> AsyncIterator[str]:
    listener = await asyncio.start_server(server.serve, HOST, 0)
    async with listener:
        yield f"http://{HOST}:{listener.sockets[0].getsockname()[1]}"


def request(*urls: str) -> ChatRequest:
    content = [image_part(url) for url in urls]
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": content}]})


async def images(limits: LimitSettings, *urls: str) -> list[bytes]:
    return (await ChatReader(limits).read(request(*urls))).images


async def test_an_allowed_host_is_asked(server: ImageServer, url: str) -> None:
    assert await images(OPEN, f"{url}/screen.png", data_url(b"") + data_url(SCREEN).partition(",")[2]) == [SCREEN] * 2
    assert server.asked == ["/screen.png"]


@pytest.mark.parametrize("hosts", [frozenset[str](), frozenset({"images.test"})])
async def test_no_other_host_is(server: ImageServer, url: str, hosts: frozenset[str]) -> None:
    with pytest.raises(ApiError, match=r"messages\[0\].content\[0\].image_url.url: .*expected a data URL"):
        await images(LimitSettings(image_hosts=hosts), f"{url}/screen.png")
    assert server.asked == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/missing", "status 404, expected 200"),
        ("/away", r"'http://localhost:1/screen.png', expected a data URL"),
        ("/nowhere", "status 302 without a location"),
        ("/text", "5 bytes that are no PNG"),
    ],
)
async def test_what_is_no_image_is_refused(server: ImageServer, url: str, path: str, said: str) -> None:
    with pytest.raises(ApiError, match=said):
        await images(OPEN, url + path)
    assert server.asked == [path]


async def test_a_redirect_on_the_same_host_is_followed_but_not_for_ever(server: ImageServer, url: str) -> None:
    assert await images(OPEN, f"{url}/moved") == [SCREEN]
    assert server.asked == ["/moved", "/screen.png"]
    with pytest.raises(ApiError, match="more than 3 redirects"):
        await images(OPEN, f"{url}/round")


@pytest.mark.parametrize("networks", [[], ["10.0.0.0/8", "::/0"]])
async def test_a_private_address_is_refused_unless_its_network_is_open(
    server: ImageServer, url: str, networks: list[str]
) -> None:
    limits = LimitSettings.model_validate({"image_hosts": {HOST}, "image_networks": networks})
    with pytest.raises(ApiError, match=r"127\.0\.0\.1, which is not public and not in limits.image_networks"):
        await images(limits, f"{url}/screen.png")
    assert server.asked == []


async def test_a_name_that_lies_at_a_private_address_is_refused_too(server: ImageServer, url: str) -> None:
    limits = LimitSettings(image_hosts=frozenset({"localhost"}))
    with pytest.raises(ApiError, match=r"localhost lies at .* which is not public"):
        await images(limits, url.replace(HOST, "localhost") + "/screen.png")
    assert server.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "224.0.0.1",
    ],
)
async def test_addresses_that_are_not_public(address: str) -> None:
    with pytest.raises(RefusedAddress, match="not public"):
        await CheckedNetwork(()).connect_tcp(address, 80)


async def test_a_fetched_image_may_be_no_larger_than_a_body(url: str) -> None:
    assert await images(OPEN, f"{url}/screen.png") == [SCREEN]
    with pytest.raises(ApiError, match="larger than 50 bytes"):
        await images(OPEN.model_copy(update={"body_bytes": 50}), f"{url}/screen.png")


async def test_a_host_that_does_not_answer_is_refused() -> None:
    with pytest.raises(ApiError, match="cannot be fetched"):
        await images(OPEN, f"http://{HOST}:1/screen.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
async def test_formats(kind: str) -> None:
    image = encoded(kind=kind)
    assert await images(LimitSettings(), data_url(image)) == [image]


async def test_roles_and_texts_are_kept_in_order() -> None:
    turns = [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, image_part(data_url(SCREEN)), {"type": "text", "text": "b"}],
        },
    ]
    prompt = await ChatReader(LimitSettings()).read(ChatRequest.model_validate({"messages": turns}))
    assert [message.role for message in prompt.messages] == ["system", "user"]
    assert [part.text for part in prompt.messages[1].parts] == ["a", None, "b"]
    assert (prompt.instruction, prompt.images) == ("a\nb", [SCREEN])


def turn(role: str, **fields: Any) -> dict[str, Any]:
    return {"role": role, **fields}


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


async def texts(*turns: dict[str, Any]) -> list[str]:
    prompt = await ChatReader(LimitSettings()).read(ChatRequest.model_validate({"messages": turns}))
    return ["".join(part.text or "" for part in message.parts) for message in prompt.messages]


async def test_an_assistants_tool_calls_are_qwens_text_again() -> None:
    click = '<tool_call>\n{"name": "computer_use", "arguments": {"action": "left_click"}}\n</tool_call>'
    wait = '<tool_call>\n{"name": "wait", "arguments": {}}\n</tool_call>'
    calls = [call("computer_use", '{"action": "left_click"}'), call("wait", "{}")]
    said = await texts(
        turn("user", content="open"),
        turn("assistant", content=None, tool_calls=calls),
        turn("assistant", tool_calls=calls[:1]),
        turn("assistant", content="Now I click.", tool_calls=calls[:1]),
        turn("tool", content="done", tool_call_id="call_1"),
    )
    assert said == ["open", f"{click}\n{wait}", click, f"Now I click.\n{click}", "done"]


async def test_a_developer_is_the_system() -> None:
    turns = [turn("developer", content="be brief"), turn("user", content="open")]
    prompt = await ChatReader(LimitSettings()).read(ChatRequest.model_validate({"messages": turns}))
    assert [message.role for message in prompt.messages] == ["system", "user"]


def test_fields_that_ask_for_nothing_special_are_taken() -> None:
    plain = {"logit_bias": {}, "top_logprobs": 0, "n": 1, "response_format": {"type": "text"}}
    named = {"user": "u", "store": False, "tool_choice": "auto", "modalities": ["text"], "service_tier": "auto"}
    body = {"messages": [turn("user", content="open")], **plain, **named, "parallel_tool_calls": True}
    assert ChatRequest.model_validate(body).messages[0].content == "open"
