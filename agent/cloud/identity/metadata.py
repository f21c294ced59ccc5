"""The instance metadata service, asked over HTTP: version 2, with a session token. Not what its answers mean.

Imports little: a process of its own asks by this where the daemon has no network, and HTTP is for that alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

if TYPE_CHECKING:
    from http.client import HTTPConnection

_SESSION_TTL_S = "300"
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105 -- the name of a header
MAX_ANSWER_BYTES = 1 << 20


class MetadataAnswer(Struct, frozen=True):
    """What the service has at a path. ``status`` 0: it did not answer, for this ``reason``."""

    status: int
    reason: str
    content: bytes

    def take(self) -> bytes:
        """Return the content; OSError where it did not give any."""
        if self.status != HTTPStatus.OK:
            raise OSError(f"{self.status or ''} {self.reason}".strip())
        return self.content


Fetch = Callable[[str, Sequence[str], float], Awaitable[tuple[MetadataAnswer, ...]]]
"""Asks an endpoint for paths, with so many seconds. Raises OSError or ValueError."""


async def fetch_here(endpoint: str, paths: Sequence[str], timeout_s: float) -> tuple[MetadataAnswer, ...]:
    """Ask in a thread of this process; ``timeout_s`` is for all together, too."""
    import anyio  # noqa: PLC0415 -- no use to the process that only asks
    import anyio.to_thread  # noqa: PLC0415

    with anyio.fail_after(timeout_s):
        return await anyio.to_thread.run_sync(
            partial(fetch_paths, endpoint, paths, timeout_s), abandon_on_cancel=True
        )


def fetch_paths(endpoint: str, paths: Sequence[str], timeout_s: float) -> tuple[MetadataAnswer, ...]:
    """Return what is at each path. Blocks; OSError or ValueError where there is no session.

    By the standard library's client: the start waits for this where no file tells who the node is.
    """
    from http.client import HTTPConnection  # noqa: PLC0415

    where = urlsplit(endpoint)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=timeout_s)
    try:
        token = _request(
            connection, "PUT", f"{where.path}/latest/api/token", {_TTL_HEADER: _SESSION_TTL_S}
        ).take()
        headers = {_TOKEN_HEADER: token.decode("ascii", "replace").strip()}
        return tuple(_try_request(connection, f"{where.path}{path}", headers) for path in paths)
    finally:
        connection.close()


def _try_request(connection: HTTPConnection, path: str, headers: dict[str, str]) -> MetadataAnswer:
    try:
        return _request(connection, "GET", path, headers)
    except OSError as error:
        connection.close()  # what is asked next is not answered by the rest of this
        return MetadataAnswer(0, str(error), b"")


def _request(connection: HTTPConnection, method: str, path: str, headers: dict[str, str]) -> MetadataAnswer:
    """Make one request. Raises OSError with a reason, also where what answers does not speak HTTP."""
    from http.client import HTTPException  # noqa: PLC0415

    try:
        connection.request(method, path, headers=headers)
        with connection.getresponse() as response:
            return MetadataAnswer(response.status, response.reason, response.read(MAX_ANSWER_BYTES))
    except (HTTPException, OSError) as error:
        raise OSError(str(error) or type(error).__name__) from error
