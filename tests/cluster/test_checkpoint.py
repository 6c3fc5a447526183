"""A checkpoint moves on whole, belongs to one fold, and notices what a disk changed."""

import sqlite3
from pathlib import Path

import pytest

from cluster.archive import Damaged
from cluster.checkpoint import Checkpoint, Overtaken, Placed
from cluster.learner_store import LedgerRow
from cluster.stream import START


def row(tick: int) -> LedgerRow:
    return LedgerRow(tick=tick, arm="inbox", status="matured", weight=1 / 3, rewards={"key/judge": 0.1 + 0.2})


def placed(n: int) -> Placed:
    return Placed(f"{n}-0", row(n))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "below" / "checkpoint.sqlite"


def test_it_begins_empty_and_remembers(path: Path) -> None:
    with Checkpoint(path, "fold") as checkpoint:
        assert (checkpoint.position, checkpoint.arms(), checkpoint.rows(["d"])) == (START, {}, {})
        checkpoint.advance("5-0", {"inbox": b"\x00one", "base": b""}, {"d1": placed(1), "d2": placed(2)})
        checkpoint.advance("9-0", {"inbox": b"two"}, {"d2": placed(3)})
    with Checkpoint(path, "fold") as again:
        assert (again.position, again.arms()) == ("9-0", {"inbox": b"two", "base": b""})
        assert again.rows(["d1", "d2", "nobody"]) == {"d1": placed(1), "d2": placed(3)}


def test_another_fold_finds_nothing_of_it(path: Path) -> None:
    with Checkpoint(path, "fold") as checkpoint:
        checkpoint.advance("5-0", {"inbox": b"one"}, {"d1": placed(1)})
    with Checkpoint(path, "another") as other:
        assert (other.position, other.arms(), other.rows(["d1"])) == (START, {}, {})


def test_many_rows_are_found_and_paged(path: Path) -> None:
    rows = {f"d{n:04d}": placed(n) for n in range(1, 1201)}
    with Checkpoint(path, "fold") as checkpoint:
        checkpoint.advance("9999-0", {}, rows)
        assert checkpoint.rows(rows) == rows
        first = checkpoint.page("", 1000)
        assert {**first, **checkpoint.page(max(first), 1000)} == rows
        checkpoint.drop("1001-0")
        assert list(checkpoint.page("", 1000)) == [f"d{n:04d}" for n in range(1001, 1201)]


def test_a_copy_goes_its_own_way(path: Path, tmp_path: Path) -> None:
    with Checkpoint(path, "fold") as checkpoint:
        checkpoint.advance("5-0", {"inbox": b"one"}, {"d1": placed(1)})
        with checkpoint.copy(tmp_path / "copy.sqlite") as copy:
            copy.advance("9-0", {"inbox": b"two"}, {})
            assert copy.rows(["d1"]) == {"d1": placed(1)}
        assert (checkpoint.position, checkpoint.arms()) == ("5-0", {"inbox": b"one"})


@pytest.mark.parametrize(
    ("change", "reads"),
    [
        ("UPDATE arms SET statistics = x'00'", "arms"),
        ("DELETE FROM arms WHERE arm = 'base'", "arms"),
        ("UPDATE state SET value = '6-0' WHERE name = 'position'", "arms"),
        ("UPDATE rows SET row = CAST(replace(row, 'inbox', 'other') AS BLOB)", "ledger row"),
    ],
)
def test_what_was_changed_is_noticed(path: Path, change: str, reads: str) -> None:
    with Checkpoint(path, "fold") as checkpoint:
        checkpoint.advance("5-0", {"inbox": b"one", "base": b""}, {"d1": placed(1)})
    with sqlite3.connect(path) as file:
        file.execute(change)
    file.close()
    with Checkpoint(path, "fold") as again, pytest.raises(Damaged, match=reads):
        again.arms(), again.rows(["d1"])


def test_what_is_no_checkpoint_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"something else" * 100)
    with pytest.raises(Damaged, match="is not readable"):
        Checkpoint(path, "fold")


def test_of_two_that_move_it_from_the_same_place_one_is_refused(path: Path) -> None:
    with Checkpoint(path, "fold") as one, Checkpoint(path, "fold") as other:
        one.advance("5-0", {"inbox": b"one"}, {"d1": placed(1)})
        one.advance("9-0", {"inbox": b"two"}, {"d1": placed(2)})
        with pytest.raises(Overtaken, match="is at 9-0, expected 0-0"):
            other.advance("5-0", {"inbox": b"one"}, {"d1": placed(1)})
        assert (other.position, other.arms(), other.rows(["d1"])) == ("9-0", {"inbox": b"two"}, {"d1": placed(2)})
