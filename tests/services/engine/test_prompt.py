"""What the router looks at in a chat."""

from services.engine.base import Message, Part, Prompt


def user(*parts: str | bytes) -> Message:
    return Message("user", tuple(Part(text=p) if isinstance(p, str) else Part(image=p) for p in parts))


SYSTEM = Message("system", (Part(text="You click."),))
ASSISTANT = Message("assistant", (Part(text="left_click"),))


def test_the_latest_image_and_the_first_instruction() -> None:
    prompt = Prompt((SYSTEM, user(b"one", "open"), ASSISTANT, user("more", b"two"), ASSISTANT, user(b"three")))
    assert prompt.images == [b"one", b"two", b"three"]
    assert prompt.instruction == "open"
    assert prompt.routed == Prompt((user(b"three", "open"),))


def test_the_instruction_is_all_text_of_the_first_user_turn_that_has_any() -> None:
    assert Prompt((user(b"screen"), user("", "open", "the inbox"), user("other"))).instruction == "open\nthe inbox"


def test_a_chat_without_text_or_image() -> None:
    assert Prompt((SYSTEM,)).instruction == ""
    assert Prompt((user("open"),)).routed == Prompt((user("open"),))
    assert Prompt((user(b"screen"),)).routed == Prompt((user(b"screen", ""),))


def test_what_is_routed_is_routed_on_the_same_again() -> None:
    routed = Prompt((user("open", b"one"), user(b"two"))).routed
    assert routed.routed == routed
