"""What every answer tells a browser: believe the content type, embed us nowhere, run nothing of others."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE = f"{_NOTHING}; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'"
_FOREIGN = ("/docs", "/redoc")  # FastAPI's pages, which load their scripts from elsewhere


class SecurityHeaders:
    """Adds them to every response; the dashboard's page may load what lies beside it, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        policy = _content_policy(scope["path"])

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_ALWAYS)
                if policy:
                    headers["content-security-policy"] = policy
            await send(message)

        await self._app(scope, receive, guarded)


def _content_policy(path: str) -> str | None:
    if path.startswith(_FOREIGN):
        return None
    return _PAGE if path == "/" else _NOTHING
