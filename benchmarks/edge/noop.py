"""The peer: a Serve application of the same shape that does nothing.

Its ingress reads the body as bytes, asks the deployment behind it twice, once for features and once for a stream of one
piece, with the body as argument, and answers with as many bytes as the service does. It parses, checks, decides and
logs nothing. The service cannot do with fewer calls, since what it decides on comes from the first of them, so a peer
that asks twice shows what Serve costs and what is ours; one that asks once is measured too.
"""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_CPU = 0.01  # as the service's own replicas


class Inner:
    """Answers at once."""

    def __init__(self, feature_bytes: int, answer: str) -> None:
        self._features = bytes(feature_bytes)
        self._answer = answer

    async def encode(self, body: bytes) -> bytes:  # noqa: ARG002 - it is carried, no more
        return self._features

    async def generate(self, body: bytes) -> AsyncGenerator[str, None]:  # noqa: ARG002 - it is carried, no more
        yield self._answer


class Ingress:
    """Passes the body on, and says as much as the service does. `?calls=1` leaves out the first of two calls."""

    def __init__(self, inner: "DeploymentHandle[Inner]", answer_bytes: int) -> None:
        self._inner: Any = inner
        self._answer = b" " * answer_bytes

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        if request.query_params.get("calls") != "1":
            await self._inner.encode.remote(body)
        async for _ in self._inner.options(stream=True).generate.remote(body):
            pass
        return Response(self._answer, media_type="application/json")


def application(feature_bytes: int, answer: str, answer_bytes: int, max_ongoing: int) -> serve.Application:
    """The application, its replicas of the service's size."""
    options: dict[str, Any] = {"max_ongoing_requests": max_ongoing, "ray_actor_options": {"num_cpus": _CPU}}
    inner = serve.deployment(name="Inner", **options)(Inner).bind(feature_bytes, answer)
    return serve.deployment(name="Ingress", **options)(Ingress).bind(inner, answer_bytes)
