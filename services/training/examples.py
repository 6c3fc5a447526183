"""The data that a router is trained on: rows of JSONL or Parquet, checked; every error names its row."""

import asyncio
import base64
import hashlib
import json
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster.settings import LimitSettings
from services.edge.chat import ChatReader
from services.edge.errors import ApiError
from services.engine.base import Prompt
from services.schemas import ChatRequest

Split = Literal["train", "held_out"]
Reward = Annotated[float, Field(ge=0, le=1)]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 relative to the image, 0 to 999, as in the answers; x1 and y1 are exclusive."""


class InvalidData(ValueError):
    """A file that is no data, or rows that cannot be used; the message names file and row."""


class Row(BaseModel):
    """One example as it is written. What is missing is unknown; it names the right adapter, the right answer, or both.

    group: what may not be torn apart by the split, such as an episode's steps.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    messages: list[dict[str, Any]] = Field(min_length=1)
    adapter: str | None = Field(None, min_length=1)
    target: str | None = Field(None, min_length=1)
    boxes: list[Box] = []
    outcomes: dict[str, Reward] = {}
    task: str | None = None
    group: str | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Example:
    """A row that can be trained on. `key` is the hash of what the model reads, `split` empty until `divide`.

    boxes: where a click of the answer is right; without any, only the target itself is.
    """

    row: int
    key: str
    prompt: Prompt
    label: str
    target: str
    boxes: tuple[Box, ...]
    outcomes: Mapping[str, float]
    task: str
    group: str
    split: Split | None

    @property
    def is_held_out(self) -> bool:
        """Whether it is only judged on."""
        return self.split == "held_out"


def read(path: Path) -> list[Example]:
    """Every row of a file, in order. Raises InvalidData that lists the first rows which cannot be used."""
    found, faults = scan(path)
    if faults:
        shown = "\n  ".join(faults[:5])
        more = f"\n  … and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise InvalidData(f"{path}: {len(faults)} of {len(found) + len(faults)} rows cannot be used\n  {shown}{more}")
    if not found:
        raise InvalidData(f"{path}: no rows, expected at least one example")
    return found


def scan(path: Path) -> tuple[list[Example], list[str]]:
    """The rows that can be used, and what is wrong with the others. Raises InvalidData for a file that is no data."""
    return asyncio.run(_scan(path))


async def _scan(path: Path) -> tuple[list[Example], list[str]]:
    reader, found, faults = ChatReader(LimitSettings()), list[Example](), list[str]()
    for number, raw in _rows(path):
        try:
            found.append(await _example(number, raw, path.parent, reader))
        except (InvalidData, OSError) as error:
            faults.append(f"row {number}: {error}")
        except ApiError as error:
            faults.append(f"row {number}: {error.detail}")
        except ValidationError as error:
            fault = error.errors()[0]
            field = ".".join(map(str, fault["loc"])) or "row"
            faults.append(f"row {number}: {field}: {fault['input']!r:.60}: {fault['msg']}")
    return found, faults


async def _example(number: int, raw: Any, folder: Path, reader: ChatReader) -> Example:
    if isinstance(raw, InvalidData):
        raise raw
    row = Row.model_validate(raw)
    if row.adapter is None and row.target is None and not row.outcomes:
        raise InvalidData("neither adapter nor target nor outcomes, expected at least one of them")
    messages = [_with_files(message, folder) for message in row.messages]
    prompt = await reader.read(ChatRequest.model_validate({"messages": messages}))
    key = content_key(prompt)
    return Example(
        row=number,
        key=key,
        prompt=prompt,
        label=row.adapter or "",
        target=row.target or "",
        boxes=tuple(row.boxes),
        outcomes=row.outcomes,
        task=row.task or "",
        group=row.group or key,
        split=row.split,
    )


def content_key(prompt: Prompt) -> str:
    """SHA-256 of what the model reads: roles, texts and image bytes."""
    digest = hashlib.sha256()
    for message in prompt.messages:
        for part in message.parts:
            data = part.image if part.image is not None else (part.text or "").encode()
            digest.update(f"{message.role} {part.image is not None} {len(data)} ".encode() + data)
    return digest.hexdigest()


