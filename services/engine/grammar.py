"""Answers that are JSON of a schema: which tokens may come next, by llguidance."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer

from services.engine.base import InvalidSchema
from services.engine.schema_check import fault

_KEPT = 32
_OPTIONS: Any = {"whitespace_flexible": True, "whitespace_pattern": r"[ \n]{1,32}", "lenient": False}
"""Some white space, since models like to indent, but never without end. A keyword that cannot be kept is an error."""


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema as the engine takes it. ValueError: answers cannot be held to it, and why. Takes a while at first."""
    text = json.dumps(schema)
    if found := _fault(text):
        raise ValueError(found)
    return text


@lru_cache(_KEPT)
def _fault(schema: str) -> str:
    return fault(_grammar(schema))


def _grammar(schema: str) -> str:
    return LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)


class Grammar:
    """Where one answer stands in its schema."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """bool [vocabulary]: tokens that may come next. InvalidSchema: the schema takes too much to follow."""
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise InvalidSchema(self._matcher.get_error())
        bits = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little", count=vocabulary)
        return torch.from_numpy(bits).bool()

    def take(self, token: int) -> None:
        """Go on with one of the tokens that were allowed."""
        self._matcher.consume_token(token)

    def copy(self) -> "Grammar":
        """The same place, for another answer."""
        return Grammar(self._matcher.deep_copy())


class Grammars:
    """Schemas compiled for one vocabulary, the latest kept: agents send the same one again and again."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = Lock()
        self._compiled: OrderedDict[str, Grammar] = OrderedDict()

    def start(self, schema: str) -> Grammar:
        """The beginning of an answer. InvalidSchema: over these tokens it takes more than `schema_text` found."""
        with self._lock:
            if schema not in self._compiled:
                self._compiled[schema] = self._compile(schema)
                if len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(schema)
            return self._compiled[schema].copy()

    def _compile(self, schema: str) -> Grammar:
        matcher = LLMatcher(self._tokenizer, _grammar(schema))
        if matcher.is_error():
            raise InvalidSchema(matcher.get_error())
        return Grammar(matcher)
