"""JSON schemas over the embedded model's own tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.settings import ModelSettings
from services.engine.base import Sampling
from services.engine.grammar import Grammar, schema_text
from services.engine.loading import load
from services.engine.sampler import Sampler
from services.engine.vocabulary import Vocabulary

SIZE = 640  # more than there are tokens, as real checkpoints have it
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "name": {"enum": ["left", "right"]}},
    "required": ["x", "name"],
    "additionalProperties": False,
}
BROWSER = {  # what browser agents send: references, alternatives, lists
    "$defs": {
        "Click": {"type": "object", "properties": {"index": {"type": "integer"}}, "required": ["index"]},
        "Wait": {"type": "object", "properties": {"seconds": {"type": "number"}}, "required": ["seconds"]},
    },
    "type": "object",
    "properties": {
        "thinking": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "action": {"type": "array", "items": {"anyOf": [{"$ref": "#/$defs/Click"}, {"$ref": "#/$defs/Wait"}]}},
    },
    "required": ["thinking", "action"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load(ModelSettings().path).tokenizer


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Any) -> Vocabulary:
    return Vocabulary(tokenizer, SIZE)


def fits(grammar: Grammar, ids: list[int], end: int) -> bool:
    """Whether the tokens may follow each other, and the answer may end there."""
    for token in ids:
        if not grammar.allowed(SIZE)[token]:
            return False
        grammar.take(token)
    return bool(grammar.allowed(SIZE)[end])


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        (POINT, '{"x": 3, "name": "left"}', True),
        (POINT, '{\n  "x": -3,\n  "name": "right"\n}', True),
        (POINT, '{"x":3,"name":"left"}', True),
        (POINT, '{"x": 3.5, "name": "left"}', False),
        (POINT, '{"x": 3, "name": "up"}', False),
        (POINT, '{"x": 3}', False),
        (POINT, '{"x": 3, "name": "left"} ok', False),
        (POINT, '{"x": 3, "name": "left"', False),
        (BROWSER, '{"thinking": "I see é", "action": [{"index": 1}, {"seconds": 0.5}]}', True),
        (BROWSER, '{"thinking": null, "action": []}', True),
        (BROWSER, '{"thinking": 7, "action": []}', False),
        ({"type": "object"}, '{"a": [1, {"b": null}]}', True),
        ({"type": "object"}, "[1]", False),
        ({}, "[1]", True),
    ],
)
def test_what_fits_may_be_said(
    vocabulary: Vocabulary, tokenizer: Any, schema: dict[str, Any], text: str, expected: bool
) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    grammar = vocabulary.grammars.start(schema_text(schema))
    assert fits(grammar, ids, tokenizer.eos_token_id) is expected


def test_control_tokens_and_what_is_no_token_are_never_allowed(vocabulary: Vocabulary, tokenizer: Any) -> None:
    allowed = vocabulary.grammars.start(schema_text({})).allowed(SIZE)
    assert len(allowed) == SIZE
    assert not allowed[len(tokenizer) :].any()
    assert not allowed[tokenizer.all_special_ids].any()
    assert 10 < allowed.sum() < len(tokenizer)


def test_white_space_has_an_end(vocabulary: Vocabulary, tokenizer: Any) -> None:
    """A model that likes spaces best must say something in the end."""
    space = tokenizer(" ", add_special_tokens=False)["input_ids"]
    grammar = vocabulary.grammars.start(schema_text(POINT))
    assert not fits(grammar, tokenizer("{")["input_ids"] + 40 * space, space[0])


def test_answers_do_not_share_their_place(vocabulary: Vocabulary, tokenizer: Any) -> None:
    first, second = (vocabulary.grammars.start(schema_text(POINT)) for _ in range(2))
    (brace,) = tokenizer("{")["input_ids"]
    first.take(brace)
    third = first.copy()
    assert second.allowed(SIZE)[brace]
    assert torch.equal(first.allowed(SIZE), third.allowed(SIZE))
    assert not third.allowed(SIZE)[brace]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"type": "string", "pattern": "(?<=a)b"}, "look-behind"),
        ({"type": "integer", "multipleOf": 1234567, "minimum": 10**17}, "fuel exhausted"),  # found when compiled
        ({"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(40)]}, "takes more than 2 s"),
    ],
)
def test_what_cannot_be_kept_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schema_text(schema)


def test_a_check_that_does_not_run_is_no_fault_of_the_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "llguidance.py").write_text("raise ImportError('not installed here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="not installed here"):
        schema_text({"type": "object", "title": "seen by no other test"})


@pytest.mark.parametrize("sampling", [Sampling(1), Sampling(1, temperature=1.5, seed=3, frequency_penalty=0.2)])
def test_any_logits_make_an_answer_that_fits(vocabulary: Vocabulary, tokenizer: Any, sampling: Sampling) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["xyz", 1, None]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    random = torch.Generator().manual_seed(1)
    sampler = Sampler(sampling, vocabulary.grammars.start(schema_text(schema)))
    said: list[int] = []
    while not said or said[-1] != tokenizer.eos_token_id:
        logits = torch.randn(SIZE, generator=random, dtype=torch.bfloat16)
        said.append(sampler.draw(logits))
        assert len(said) < 300
    assert json.loads(tokenizer.decode(said[:-1]))["a"] in ("xyz", 1, None)


def test_log_probabilities_are_the_models(vocabulary: Vocabulary, tokenizer: Any) -> None:
    logits = torch.full((SIZE,), -torch.inf)
    a, b, euro = (tokenizer(text)["input_ids"] for text in ("a", "b", "€"))
    logits[a[0]], logits[b[0]] = 1.0, 0.0
    told = vocabulary.told(logits, b[0], 2)
    assert told.token == b"b"
    assert told.logprob == pytest.approx(-1.3132617)
    assert [token for token, _ in told.top] == [b"a", b"b"]
    assert told.top[1][1] == told.logprob
    assert b"".join(vocabulary.told(logits, token, 0).token for token in euro) == "€".encode()
