"""The two files of a PEFT LoRA, read as data: what the header says is held against the file before anything is used."""

import hashlib
import json
import math
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple

from services.adapters.metadata import InvalidAdapter

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
PICKLE: Final = "adapter_model.bin"
_MOST_CONFIG: Final = 1 << 20
_MOST_HEADER: Final = 16 << 20
_MOST_DIMENSIONS: Final = 8
_LARGEST: Final = (1 << 63) - 1
_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


class Tensor(NamedTuple):
    """One tensor as the header describes it; its bytes are `start` to `stop` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class AdapterFiles:
    """What a directory says of its adapter, all but the weights themselves."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    size: int  # bytes of the weights' file

    @property
    def weights(self) -> Path:
        """The file of the weights, for messages."""
        return self.path / WEIGHTS

    @property
    def rank(self) -> int:
        """Rank of the module that has the largest."""
        ranks = [each.shape[0] for name, each in self.tensors.items() if "lora_A" in name and each.shape]
        return max(ranks, default=0)


class Content(NamedTuple):
    """A directory read whole."""

    files: AdapterFiles
    data: bytearray  # the weights' file
    fingerprint: str


def inspect(path: Path, most: int | None = None) -> AdapterFiles:
    """Configuration and header of weights of at most `most` bytes.

    Raises InvalidAdapter, naming the file, what it holds, and what was expected.
    """
    said = _content(path / CONFIG, _MOST_CONFIG)
    with _opened(path / WEIGHTS) as file:
        return _inspected(path, said, file, most)


def describe(path: Path, most: int | None = None) -> tuple[AdapterFiles, str]:
    """The same and the content hash, of one version of each file. Raises InvalidAdapter as `inspect`."""
    said = _content(path / CONFIG, _MOST_CONFIG)
    with _opened(path / WEIGHTS) as file:
        found = _inspected(path, said, file, most)
        digest = hashlib.sha256(said)
        file.seek(0)
        while block := file.read(1 << 20):
            digest.update(block)
    return found, _short(digest.hexdigest())


def read(path: Path, most: int | None = None) -> Content:
    """Everything, and its content hash: what is described is what is hashed. Raises InvalidAdapter as `inspect`."""
    said = _content(path / CONFIG, _MOST_CONFIG)
    data = _content(path / WEIGHTS, most)
    length = int.from_bytes(data[:8], "little")
    header = bytes(data[8 : 8 + min(length, _MOST_HEADER + 1)])
    files = _described(path, _config(path / CONFIG, said), header, length, len(data))
    digest = hashlib.sha256(said)
    digest.update(data)
    return Content(files, data, _short(digest.hexdigest()))


def check_size(file: Path, size: int, most: int | None) -> None:
    """Raises InvalidAdapter for a file of more than `most` bytes."""
    if most is not None and size > most:
        setting = " (cache.largest_bytes)" if file.name == WEIGHTS else ""
        raise InvalidAdapter(f"{file}: {size} bytes, expected at most {most}{setting}")


def refuse_pickle(directory: Path, names: Collection[str]) -> None:
    """Raises InvalidAdapter where there are weights as a pickle alone."""
    if PICKLE in names and WEIGHTS not in names:
        raise InvalidAdapter(f"{directory / PICKLE}: a pickle, which may hold code, expected {WEIGHTS}")


def _short(digest: str) -> str:
    return digest[:16]


