"""What is asked and what is answered, without the bytes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Protocol

from msgspec import Struct, field

from agent.core.errors import RefusedError

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


class Answer(Struct, frozen=True):
    """A whole answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = JSON


class NotPermittedError(RefusedError):
    """Whoever asks may not ask this."""


class Stream(Protocol):
    """The body of an answer that goes on."""

    async def write(self, chunk: bytes) -> None:
        """Send this, at the client's pace; ConnectionError where it has gone."""


class Peer(Struct, frozen=True):
    """Who asks, and by which address of ours."""

    uid: int | None = None
    """Of the process that connected, where the kernel says so: on a Unix socket."""
    is_vouched: bool = False
    """Its certificate is signed by the authority that the policy names."""
    our_address: str | None = None
    """The IP address that it connected to."""


class Request(Struct, frozen=True):
    """A whole request. ``words`` are what stands in the path where its route has a name in braces."""

    method: str
    path: str
    peer: Peer
    open_stream: Callable[[str], Awaitable[Stream]]
    """Begins an answer of this content type, which ends where the request's handler does."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """By names in lower case; of equal names the last."""
    body: bytes = b""
    route: str | None = None
    """The path of its route, names in braces as they stand there; None where there is none."""
    words: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable["Answer | None"]]
"""Returns the answer, or None where it was streamed."""


def answer_json(content: Any, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return an answer of one JSON document."""
    return Answer(json.dumps(content).encode(), status)


def answer_text(status: HTTPStatus) -> Answer:
    """Return an answer that says its status and no more."""
    return Answer(f"{status.value}: {status.phrase}".encode(), status, TEXT)
