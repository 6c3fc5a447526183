"""Who calls: bearer keys and their scopes."""

import hashlib
import hmac
from typing import Any, NamedTuple, get_args

from fastapi import Depends, Request

from cluster.settings import AuthSettings, Scope, Settings
from services.edge.errors import ApiError


class Caller(NamedTuple):
    """Somebody who may do what the scopes say."""

    name: str
    scopes: frozenset[Scope]


ANONYMOUS = Caller("anonymous", frozenset(get_args(Scope)))


class Gatekeeper:
    """Finds the caller of a request. Without configured keys everybody is `anonymous` and may do everything."""

    def __init__(self, settings: AuthSettings) -> None:
        self._keys = settings.keys

    def caller(self, authorization: str | None, scope: Scope) -> Caller:
        """The caller behind an Authorization header.

        Raises ApiError 401 for a missing or unknown key and 403 for a key without the scope.
        """
        if not self._keys:
            return ANONYMOUS
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise ApiError(401, "missing key, expected the header 'Authorization: Bearer <key>'", code="missing_key")
        caller = self._find(token.strip())
        if caller is None:
            raise ApiError(401, "unknown key", code="invalid_key")
        if scope not in caller.scopes:
            raise ApiError(403, f"key {caller.name!r} lacks the scope {scope!r}", code="missing_scope")
        return caller

    def _find(self, token: str) -> Caller | None:
        digest = key_hash(token)
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return Caller(matches[0].name, matches[0].scopes) if matches else None


def key_hash(token: str) -> str:
    """What the settings store of a key."""
    return hashlib.sha256(token.encode()).hexdigest()


def needs(settings: Settings, scope: Scope) -> Any:
    """A dependency of a route: its caller, who has the scope."""
    gatekeeper = Gatekeeper(settings.auth)

    def caller(request: Request) -> Caller:
        return gatekeeper.caller(request.headers.get("authorization"), scope)

    return Depends(caller)
