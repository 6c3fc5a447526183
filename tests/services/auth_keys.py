"""Keys for tests: the secret of a key is its name behind a prefix."""

from typing import Any

from services.edge.auth import key_hash


def keys(*names: str, scopes: tuple[str, ...] = ("infer", "feedback", "admin"), **more: Any) -> list[dict[str, Any]]:
    """Entries for `auth.keys`."""
    return [{"name": name, "sha256": key_hash(f"pm-{name}"), "scopes": scopes, **more} for name in names]


def bearer(name: str) -> str:
    """The Authorization header of a key."""
    return f"Bearer pm-{name}"