def _opened(path: Path) -> BufferedReader:
    """A regular file: a pipe would make the reader wait for ever."""
    if path.name == WEIGHTS:
        refuse_pickle(path.parent, [name for name in (WEIGHTS, PICKLE) if (path.parent / name).exists()])
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InvalidAdapter(f"{path.parent}: {path.name} is missing (weights must be safetensors)") from None
    except OSError as error:
        raise InvalidAdapter(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InvalidAdapter(f"{path}: not a regular file")
    return os.fdopen(file, "rb")


def _content(path: Path, most: int | None = None) -> bytearray:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        check_size(path, size, most)
        content = bytearray(size)
        read = file.readinto(content)
    return content[:read] if read < size else content


def _inspected(path: Path, said: bytearray, file: BufferedReader, most: int | None) -> AdapterFiles:
    config, size = _config(path / CONFIG, said), os.fstat(file.fileno()).st_size
    check_size(path / WEIGHTS, size, most)
    length = int.from_bytes(file.read(8), "little")
    return _described(path, config, file.read(min(length, _MOST_HEADER + 1)), length, size)


def _config(path: Path, content: bytearray) -> dict[str, Any]:
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"{path}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidAdapter(f"{path}: {type(config).__name__}, expected a JSON object")
    for key, kind in (("r", int), ("target_modules", list | str)):
        if not isinstance(config.get(key), kind) or config[key] is True:
            raise InvalidAdapter(f"{path}: {key} is {config.get(key)!r}, expected a PEFT LoRA configuration")
    targets = config["target_modules"]
    if not all(isinstance(name, str) for name in targets):
        raise InvalidAdapter(f"{path}: target_modules is {targets!r}, expected names")
    if config.get("peft_type") != "LORA":
        raise InvalidAdapter(f"{path}: peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    return config


def _described(path: Path, config: dict[str, Any], header: bytes, length: int, size: int) -> AdapterFiles:
    file = path / WEIGHTS
    if not 0 < length <= min(size - 8, _MOST_HEADER):
        raise InvalidAdapter(f"{file}: not safetensors: a header of {length} bytes in a file of {size}")
    try:
        document = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise InvalidAdapter(f"{file}: not safetensors: its header is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidAdapter(f"{file}: not safetensors: its header is a {type(document).__name__}, expected an object")
    document.pop("__metadata__", None)
    tensors = {name: _tensor(file, name, said, 8 + length) for name, said in document.items()}
    _check_extent(file, tensors, 8 + length, size)
    if not any("lora_" in name for name in tensors):
        found = f"{len(tensors)} tensors and none of them a LoRA's"
        raise InvalidAdapter(f"{file}: {found}, expected lora_A and lora_B of at least one module")
    return AdapterFiles(path, config, tensors, size)


def _tensor(file: Path, name: str, said: Any, first: int) -> Tensor:
    what = f"{file}: header of {name!r}"
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise InvalidAdapter(f"{what}: {said!r}, expected dtype, shape and data_offsets")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if dtype not in _BYTES:
        raise InvalidAdapter(f"{what}: dtype {dtype!r}, expected one of {', '.join(_BYTES)}")
    for key, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or len(numbers) > _MOST_DIMENSIONS:
            raise InvalidAdapter(f"{what}: {key} {numbers!r}, expected at most {_MOST_DIMENSIONS} whole numbers")
        if not all(type(n) is int and 0 <= n <= _LARGEST for n in numbers):
            raise InvalidAdapter(f"{what}: {key} {numbers!r}, expected whole numbers from 0 to {_LARGEST}")
    needed = math.prod(shape) * _BYTES[dtype]
    if len(offsets) != 2 or offsets[1] - offsets[0] != needed:
        raise InvalidAdapter(f"{what}: data_offsets {offsets}, expected {needed} bytes for {dtype} of shape {shape}")
    return Tensor(dtype, tuple(shape), first + offsets[0], first + offsets[1])


def _check_extent(file: Path, tensors: Mapping[str, Tensor], first: int, size: int) -> None:
    """Every byte after the header belongs to one tensor."""
    end = first
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            begin = tensor.start - first
            raise InvalidAdapter(f"{file}: {name!r} begins at byte {begin} of the weights, expected {end - first}")
        end = tensor.stop
    if end != size:
        raise InvalidAdapter(f"{file}: {size} bytes, expected {end} (truncated, or more than its header says)")
