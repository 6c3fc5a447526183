"""Errors that a client sees, in OpenAI's shape."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cluster.archive import Damaged
from cluster.connection import UNAVAILABLE
from services.adapters.metadata import AdapterUnavailable, InvalidAdapter
from services.engine.base import InvalidPrompt, InvalidSchema
from services.model.report import ReplicaLost
from services.routing.episodes import NoArm, OtherCoordinates
from services.routing.journal import Full
from services.schemas import UNION_TAGS

log = logging.getLogger(__name__)
T = TypeVar("T")


class Problem(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: Problem


class ApiError(HTTPException):
    """An error with a status, the field it is about, and a message that names the value and what was expected."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int = 0
    ) -> None:
        super().__init__(status, message, {"Retry-After": str(retry_after_s)} if retry_after_s else None)
        self.param = param
        self.code = code

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON body."""
        return {"error": {"message": self.detail, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def kind(self) -> str:
        """OpenAI's error type for the status."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        return kinds.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")


def answer_errors(app: FastAPI) -> None:
    """Let the application answer whatever goes wrong in OpenAI's shape."""

    def respond(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body, error.status_code, headers=error.headers)

    def handler(convert: Callable[[Any], ApiError]) -> Callable[[Request, Any], Awaitable[JSONResponse]]:
        async def handle(_: Request, error: Any) -> JSONResponse:
            return respond(convert(error))

        return handle

    def told(error: Exception) -> ApiError:
        known = known_error(error)
        assert known
        return known

    def http_error(error: HTTPException) -> ApiError:
        return error if isinstance(error, ApiError) else ApiError(error.status_code, str(error.detail))

    def failure(error: Exception) -> ApiError:
        log.error("a request failed", exc_info=error)
        return ApiError(500, "the request failed, the log of the service says why", code="internal_error")

    async def validation_error(request: Request, error: Any) -> JSONResponse:
        return respond(_validation_error(request, error))

    app.exception_handler(RequestValidationError)(validation_error)
    for kind in _KNOWN:
        app.exception_handler(kind)(handler(told))
    app.exception_handler(HTTPException)(handler(http_error))
    app.exception_handler(Exception)(handler(failure))


_KNOWN = (
    InvalidPrompt, NoArm, OtherCoordinates, InvalidAdapter, AdapterUnavailable, ReplicaLost, Damaged, *UNAVAILABLE
)  # fmt: skip


def known_error(error: Exception) -> ApiError | None:
    """What a client is told of an error that the service knows of; None for any other."""
    match error:
        case InvalidSchema():
            return invalid("response_format.json_schema.schema", str(error))
        case InvalidPrompt():
            return ApiError(400, str(error), param="messages", code="invalid_value")
        case NoArm():
            return ApiError(409, f"model: {error}", param="model", code="no_arm")
        case OtherCoordinates():
            return ApiError(409, f"episode_id: {error}", param="episode_id", code="other_coordinates")
        case InvalidAdapter():
            return ApiError(400, str(error), param="name", code="invalid_adapter")
        case AdapterUnavailable():
            return ApiError(503, str(error), param="model", code="adapter_unavailable", retry_after_s=1)
        case ReplicaLost():
            return ApiError(503, f"{error}: try again", code="replica_lost", retry_after_s=1)
        case Damaged():
            return ApiError(503, f"the archive: {error}", code="archive_damaged", retry_after_s=60)
        case _ if isinstance(error, UNAVAILABLE):
            what = str(error) if isinstance(error, Full) else "the store is away, nothing was lost: try again"
            return ApiError(503, what, code="store_away", retry_after_s=1)
    return None


def _validation_error(request: Request, error: RequestValidationError) -> ApiError:
    """The first of the faults, with the field's path, what was found, and what was expected."""
    fault = error.errors()[0]
    if isinstance(error.body, bytes):  # FastAPI reads nothing but JSON, and that only where it is announced
        found = repr(request.headers.get("content-type", ""))
        return ApiError(415, f"content-type: {found}, expected 'application/json'", code="invalid_content_type")
    if fault["type"] == "json_invalid":
        reason = f"not JSON at character {fault['loc'][-1]}: {fault['ctx']['error']}"
        return ApiError(400, f"body: {reason}", param="body", code="invalid_json")
    field = ".".join(str(part) for part in fault["loc"][1:] if part not in UNION_TAGS) or "body"
    message = fault["msg"].removeprefix("Value error, ")
    found = "" if fault["type"] in ("missing", "value_error") else f"{repr(fault.get('input'))[:80]}: "
    return ApiError(400, f"{field}: {found}{message}", param=field, code="invalid_value")


def found(value: T | None, field: str, name: str | None) -> T:
    """The value; ApiError 404 where there is none, which names the field and what was asked for."""
    if value is None:
        raise ApiError(404, f"{field}: {name!r} is unknown", param=field, code="not_found")
    return value


def invalid(field: str, message: str) -> ApiError:
    """A 400 about one field of the request."""
    return ApiError(400, f"{field}: {message}", param=field, code="invalid_value")
