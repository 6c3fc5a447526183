"""Segments are whole or not there, say what they follow, and do not keep silent about damage."""

from pathlib import Path

import pytest

from cluster.archive import Archive, Damaged
from cluster.stream import START, Raw


def entries(first: int, count: int) -> list[Raw]:
    """Events at 9-first … whose ids do not rise as text; every other one has features."""
    made: list[Raw] = []
    for n in range(first, first + count):
        fields = {b"type": b"decision", b"data": b'{"n": %d}' % n}
        made.append((f"9-{n}", {**fields, b"features": bytes([n % 256, 0])} if n % 2 else fields))
    return made


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def test_nothing_is_sealed_at_first(archive: Archive) -> None:
    assert (archive.segments(), archive.last, archive.after(START)) == ([], START, None)
    assert archive.find(["1-0"]) == {}


def test_what_was_sealed_is_read_back(archive: Archive) -> None:
    first, second = entries(1, 700), entries(701, 20)
    archive.seal(START, first)
    archive.seal("9-700", second)
    again = Archive(archive.directory)
    assert [again.read(segment) for segment in again.segments()] == [first, second]
    assert [segment[1:] for segment in again.segments()] == [(START, "9-700", 700), ("9-700", "9-720", 20)]
    assert again.last == "9-720"
    assert [again.after(at) and again.after(at).last for at in (START, "9-699", "9-700", "9-720")] == [  # type: ignore[union-attr]
        "9-700", "9-700", "9-720", None,
    ]  # fmt: skip


def test_single_events_are_found_wherever_they_are(archive: Archive) -> None:
    first, second = entries(1, 1100), entries(1101, 20)
    archive.seal(START, first)
    archive.seal("9-1100", second)
    wanted = {"9-2": first[1], "9-10": first[9], "9-1100": first[-1], "9-1101": second[0]}
    assert archive.find([*wanted, "9-5000", "8-1"]) == wanted


def test_of_two_that_seal_the_same_one_is_refused(archive: Archive) -> None:
    archive.seal(START, entries(1, 5))
    with pytest.raises(FileExistsError):
        Archive(archive.directory).seal(START, entries(1, 7))
    assert archive.last == "9-5"
    assert list(archive.directory.glob("*.part")) == []


def test_what_a_killed_process_left_is_no_segment(archive: Archive) -> None:
    archive.seal(START, entries(1, 5))
    (torn,) = archive.directory.glob("*.parquet")
    part = torn.with_suffix(".0.part")
    part.write_bytes(torn.read_bytes()[:50])
    assert [segment.path for segment in Archive(archive.directory).segments()] == [torn]
    archive.sweep()
    assert not part.exists()


def test_a_missing_segment_is_noticed(archive: Archive) -> None:
    for first in (1, 6, 11):
        archive.seal(archive.last, entries(first, 5))
    archive.segments()[1].path.unlink()
    with pytest.raises(Damaged, match="expected 9-5: a segment is missing"):
        archive.segments()


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_a_changed_byte_is_noticed(archive: Archive, where: float) -> None:
    segment = archive.seal(START, entries(1, 600))
    content = bytearray(segment.path.read_bytes())
    content[int(where * len(content))] ^= 0x55
    segment.path.write_bytes(content)
    again = Archive(archive.directory)
    with pytest.raises(Damaged, match=segment.path.name):
        again.read(again.segments()[0])


def test_old_segments_are_dropped_whole(archive: Archive) -> None:
    for first in (1, 6, 11):
        archive.seal(archive.last, entries(first, 5))
    assert archive.drop("9-10") == 1
    assert [segment.after for segment in archive.segments()] == ["9-5", "9-10"]
    assert archive.drop("10-0") == 2


def test_what_is_erased_leaves_its_place(archive: Archive) -> None:
    first, second = entries(1, 700), entries(701, 20)
    archive.seal(START, first)
    archive.seal("9-700", second)
    archive.erase(archive.segments()[0], {"9-1", "9-700"})
    again = Archive(archive.directory)
    left = again.read(again.segments()[0])
    assert [segment[1:] for segment in again.segments()] == [(START, "9-700", 700), ("9-700", "9-720", 20)]
    assert [at for at, _ in left] == [at for at, _ in first]
    assert left[1:-1] == first[1:-1]
    assert left[0][1] == left[-1][1] == {b"type": b"erased", b"data": b'{"type":"erased"}'}
    assert again.find(["9-1", "9-2", "9-700"]) == {"9-2": first[1]}
    assert b'{"n": 700}' not in b"".join(path.read_bytes() for path in archive.directory.iterdir())
    assert list(archive.directory.glob("*.part")) == []


def test_damage_elsewhere_does_not_matter_for_what_is_looked_up(archive: Archive) -> None:
    archive.seal(START, entries(1, 5))
    archive.seal("9-5", entries(6, 5))
    archive.seal("9-10", entries(11, 5))
    first, middle, _ = (segment.path for segment in archive.segments())
    middle.write_bytes(b"no segment")
    again = Archive(archive.directory)
    assert list(again.find(["9-1", "9-15", "8-0"])) == ["9-1", "9-15"]
    with pytest.raises(Damaged, match=middle.name):
        again.find(["9-1", "9-7"])
    middle.unlink()
    with pytest.raises(Damaged, match=f"{first.name} ends at 9-5.*a segment is missing"):
        again.find(["9-7"])


def test_one_process_writes_at_a_time(archive: Archive) -> None:
    with archive.lock() as alone, Archive(archive.directory).lock() as other:
        assert (alone, other) == (True, False)
    with archive.lock() as alone:
        assert alone
