"""The log as a Parquet table: each decision with what it was based on and what became of it, a batch at a time."""

from collections.abc import AsyncIterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.events import Decision
from cluster.learner_store import LedgerRow
from cluster.store import Store

MEDIA_TYPE = "application/vnd.apache.parquet"
_TEXT, _NUMBER = pa.string(), pa.float64()
SCHEMA = pa.schema(
    [
        ("id", _TEXT),
        ("time", _NUMBER),
        ("episode", _TEXT),
        ("task", _TEXT),
        ("tenant", _TEXT),
        ("arm", _TEXT),
        ("best", _TEXT),
        ("supervised", _TEXT),
        ("propensity", _NUMBER),
        ("explored", pa.bool_()),
        ("policy", _TEXT),
        ("policy_version", pa.int64()),
        ("mode", _TEXT),
        ("router", _TEXT),
        ("eligible", pa.list_(_TEXT)),
        ("costs", pa.list_(_NUMBER)),
        ("status", _TEXT),
        ("reward", _NUMBER),
        ("features", pa.binary()),
    ]
)
_LOGGED = {field.name for field in SCHEMA} - {"status", "reward"}


async def batches(store: Store) -> AsyncIterator[pa.RecordBatch]:
    """Every decision of the log, sealed or hot, oldest first. No more than one batch of events is held at a time.

    `reward` is the mean over what was said of a decision, none while nothing was; `status` is that of its ledger row.
    """
    async for batch in store.history():
        decisions = [event for _, event in batch if isinstance(event, Decision)]
        if decisions:
            ledger = await store.ledger([decision.id for decision in decisions])
            yield _table(decisions, {id_: row for id_, (_, row) in ledger.items() if row})


async def parquet(store: Store) -> AsyncIterator[bytes]:
    """The bytes of a Parquet file with `batches`, a row group each."""
    sink = _Sink()
    with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), SCHEMA, compression="zstd") as writer:
        async for batch in batches(store):
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


def _table(decisions: Sequence[Decision], rows: Mapping[str, LedgerRow]) -> pa.RecordBatch:
    logged = [
        {name: getattr(decision, name) for name in _LOGGED} | _outcome(rows.get(decision.id)) for decision in decisions
    ]
    return pa.RecordBatch.from_pylist(logged, schema=SCHEMA)


def _outcome(row: LedgerRow | None) -> dict[str, str | float | None]:
    if row is None:
        return {"status": None, "reward": None}
    said = row.rewards.values()
    return {"status": row.status, "reward": sum(said) / len(said) if said else None}


class _Sink:
    """A file that gives away what was written to it."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to close."""

    def taken(self) -> bytes:
        """What was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
