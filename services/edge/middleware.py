"""What happens to every request before its handler: the size of the body, and metrics."""

import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.edge.errors import ApiError
from services.edge.metrics import Metrics


class BodyLimit:
    """Refuses a body of more than `limit` bytes with 413, announced or not, without reading it to the end."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise self._too_large(f"more than {self._limit}")
            return message

        announced = dict(scope["headers"]).get(b"content-length", b"0").decode("latin-1")
        if announced.isdecimal() and int(announced) > self._limit:
            error = self._too_large(announced)
            await JSONResponse(error.body, error.status_code)(scope, receive, send)
            return
        await self._app(scope, counted, send)

    def _too_large(self, size: str) -> ApiError:
        return ApiError(413, f"body: {size} bytes, expected at most {self._limit}", code="body_too_large")


class Measured:
    """Counts requests by route and status, and the seconds until their responses started."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        def count() -> None:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.latency.labels(route).observe(time.perf_counter() - began)

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                count()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            if not status:
                status = 500
                count()
