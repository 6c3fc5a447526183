"""What docs/security.md says stands between a caller and the service, where no other file asks."""

import ast
import base64
import hmac
import logging
import re
import struct
import zlib
from pathlib import Path

import pytest

from cluster.settings import AuthSettings
from services.edge import auth
from services.edge.auth import Gatekeeper
from tests.services.auth_keys import bearer, keys
from tests.services.conftest import MakeWorld
from tests.services.images import data_url, encoded, image_part
from tests.services.world import World, chat

ROOT = Path(__file__).parents[3]
CHAT = "/v1/chat/completions"


def test_every_key_is_compared_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In constant time each, and none left out after the first that fits."""
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Spy:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(auth, "hmac", Spy)
    keeper = Gatekeeper(AuthSettings.model_validate({"keys": keys("one", "two", "three")}))
    assert keeper.caller(bearer("one"), "infer").name == "one"
    assert len(compared) == 3
    assert all(len(digest) == 64 for pair in compared for digest in pair)


async def test_no_line_of_the_log_holds_what_was_said(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Neither keys, known or not, nor texts, screens and answers; whatever goes well or wrong, at any level."""
    world: World = await make_world(auth={"keys": keys("agents")})
    screen = encoded(40, 30)
    text = {"type": "text", "text": "open my-private-mail"}
    said = [{"role": "user", "content": [image_part(data_url(screen)), text]}]
    with caplog.at_level(logging.DEBUG):
        for authorization in (bearer("agents"), "Bearer pm-somebody-elses"):
            await world.post(CHAT, chat(messages=said), authorization=authorization)
        await world.post(CHAT, chat("open my-private-mail", n=99), authorization=bearer("agents"))
        world.engine.fails_after = 1
        await world.post(CHAT, chat("open my-private-mail"), authorization=bearer("agents"))
        comment = {"decision_id": "d", "reward": 1, "comment": "my-private-mail"}
        await world.post("/v1/feedback", comment, authorization=bearer("agents"))
        await world.settle()
    ours = [record for record in caplog.records if record.name.startswith(("services", "cluster", "fastapi"))]
    assert ours
    logged = "\n".join(logging.Formatter().format(record) + repr(record.__dict__) for record in ours)
    pixels = base64.b64encode(screen).decode()[:40]
    for secret in ("pm-agents", "pm-somebody-elses", "my-private-mail", "left_", pixels):
        assert secret not in logged


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    framed = [(len(data), name + data) for name, data in chunks]
    parts = [struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body)) for size, body in framed]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _header(side: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (_png(_header(30_000), (b"IDAT", b"")), r"30000×30000|no PNG"),
        (_png(_header(10), (b"zTXt", b"text\0\0" + zlib.compress(bytes(200 << 20)))), "no PNG"),
    ],
    ids=["pixels", "text"],
)
async def test_a_small_file_that_would_become_large_is_refused(world: World, image: bytes, said: str) -> None:
    """200 MiB of text, or 900 megapixels, in a few bytes."""
    assert len(image) < 1 << 20
    messages = [{"role": "user", "content": [image_part(data_url(image))]}]
    response = await world.post(CHAT, chat(messages=messages))
    assert response.status_code == 400
    assert re.search(said, response.json()["error"]["message"])


@pytest.mark.parametrize("room", ["services", "policies", "cluster"])
def test_nothing_is_unpickled(room: str) -> None:
    """No module that runs what it reads is imported; torch and transformers read weights alone."""
    for file in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                said = {each.arg: getattr(each.value, "value", None) for each in node.keywords}
                called = ast.unparse(node.func)
                assert called != "torch.load" or said.get("weights_only") is True, file
                assert not called.endswith("ForConditionalGeneration.from_pretrained") or said.get("use_safetensors"), (
                    file
                )
                assert not said.get("allow_pickle"), file
                assert not said.get("trust_remote_code"), file


def test_every_answer_to_a_threat_names_tests_that_there_are() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| ") and line.count("|") == 4]
    threats = {row[1].strip(): re.findall(r"\(\.\./(tests/[\w/]+\.py)\)", row[3]) for row in rows}
    named = {threat: files for threat, files in threats.items() if files}
    assert len(named) >= 20
    assert [file for files in named.values() for file in files if not (ROOT / file).is_file()] == []
