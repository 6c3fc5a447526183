"""Sealed events: checked Parquet segments in a directory, each beginning where the one before it ends.

A segment is written to a part file, synced, and linked to a name that only says what it follows: it is there whole or
not at all, and of two writers one gets the name. Two checks guard it: Parquet's page checksums, and a SHA-256 over its
content in its metadata. What is erased of a segment leaves its place: ids, order and number of the events stay.
Whoever writes holds the lock of the directory. Nothing here talks to Redis.
"""

import contextlib
import fcntl
import hashlib
import itertools
import os
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.stream import START, Raw, stream_order

_SCHEMA = pa.schema([("id", pa.string()), ("type", pa.string()), ("data", pa.binary()), ("features", pa.binary())])
_ROWS_A_GROUP = 512  # what one look-up reads
ERASED = b"erased"
"""The type of what is left of an event that was deleted."""


class Damaged(RuntimeError):
    """A file of the archive is missing or does not hold what was written to it; the message names it."""


class Segment(NamedTuple):
    """A file of the events after the stream id `after`, up to `last`."""

    path: Path
    after: str
    last: str
    events: int


class Archive:
    """The segments of one event stream. One process writes, under `lock`; any number read."""

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._known: dict[Path, Segment] = {}

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Whether nobody else writes until the block ends: False if somebody does. Its holder's end frees it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            yield _taken(handle)
        finally:
            os.close(handle)

    def segments(self) -> list[Segment]:
        """All segments, oldest first. Raises Damaged where one is missing between two others."""
        found = [self._segment(path) for path in sorted(self.directory.glob("*.parquet"))]
        for before, segment in itertools.pairwise(found):
            if segment.after != before.last:
                raise Damaged(f"{segment.path} follows {segment.after}, expected {before.last}: a segment is missing")
        return found

    @property
    def last(self) -> str:
        """The last sealed stream id; the start of the stream while nothing is sealed."""
        found = self.segments()
        return found[-1].last if found else START

    def after(self, position: str) -> Segment | None:
        """The first segment with events after `position`."""
        found = self.segments()
        place = bisect_right(found, stream_order(position), key=_end)
        return found[place] if place < len(found) else None

    def seal(self, after: str, entries: Sequence[Raw]) -> Segment:
        """Write the entries, which follow `after`, durably. FileExistsError: somebody has sealed what follows it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path, last = self.directory / _name(after), entries[-1][0]
        with self._part(path, Segment(path, after, last, len(entries)), entries) as part:
            os.link(part, path)
        return self._segment(path)

    def erase(self, segment: Segment, stream_ids: Collection[str]) -> None:
        """Delete what the entries hold, durably and at once; their ids stay."""
        empty = {b"type": ERASED, b"data": b'{"type":"erased"}'}
        entries = [(id_, empty if id_ in stream_ids else fields) for id_, fields in self.read(segment)]
        with self._part(segment.path, segment, entries) as part:
            part.replace(segment.path)

    def read(self, segment: Segment) -> list[Raw]:
        """Every entry of a segment, checked."""
        try:
            file = pq.ParquetFile(segment.path, page_checksum_verification=True)
            entries = _entries(file.read())
            expected = (file.schema_arrow.metadata or {})[b"sha256"].decode()
        except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
            raise Damaged(f"{segment.path} is not readable: {error}") from error
        if _digest(entries) != expected:
            raise Damaged(f"{segment.path} holds {_digest(entries)}, expected {expected}")
        return entries

    def find(self, stream_ids: Iterable[str]) -> dict[str, Raw]:
        """Those of the given entries that are sealed; only the row groups that may hold one are read.

        Raises Damaged if the segment that holds one is missing or damaged; what became of others does not matter.
        """
        paths, inside = sorted(self.directory.glob("*.parquet")), defaultdict(list)
        begins = [_begin(path) for path in paths]
        for stream_id in stream_ids:
            if place := bisect_left(begins, stream_order(stream_id)):
                inside[place - 1].append(stream_id)
        found: dict[str, Raw] = {}
        for place, wanted in inside.items():
            found |= _find(paths[place], wanted)
            if place + 1 < len(paths) and (lost := [one for one in wanted if one not in found]):
                self._check_reach(paths[place], paths[place + 1], lost)
        return found

    def drop(self, before: str) -> int:
        """Delete the segments whose events all came before the stream id `before`; how many.

        Of the newest one its end stays, so that it is known where the next one begins.
        """
        segments = self.segments()
        gone = [one for one in segments if stream_order(one.last) < stream_order(before)]
        for segment in gone:
            if segment != segments[-1]:
                segment.path.unlink()
            elif held := {id_ for id_, fields in self.read(segment) if fields[b"type"] != ERASED}:
                self.erase(segment, held)
        return len(gone)

    def sweep(self) -> None:
        """Delete the parts that a killed process left behind. For the one process that seals."""
        for part in self.directory.glob("*.part"):
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _part(self, path: Path, segment: Segment, entries: Sequence[Raw]) -> Iterator[Path]:
        """A synced part file with the entries, to be given its name in the block."""
        part = path.with_suffix(f".{uuid4().hex}.part")
        try:
            _write(part, _table(entries), {"after": segment.after, "last": segment.last, "sha256": _digest(entries)})
            yield part
        finally:
            part.unlink(missing_ok=True)
        _sync(self.directory)

    def _check_reach(self, path: Path, following: Path, lost: Iterable[str]) -> None:
        """Raise Damaged if an id lies between the segment at `path` and the next one that there is."""
        last = self._segment(path).last
        if any(stream_order(stream_id) > stream_order(last) for stream_id in lost):
            raise Damaged(f"{path} ends at {last}, and {following} is next: a segment is missing")

    def _segment(self, path: Path) -> Segment:
        if path not in self._known:
            try:
                footer = pq.read_metadata(path)
                says = {key: value.decode() for key, value in (footer.metadata or {}).items()}
                self._known[path] = Segment(path, says[b"after"], says[b"last"], footer.num_rows)
            except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:
                raise Damaged(f"{path} is not readable: {error}") from error
        return self._known[path]


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(segment: Segment) -> tuple[int, int]:
    return stream_order(segment.last)


def _begin(path: Path) -> tuple[int, int]:
    """What a segment follows, told from its name alone."""
    milliseconds, _, sequence = path.stem.partition("-")
    return int(milliseconds), int(sequence)


def _name(after: str) -> str:
    milliseconds, sequence = stream_order(after)
    return f"{milliseconds:016d}-{sequence:010d}.parquet"


def _table(entries: Sequence[Raw]) -> pa.Table:
    columns = [
        [stream_id for stream_id, _ in entries],
        [fields[b"type"].decode() for _, fields in entries],
        [fields[b"data"] for _, fields in entries],
        [fields.get(b"features") for _, fields in entries],
    ]
    arrays = [pa.array(values, kind.type) for values, kind in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _write(path: Path, table: pa.Table, says: Mapping[str, str]) -> None:
    schema = _SCHEMA.with_metadata(dict(says))
    with path.open("wb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer:
            writer.write_table(table.cast(schema), row_group_size=_ROWS_A_GROUP)
        file.flush()
        os.fsync(file.fileno())


def _entries(table: pa.Table) -> list[Raw]:
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return [(id_, _fields(type_, data, features)) for id_, type_, data, features in rows]


def _fields(type_: str, data: bytes, features: bytes | None) -> dict[bytes, bytes]:
    fields = {b"type": type_.encode(), b"data": data}
    return fields if features is None else {**fields, b"features": features}


def _find(path: Path, stream_ids: Sequence[str]) -> dict[str, Raw]:
    """Ids rise, but not as text; so the row group is found by counting, not by its statistics."""
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        ids = file.read(columns=["id"]).column("id")
        places = pc.index_in(pa.array(stream_ids), ids).to_pylist()
        groups = sorted({place // _ROWS_A_GROUP for place in places if place is not None})
        entries = _entries(file.read_row_groups(groups)) if groups else []
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{path} is not readable: {error}") from error
    wanted = set(stream_ids)
    return {id_: (id_, fields) for id_, fields in entries if id_ in wanted and fields[b"type"] != ERASED}


def _digest(entries: Iterable[Raw]) -> str:
    digest = hashlib.sha256()
    for stream_id, fields in entries:
        for part in (stream_id.encode(), fields[b"type"], fields[b"data"], fields.get(b"features", b"")):
            digest.update(len(part).to_bytes(4, "little") + part)
    return digest.hexdigest()


def _sync(directory: Path) -> None:
    """Make a new name durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
