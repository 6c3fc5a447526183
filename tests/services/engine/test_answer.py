"""The growing answer: pieces add up to the text, and it ends where it should."""

import pytest

from services.engine.answer import Answer
from services.engine.base import Delta, Sampling, TokenLogprob

STOP = 0


def decode(ids: list[int]) -> str:
    """Tokens are bytes; what is no character yet shows as the replacement character, as tokenizers do."""
    return bytes(ids).decode(errors="replace")


def answer(text: str, *stop: str, most: int = 100, ends: bool = True) -> tuple[list[Delta], Answer]:
    """The deltas of a text's bytes, until the answer is finished."""
    growing = Answer(7, Sampling(max_tokens=most, stop=stop), frozenset({STOP}), decode)
    deltas = []
    for token in [*text.encode(), *([STOP] if ends else [])]:
        deltas.append(growing.add(token))
        if growing.finished:
            break
    return deltas, growing


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def told(text: str, *stop: str, most: int = 100) -> list[tuple[str, bytes]]:
    """What each delta says of an answer's bytes: its text, and the tokens that it tells the log-probability of."""
    growing = Answer(7, Sampling(most, stop=stop, logprobs=0), frozenset({STOP}), decode)
    said = []
    for token in [*text.encode(), STOP]:
        delta = growing.add(token, TokenLogprob(bytes([token]), -1.0))
        said.append((delta.text, b"".join(each.token for each in delta.logprobs)))
        if growing.finished:
            break
    return said


def test_what_is_told_of_tokens_goes_out_with_their_text() -> None:
    assert told("ab") == [("a", b"a"), ("b", b"b"), ("", b"")]
    euro = "€".encode()
    assert told("a€b") == [("a", b"a"), ("", b""), ("", b""), ("€", euro), ("b", b"b"), ("", b"")]


def test_nothing_is_told_of_a_stop_string_or_of_a_stop_token() -> None:
    said = told("go</call>on", "</call>")
    assert "".join(text for text, _ in said) == "go"
    assert b"".join(tokens for _, tokens in said) == b"go"
    assert all(len(text) == len(tokens) for text, tokens in said)
    assert told("x</", "</call>")[-1] == ("x</", b"x</")


def test_all_is_told_at_the_limit() -> None:
    assert told("a€", most=2)[-1] == ("\ufffd", "€".encode()[:1])


def test_every_delta_names_its_choice() -> None:
    growing = Answer(7, Sampling(2), frozenset({STOP}), decode, choice=3)
    assert [growing.add(token).choice for token in b"ab"] == [3, 3]


def test_pieces_add_up_and_the_last_one_counts() -> None:
    deltas, growing = answer("click")
    assert [delta.text for delta in deltas] == ["c", "l", "i", "c", "k", ""]
    assert [delta.finish_reason for delta in deltas] == [None] * 5 + ["stop"]
    assert (deltas[-1].prompt_tokens, deltas[-1].completion_tokens) == (7, 6)
    assert growing.finished == "stop"


def test_the_limit_ends_it() -> None:
    deltas, growing = answer("click", most=3)
    assert (text_of(deltas), growing.finished, deltas[-1].completion_tokens) == ("cli", "length", 3)


def test_a_stop_token_at_the_limit_is_a_stop() -> None:
    _, growing = answer("abc", most=4)
    assert growing.finished == "stop"


def test_a_character_comes_when_it_is_whole() -> None:
    deltas, _ = answer("aé€b")
    assert [delta.text for delta in deltas] == ["a", "", "é", "", "", "€", "b", ""]


def test_a_character_that_is_never_whole_is_shown_at_the_end() -> None:
    deltas, _ = answer("a€", most=2)
    assert text_of(deltas) == "a�"


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("go</call>on", ("</call>",), "go"),
        ("</call>on", ("</call>",), ""),
        ("go</call>", ("</call>",), "go"),
        ("one two three", ("three", "two"), "one "),
        ("aaab", ("ab",), "aa"),
        ("x</cal", ("</call>",), "x</cal"),
        ("<</call>", ("</call>",), "<"),
        ("été!", ("té",), "é"),
    ],
)
def test_stop_strings_end_it_before_themselves(text: str, stop: tuple[str, ...], kept: str) -> None:
    deltas, growing = answer(text, *stop)
    assert text_of(deltas) == kept
    assert growing.finished == "stop"


def test_no_part_of_a_stop_string_gets_out_early() -> None:
    deltas, _ = answer("go</call>on", "</call>")
    sent = ""
    for delta in deltas:
        sent += delta.text
        assert "go".startswith(sent)


def test_text_is_held_back_no_longer_than_a_stop_string() -> None:
    deltas, _ = answer("abcdef", "xyz", ends=False)
    assert text_of(deltas) == "abcd"