def divide(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """Every example with a split: the file's own, or a `share` of each label's groups held out.

    Examples of one group, and the same content, are never torn apart.
    """
    root = _joined(examples)
    side: dict[str, Split] = {root[e.group]: e.split for e in examples if e.split}
    for label in sorted({e.label for e in examples}):
        groups = sorted({root[e.group] for e in examples if e.label == label}, key=lambda group: _chance(seed, group))
        wanted = min(len(groups) - 1, max(1, round(share * len(groups))))
        out = sum(side.get(group) == "held_out" for group in groups)
        for group in groups:
            if group not in side:
                side[group] = "held_out" if out < wanted else "train"
                out += side[group] == "held_out"
    return [replace(e, split=e.split or side[root[e.group]]) for e in examples]


def data_hash(examples: Sequence[Example]) -> str:
    """16 hex digits of everything that training depends on."""
    digest = hashlib.sha256()
    for e in examples:
        told = [e.key, e.label, e.target, e.boxes, sorted(e.outcomes.items()), e.task, e.split]
        digest.update(json.dumps(told).encode())
    return digest.hexdigest()[:16]


def _joined(examples: Sequence[Example]) -> dict[str, str]:
    """For each group, what stands for it and for all groups that share content with it."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    for e in examples:
        first, second = sorted([find(e.group), find(f"content {e.key}")])
        root[first] = second
    return {e.group: find(e.group) for e in examples}


def _chance(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed} {group}".encode()).digest()


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Numbered rows, from 1; a line that is no JSON as an InvalidData in its place."""
    if not path.is_file():
        raise InvalidData(f"{path}: no such file")
    if path.suffix == ".parquet":
        yield from enumerate(_parquet(path), start=1)
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, _json(line)


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return InvalidData(f"not JSON: {error}")


def _parquet(path: Path) -> Iterator[Any]:
    """Rows without empty columns; messages, boxes and outcomes may be JSON text."""
    try:
        file = pq.ParquetFile(path)
        if "messages" not in file.schema_arrow.names:
            raise InvalidData(f"{path}: no column messages, expected examples (an exported log goes with --from-log)")
        for batch in file.iter_batches():
            yield from map(_parquet_row, batch.to_pylist())
    except pa.ArrowException as error:
        raise InvalidData(f"{path}: not Parquet: {error}") from None


def _parquet_row(row: dict[str, Any]) -> Any:
    given = {name: value for name, value in row.items() if value is not None}
    for name in given.keys() & {"messages", "boxes", "outcomes"}:
        if isinstance(given[name], str):
            given[name] = _json(given[name])
            if isinstance(given[name], InvalidData):
                return InvalidData(f"{name}: {given[name]}")
    if "messages" in given and isinstance(given["messages"], list):
        given["messages"] = [_without_none(message) for message in given["messages"]]
    outcomes = given.get("outcomes", {})
    given["outcomes"] = {arm: reward for arm, reward in dict(outcomes).items() if reward is not None}
    return given


def _without_none(value: Any) -> Any:
    """Arrow fills what a struct lacks with None."""
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    return [_without_none(part) for part in value] if isinstance(value, list) else value


def _with_files(message: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The message with image paths, relative to the data's folder, as data URLs."""
    parts = message.get("content")
    return message | {"content": [_loaded(part, folder) for part in parts]} if isinstance(parts, list) else message


def _loaded(part: Any, folder: Path) -> Any:
    url = part.get("image_url", {}).get("url") if isinstance(part, dict) and part.get("type") == "image_url" else None
    if not isinstance(url, str) or url.startswith(("data:", "http:", "https:")):
        return part
    path = folder / url.removeprefix("file://")
    if not path.is_file():
        raise InvalidData(f"image {url!r}: no such file in {folder}, expected a path or a data URL")
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"},
    }
