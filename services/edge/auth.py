"""Who calls: bearer keys and their scopes."""

import hashlib
import hmac
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, get_args

from fastapi import Depends, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

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


class _Needs:
    """A dependency: the caller, who has the scope."""

    def __init__(self, gatekeeper: Gatekeeper, scope: Scope) -> None:
        self._gatekeeper = gatekeeper
        self._scope = scope

    def __call__(self, request: Request) -> Caller:
        return self._gatekeeper.caller(request.headers.get("authorization"), self._scope)


class KeyFirst(APIRoute):
    """A route that asks who calls before it reads the body: FastAPI alone would parse it first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        needed = [dependency.call for dependency in self.dependant.dependencies if isinstance(dependency.call, _Needs)]

        async def keyed(request: Request) -> Response:
            for need in needed:
                need(request)
            return await handle(request)

        return keyed


def key_hash(token: str) -> str:
    """What the settings store of a key."""
    return hashlib.sha256(token.encode()).hexdigest()


def needs(settings: Settings, scope: Scope) -> Any:
    """A dependency of a route: its caller, who has the scope. The route is a `KeyFirst`."""
    return Depends(_Needs(Gatekeeper(settings.auth), scope))
