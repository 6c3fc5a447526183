"""Images by URL, without lending the service's network to whoever asks.

Only hosts of `limits.image_hosts` are asked. Each is resolved once and the connection goes to the address that was
checked, so that a name cannot point elsewhere between check and use. Addresses that are not public are refused unless
`limits.image_networks` holds them. A redirect is a new URL and passes every check again. Nothing is decompressed, and
no proxy of the environment is used.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urljoin

import httpcore

from cluster.settings import LimitSettings
from services.edge.errors import invalid

_TIMEOUT_S: Final = 10.0
_REDIRECTS: Final = 3
_SCHEMES: Final = ("http", "https")


class RefusedAddress(httpcore.ConnectError):
    """A host of the list that lies at an address which nobody opened."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses and the given networks only, each host resolved by us and once."""

    def __init__(self, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> None:
        self._networks = tuple(networks)
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """A connection to the host's first address; RefusedAddress if any of them may not be reached."""
        addresses = await self._resolve(host, port)
        for address in addresses:
            if not self._is_open(address):
                raise RefusedAddress(f"{host} lies at {address}, which is not public and not in limits.image_networks")
        return await self._backend.connect_tcp(addresses[0], port, *args, **options)

    async def _resolve(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} has no address: {error}") from None
        return [str(address[0]) for *_, address in found]

    def _is_open(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        plain = getattr(ip, "ipv4_mapped", None) or ip
        if any(plain in network for network in self._networks):
            return True
        return plain.is_global and not plain.is_multicast


class ImageFetcher:
    """Fetches images within limits. Every refusal is an ApiError 400 that names the field."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits

    async def fetch(self, field: str, url: str) -> bytes:
        """The bytes behind an http or https URL."""
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._pool() as pool:
                for _ in range(_REDIRECTS + 1):
                    response, body = await self._get(pool, field, self._checked(field, url))
                    if not 300 <= response.status < 400:
                        return self._accepted(field, url, response, body)
                    url = _target(field, url, response)
        except TimeoutError:
            raise invalid(field, f"{url[:80]!r} cannot be fetched: no answer within {_TIMEOUT_S:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise invalid(field, f"{url[:80]!r} cannot be fetched: {error}") from None
        raise invalid(field, f"{url[:80]!r}: more than {_REDIRECTS} redirects")

    def _pool(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(network_backend=CheckedNetwork(self._limits.image_networks))

    def _checked(self, field: str, url: str) -> httpcore.URL:
        """The URL, whose scheme and host are allowed."""
        shown = f"{url[:80]!r}"
        try:
            parsed = httpcore.URL(url)
            host, scheme = parsed.host.decode().lower(), parsed.scheme.decode()
        except (ValueError, TypeError, AttributeError) as error:
            raise invalid(field, f"{shown} is no URL ({error}), expected a data URL") from None
        if scheme not in _SCHEMES or host not in self._limits.image_hosts:
            raise invalid(field, f"{shown}, expected a data URL (limits.image_hosts allows no such host)")
        return parsed

    async def _get(
        self, pool: httpcore.AsyncConnectionPool, field: str, url: httpcore.URL
    ) -> tuple[httpcore.Response, bytes]:
        chunks, size = [], 0
        async with pool.stream(
            "GET", url, headers=[("Accept", "image/*"), ("Accept-Encoding", "identity")]
        ) as response:
            async for chunk in response.aiter_stream():
                chunks.append(chunk)
                size += len(chunk)
                if size > self._limits.body_bytes:
                    raise invalid(field, f"{_shown(url)} is larger than {self._limits.body_bytes} bytes")
        return response, b"".join(chunks)

    def _accepted(self, field: str, url: str, response: httpcore.Response, body: bytes) -> bytes:
        if response.status != 200:
            raise invalid(field, f"{url[:80]!r} cannot be fetched: status {response.status}, expected 200")
        return body


def _target(field: str, url: str, response: httpcore.Response) -> str:
    for name, value in response.headers:
        if name.lower() == b"location":
            return urljoin(url, value.decode("latin-1"))
    raise invalid(field, f"{url[:80]!r} cannot be fetched: status {response.status} without a location")


def _shown(url: httpcore.URL) -> str:
    return repr(bytes(url).decode("latin-1")[:80])
