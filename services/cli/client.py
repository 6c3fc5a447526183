"""A client of a running service, for the command line and the demo."""

import base64
from pathlib import Path
from typing import Any, Self

import httpx


class ServiceError(RuntimeError):
    """The service refused a request or cannot be reached; the message says what it said."""


class Client:
    """Calls the HTTP API of Pointsman at `url`, with a bearer key if there is one."""

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = 60) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
        except httpx.InvalidURL as error:
            raise ServiceError(f"{url!r} is no URL ({error}), expected one such as http://127.0.0.1:8000") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a GET. Raises ServiceError."""
        return self._call("GET", path, params={name: value for name, value in query.items() if value is not None})

    def post(self, path: str, body: Any) -> Any:
        """The JSON of a POST. Raises ServiceError."""
        return self._call("POST", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        """The JSON of a PATCH. Raises ServiceError."""
        return self._call("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        """The JSON of a DELETE. Raises ServiceError."""
        return self._call("DELETE", path)

    def download(self, path: str, to: Path) -> int:
        """Write the body of a GET to a file, which is there whole or not at all; its size. Raises ServiceError."""
        part = to.with_name(f"{to.name}.part")
        if not to.parent.is_dir():
            raise ServiceError(f"{to}: no such directory {to.parent}, expected one that is there")
        try:
            with self._http.stream("GET", path) as response, part.open("wb") as file:
                if not response.is_success:
                    response.read()
                    raise ServiceError(_message(response))
                for data in response.iter_bytes():
                    file.write(data)
            return part.replace(to).stat().st_size
        except httpx.HTTPError as error:
            raise ServiceError(f"{self._url}{path} broke off ({error})") from None
        finally:
            part.unlink(missing_ok=True)

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            response = self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise ServiceError(f"{self._url} cannot be reached ({error}); is `pointsman serve` running?") from None
        if not response.is_success:
            raise ServiceError(_message(response))
        try:
            return response.json()
        except ValueError:
            raise ServiceError(f"{self._url} does not speak JSON: {response.text[:80]!r}; is it Pointsman?") from None


def user_message(text: str, image: Path | None = None) -> dict[str, Any]:
    """A user turn in OpenAI's format; the image file becomes a data URL."""
    if image is None:
        return {"role": "user", "content": text}
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}.get(image.suffix.lower(), "png")
    url = f"data:image/{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return {"role": "user", "content": parts}


def _message(response: httpx.Response) -> str:
    try:
        return f"{response.status_code}: {response.json()['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code}: {response.text[:200]}"
