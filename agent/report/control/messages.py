"""What is asked at the control socket and what is answered, without the bytes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = JSON


class Stream(Protocol):
    """The body of an answer that goes on."""

    async def write(self, chunk: bytes) -> None:
        """Send this, at the client's pace; ConnectionError where it has gone."""


@dataclass(frozen=True)
class Request:
    """A whole request. ``words`` are what stands in the path where its route has a name in braces."""

    method: str
    path: str
    uid: int | None
    """Of the process that connected."""
    open_stream: Callable[[str], Awaitable[Stream]]
    """Begins an answer of this content type, which ends where the request's handler does."""
    query: Mapping[str, str] = field(default_factory=dict)
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
