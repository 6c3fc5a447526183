"""Places in the event stream."""

from collections.abc import Mapping

START = "0-0"
"""The stream id before every entry."""

Raw = tuple[str, Mapping[bytes, bytes]]
"""An entry as Redis and the archive hold it: its stream id and its fields."""


def stream_order(stream_id: str) -> tuple[int, int]:
    """The sort key of a stream id, (milliseconds, sequence number): as text, "9-0" would come after "10-0"."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def following(stream_id: str) -> str:
    """The least stream id after this one."""
    milliseconds, sequence = stream_order(stream_id)
    return f"{milliseconds}-{sequence + 1}"
