"""The state of a fold at one position of the event stream, in a SQLite file that moves on by whole transactions.

SQLite makes a step whole or undone; the checksums here find what a disk changed later.
"""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

from cluster.archive import Damaged
from cluster.learner_store import LedgerRow
from cluster.stream import START, stream_order

_TABLES = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arms (arm TEXT PRIMARY KEY, statistics BLOB NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (id TEXT PRIMARY KEY, stream_id TEXT NOT NULL, row BLOB NOT NULL, crc INT NOT NULL,
    ms INT NOT NULL)
    WITHOUT ROWID;
"""
_PATIENCE_S = 60.0
_AT_ONCE = 500  # variables of one statement


class Overtaken(RuntimeError):
    """Another process has moved the checkpoint meanwhile; nothing was written."""


class Placed(NamedTuple):
    """A ledger row and where its decision stands in the stream."""

    stream_id: str
    row: LedgerRow


class Checkpoint:
    """One checkpoint file. It belongs to the fold that `signature` stands for: another one finds it empty."""

    def __init__(self, path: Path | str, signature: str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._signature = signature
        self._file = sqlite3.connect(self.path, timeout=_PATIENCE_S, check_same_thread=False)
        try:
            self._file.executescript(_TABLES)
            if self._state("signature") != signature:
                self._clear()
            self._seen = self.position
        except sqlite3.DatabaseError as error:
            self._file.close()
            raise Damaged(f"{self.path} is not readable: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def position(self) -> str:
        """The last stream id that was folded; the start of the stream in an empty checkpoint."""
        return self._state("position") or START

    def arms(self) -> dict[str, bytes]:
        """The statistics of every arm. Raises Damaged if they are not what was written."""
        arms = dict(self._file.execute("SELECT arm, statistics FROM arms ORDER BY arm").fetchall())
        digests = {arm: _sha256(statistics) for arm, statistics in arms.items()}
        found, expected = _digest(self.position, digests), self._state("sha256")
        if arms and found != expected:
            raise Damaged(f"the arms of {self.path} are {found}, expected {expected}")
        return arms

    def rows(self, ids: Iterable[str]) -> dict[str, Placed]:
        """The ledger rows of the given decisions, those that there are. Raises Damaged for one that was changed."""
        wanted, found = list(ids), []
        for start in range(0, len(wanted), _AT_ONCE):
            some = wanted[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT id, stream_id, row, crc FROM rows WHERE id IN ({marks})"
            found += self._file.execute(query, some).fetchall()
        return {id_: self._placed(*rest) for id_, *rest in found}

    def page(self, after: str, count: int) -> dict[str, Placed]:
        """Up to `count` rows in the order of their ids, after the id `after`."""
        query = "SELECT id, stream_id, row, crc FROM rows WHERE id > ? ORDER BY id LIMIT ?"
        return {id_: self._placed(*rest) for id_, *rest in self._file.execute(query, (after, count)).fetchall()}

    def advance(
        self, position: str, arms: Mapping[str, bytes], rows: Mapping[str, Placed], gone: Iterable[str] = ()
    ) -> None:
        """Move on to `position`, with the arms and rows that changed and the arms `gone` on the way, or not at all.

        Raises Overtaken if somebody else has moved it since it was opened: what is to be written builds on what was.
        """
        lines = [_line(id_, *placed) for id_, placed in rows.items()]
        blobs = [(arm, statistics, _sha256(statistics)) for arm, statistics in arms.items()]
        with self._file:
            self._file.execute("BEGIN IMMEDIATE")
            if self.position != self._seen:
                raise Overtaken(f"{self.path} is at {self.position}, expected {self._seen}: somebody else moves it")
            self._file.executemany("DELETE FROM arms WHERE arm = ?", [(arm,) for arm in gone])
            self._file.executemany("INSERT OR REPLACE INTO arms VALUES (?, ?, ?)", blobs)
            self._file.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?)", lines)
            digests = dict(self._file.execute("SELECT arm, sha256 FROM arms").fetchall())
            state = [("position", position), ("sha256", _digest(position, digests))]
            self._file.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state)
        self._seen = position

    def drop(self, before: str) -> None:
        """Delete the rows of decisions before the stream id `before`: they have left the archive."""
        with self._file:
            self._file.execute("DELETE FROM rows WHERE ms < ?", (stream_order(before)[0],))

    def copy(self, path: Path | str) -> "Checkpoint":
        """A copy in another file, as of now, that may move on by itself."""
        other = sqlite3.connect(path)
        self._file.backup(other)
        other.close()
        return Checkpoint(path, self._signature)

    def _clear(self) -> None:
        with self._file:
            for table in ("state", "arms", "rows"):
                self._file.execute(f"DELETE FROM {table}")
            self._file.execute("INSERT INTO state VALUES ('signature', ?)", (self._signature,))

    def _state(self, name: str) -> str | None:
        found = self._file.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def _placed(self, stream_id: str, data: bytes, crc: int) -> Placed:
        if _crc(data) != crc:
            raise Damaged(f"a ledger row of {self.path} has the checksum {_crc(data)}, expected {crc}")
        return Placed(stream_id, LedgerRow.model_validate_json(data))


def _line(id_: str, stream_id: str, row: LedgerRow) -> tuple[str, str, bytes, int, int]:
    data = row.model_dump_json().encode()
    return id_, stream_id, data, _crc(data), stream_order(stream_id)[0]


def _crc(data: bytes) -> int:
    return zlib.crc32(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(position: str, digests: Mapping[str, str]) -> str:
    """One checksum of the position and of every arm's."""
    return _sha256("\n".join([position, *(f"{arm} {digests[arm]}" for arm in sorted(digests))]).encode())
