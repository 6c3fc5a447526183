"""Who calls: bearer keys and their scopes."""

import hashlib
import hmac
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, get_args

from fastapi import Request, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase

from cluster.settings import AuthSettings, Scope, Settings
from services.edge.errors import ApiError
from services.edge.json_body import JsonRequest
from services.edge.rates import Rates


class Caller(NamedTuple):
    """Somebody who may do what the scopes say."""

    name: str
    scopes: frozenset[Scope]
    tenant: str | None = None
    arms: frozenset[str] = frozenset()

    def allowed(self, arms: tuple[str, ...], current: Callable[[str], str]) -> tuple[str, ...]:
        """Those of `arms` that may serve this caller. Raises ApiError 403 if none may.

        `current` tells what an arm is called now: keys are not told of a renaming.
        """
        allowed = self.among(arms, current)
        if arms and not allowed:
            message = (
                f"key {self.name!r} may not use {', '.join(arms)}, expected some of {', '.join(sorted(self.arms))}"
            )
            raise ApiError(403, message, param="model", code="arm_not_allowed")
        return allowed

    def among(self, arms: tuple[str, ...], current: Callable[[str], str]) -> tuple[str, ...]:
        """Those of `arms` that may serve this caller."""
        own = set(map(current, self.arms))
        return tuple(arm for arm in arms if not own or arm in own)

    def named_tenant(self, claimed: str | None) -> str | None:
        """The tenant of a request: the key's own, else what the request says. Raises ApiError 403 for another's."""
        if self.tenant and claimed and claimed != self.tenant:
            message = f"metadata.tenant: {claimed!r}, but the key {self.name!r} is of tenant {self.tenant!r}"
            raise ApiError(403, message, param="metadata.tenant", code="other_tenant")
        return self.tenant or claimed

    def episode(self, name: str) -> str:
        """An episode's name in the log, where those of a tenant's keys begin with the tenant: `tenant:name`."""
        return f"{self.tenant}:{name}" if self.tenant else name

    def sees(self, tenant: str | None) -> bool:
        """Whether decisions of a tenant are this caller's to see."""
        return self.tenant in (None, tenant)


ANONYMOUS = Caller("anonymous", frozenset(get_args(Scope)))


def unknown_arms(settings: AuthSettings, is_known: Callable[[str], bool]) -> str | None:
    """What keys name arms that there are not, in words; None where all is well."""
    unknown = {key.name: sorted(arm for arm in key.arms if not is_known(arm)) for key in settings.keys}
    said = [f"{name!r} names {', '.join(arms)}" for name, arms in unknown.items() if arms]
    return f"auth.keys: {'; '.join(said)}, expected arms that there are" if said else None


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
        if scope not in caller.scopes and not (scope == "inspect" and "admin" in caller.scopes):
            raise ApiError(403, f"key {caller.name!r} lacks the scope {scope!r}", code="missing_scope")
        return caller

    def _find(self, token: str) -> Caller | None:
        digest = key_hash(token)
        matches = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return next((Caller(key.name, key.scopes, key.tenant, key.arms) for key in matches), None)


class _Needs(SecurityBase):
    """A dependency: the caller, who has the scope. The OpenAPI schema tells of it, as a bearer key."""

    model = HTTPBearer()
    scheme_name = "key"

    def __init__(self, gatekeeper: Gatekeeper, scope: Scope, *, for_all: bool) -> None:
        self._gatekeeper = gatekeeper
        self._scope = scope
        self._for_all = for_all

    async def __call__(self, request: Request) -> Caller:  # a plain function would wait for a thread
        return self.caller(request)

    def caller(self, request: Request) -> Caller:
        """Raises ApiError 401 or 403."""
        caller = self._gatekeeper.caller(request.headers.get("authorization"), self._scope)
        if self._for_all and caller.tenant:
            message = (
                f"key {caller.name!r} is of tenant {caller.tenant!r}, expected a key of no tenant for what all share"
            )
            raise ApiError(403, message, code="tenant_key")
        return caller


def key_first(rates: Rates) -> type[APIRoute]:
    """Routes that ask who calls, and how often, before they read the body: FastAPI alone would parse it first."""

    class KeyFirst(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            needs = [each.call for each in self.dependant.dependencies if isinstance(each.call, _Needs)]

            async def keyed(request: Request) -> Response:
                for needed in needs:
                    rates.count(needed.caller(request).name)
                return await handle(JsonRequest(request.scope, request.receive))

            return keyed

    return KeyFirst


def key_hash(token: str) -> str:
    """What the settings store of a key."""
    return hashlib.sha256(token.encode()).hexdigest()


def needs(settings: Settings, scope: Scope, *, for_all: bool = False) -> Any:
    """A dependency of a route: its caller, who has the scope. The route is one of `key_first`.

    What a route changes `for_all` tenants is not for the keys of one of them.
    """
    return Security(_Needs(Gatekeeper(settings.auth), scope, for_all=for_all), scopes=[scope])
