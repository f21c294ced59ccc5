"""The connections to Kubernetes' API: none is left open when what it was opened for is given up.

httpx2 forgets a connection whose TLS handshake is cancelled: its socket is open until garbage is collected.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import anyio
import httpx2


class ClosingTransport(httpx2.AsyncHTTPTransport):
    """Closes what a request opened, unless it is answered."""

    def __init__(self, trust: ssl.SSLContext) -> None:
        super().__init__(verify=trust, trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request; its answer's stream holds the connection from then on, and closes it."""
        opened: list[Any] = []

        async def note(event: str, told: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                opened.append(told["return_value"])

        request.extensions["trace"] = note
        try:
            return await super().handle_async_request(request)
        except BaseException:
            with anyio.CancelScope(shield=True):
                for stream in opened:
                    await stream.aclose()
            raise
