"""The reference page of the API says what the application does."""

import re
from pathlib import Path
from typing import Any

import pytest

from services.cli.api_reference import api_markdown, api_schema
from services.cli.schema_words import anchor, kind

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
SCHEMA = api_schema()


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["paths"][path][method]
    return found


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == api_markdown(SCHEMA), "run: pointsman api > docs/api.md"


def test_every_link_leads_to_a_heading_and_no_heading_comes_twice() -> None:
    page = PAGE.read_text()
    headings = [anchor(line.lstrip("# ")) for line in page.splitlines() if line.startswith("#")]
    assert len(set(headings)) == len(headings)
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(headings)


@pytest.mark.parametrize(
    ("method", "path", "scopes"),
    [
        ("post", "/v1/chat/completions", ["infer"]),
        ("post", "/v1/feedback", ["feedback"]),
        ("get", "/v1/bandit", ["inspect"]),
        ("post", "/v1/mode", ["admin"]),
    ],
)
def test_the_schema_says_which_scope_a_route_asks_for(method: str, path: str, scopes: list[str]) -> None:
    assert operation(method, path)["security"] == [{"key": scopes}]
    assert SCHEMA["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}


def test_what_needs_no_key_is_operations_alone() -> None:
    every = [(path, op) for path, ops in SCHEMA["paths"].items() for op in ops.values()]
    assert {path for path, op in every if "security" not in op} == {"/healthz", "/readyz", "/metrics"}


def test_errors_are_described_as_they_are_sent() -> None:
    responses = operation("post", "/v1/feedback")["responses"]
    assert set(responses) == {"200", "default"}
    assert responses["default"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorBody"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, "integer, ≥ 1 or null"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, "number, > 0, ≤ 1"),
        (
            {"type": "array", "items": {"$ref": "#/components/schemas/Some"}, "minItems": 1},
            "list of [Some](#some), not empty",
        ),
        ({"type": "array", "items": {"type": "string", "maxLength": 9}}, "list of (string, at most 9 characters)"),
        ({"type": "array", "items": {}, "maxItems": 0}, "list of any, empty"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number"),
        ({"enum": ["a", "b"], "type": "string"}, '`"a"` or `"b"`'),
        ({}, "any"),
    ],
)
def test_schemas_in_words(schema: dict[str, Any], words: str) -> None:
    assert kind(schema) == words
