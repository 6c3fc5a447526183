"""Data files: what is read, what is refused with its row, and how it is divided."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.training import inspection
from services.training.examples import InvalidData, data_hash, divide, read
from tests.services.images import data_url, encoded, image_message, image_part
from tests.services.training.data import row, rows, write


def test_a_row_becomes_a_prompt_with_what_is_known_of_it(tmp_path: Path) -> None:
    message, image = image_message("open the inbox")
    told = {"adapter": "inbox", "target": "click", "boxes": [[0, 0, 9, 9]], "outcomes": {"base": 0, "inbox": 1}}
    (found,) = read(write(tmp_path / "d.jsonl", [{"messages": [message], "task": "mail", **told}]))
    assert found.prompt.images == [image]
    assert found.prompt.instruction == "open the inbox"
    assert (found.label, found.target, found.boxes, found.task) == ("inbox", "click", ((0, 0, 9, 9),), "mail")
    assert found.outcomes == {"base": 0.0, "inbox": 1.0}


def test_an_image_may_be_a_file_beside_the_data(tmp_path: Path) -> None:
    (tmp_path / "screen.png").write_bytes(encoded())
    message = {"role": "user", "content": [image_part("screen.png"), {"type": "text", "text": "go"}]}
    inline = {"role": "user", "content": [image_part(data_url(encoded())), {"type": "text", "text": "go"}]}
    found = read(write(tmp_path / "d.jsonl", [{"messages": [m], "adapter": "inbox"} for m in (message, inline)]))
    assert found[0].prompt.images == [encoded()]
    assert found[0].key == found[1].key


def test_parquet_says_the_same_as_jsonl(tmp_path: Path) -> None:
    written = rows(6)
    nested = [{**one, "outcomes": {"base": 0.2, "inbox": None if i else 1.0}} for i, one in enumerate(written)]
    text = [{**one, "messages": json.dumps(one["messages"]), "outcomes": '{"base": 0.2}'} for one in written]
    pq.write_table(pa.Table.from_pylist(nested), tmp_path / "nested.parquet")
    pq.write_table(pa.Table.from_pylist(text), tmp_path / "text.parquet")
    expected = read(write(tmp_path / "d.jsonl", written))
    assert [e.key for e in read(tmp_path / "nested.parquet")] == [e.key for e in expected]
    assert [e.outcomes for e in read(tmp_path / "nested.parquet")][:2] == [{"base": 0.2, "inbox": 1.0}, {"base": 0.2}]
    assert data_hash(read(tmp_path / "text.parquet")) == data_hash(expected)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"messages": []}, "row 2: messages"),
        ({**row(1, "inbox"), "adaptor": "inbox"}, "row 2: adaptor: 'inbox'"),
        ({"messages": row(1, "inbox")["messages"]}, "row 2: neither adapter nor target nor outcomes"),
        ({**row(1, "inbox"), "outcomes": {"base": 2}}, "row 2: outcomes.base: 2"),
        ({**row(1, "inbox"), "split": "test"}, "row 2: split: 'test'"),
        ({**row(1, "inbox"), "messages": [{"role": "user", "content": [image_part("gone.png")]}]}, "gone.png"),
        ({**row(1, "inbox"), "messages": [{"role": "wizard", "content": "go"}]}, "row 2: messages.0.role: 'wizard'"),
        (
            {**row(1, "inbox"), "messages": [{"role": "user", "content": [image_part(data_url(b"no image"))]}]},
            "row 2: messages[0].content[0].image_url.url: 8 bytes that are no PNG",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_row(tmp_path: Path, bad: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "d.jsonl", [row(0, "inbox"), bad])
    with pytest.raises(InvalidData, match="1 of 2 rows cannot be used") as refused:
        read(path)
    assert said in str(refused.value)


def test_a_line_that_is_no_json_and_a_file_that_is_no_parquet_are_named(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"messages": \n')
    (tmp_path / "d.parquet").write_text("nothing")
    with pytest.raises(InvalidData, match="row 1: not JSON"):
        read(tmp_path / "d.jsonl")
    pq.write_table(pa.table({"id": ["d1"]}), tmp_path / "log.parquet")
    with pytest.raises(InvalidData, match=r"log\.parquet: no column messages, expected examples .*--from-log"):
        read(tmp_path / "log.parquet")
    with pytest.raises(InvalidData, match=r"d\.parquet: not Parquet"):
        read(tmp_path / "d.parquet")
    with pytest.raises(InvalidData, match="no such file"):
        read(tmp_path / "e.jsonl")


def test_the_split_holds_out_a_share_of_each_adapter_and_tears_nothing_apart(tmp_path: Path) -> None:
    steps = [row(i, "inbox", group=f"episode {i // 2}") for i in range(40)]
    same = [row(99, "claims", group=f"group {i}") for i in range(3)]
    alone = [row(100, "calendar")]
    divided = divide(read(write(tmp_path / "d.jsonl", [*rows(60), *steps, *same, *alone])), 0.25, seed=1)
    for label, n in (("claims", 5), ("inbox", 15)):
        assert sum(e.is_held_out for e in divided if e.label == label) == pytest.approx(n, abs=4)
    side = {e.group: e.split for e in divided}
    assert all(e.split == side[e.group] for e in divided)
    assert len({e.split for e in divided if e.group.startswith("group")}) == 1
    assert {e.split for e in divided} == {"train", "held_out"}
    assert divide(divided, 0.25, seed=9) == divided


def test_the_check_reports_balance_duplicates_and_unreadable_images(tmp_path: Path) -> None:
    broken = encoded(64, 64)[:60]
    message = {"role": "user", "content": [image_part(data_url(broken)), {"type": "text", "text": "go"}]}
    written = [
        *[row(i, "inbox", split="train") for i in range(80)],
        *[row(i, "claims", split="train") for i in range(12)],
        row(0, "inbox", split="held_out"),
        row(3, "inbox", split="train") | {"adapter": "claims"},
        {"messages": [message], "adapter": "claims"},
        {"messages": []},
    ]
    report = inspection.check(write(tmp_path / "d.jsonl", written), 0.2, seed=0)
    assert report.counts["inbox"] == {"train": 80, "held_out": 1}
    assert [fault.partition(":")[0] for fault in report.faults] == ["row 96", "row 95"]
    said = "\n".join(report.warnings)
    assert "inbox has 80 examples" in said
    assert "1 duplicates across the split, the first in rows 1, 93" in said
    assert "1 duplicates under different adapters, the first in rows 4, 94" in said
