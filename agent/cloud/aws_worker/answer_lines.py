"""What the worker answers, as it goes over the wire: lines of JSON for each call, bounded and checked.

A list that is longer than a line may be comes in parts, each a line, of which all but the last say ``more``.

Both sides import this: the worker so that it never sends what would be refused, the daemon because the worker
talks to the internet and may be somebody else's by now. Whatever comes, decoding yields a ``Reply`` or
``GarbledError``, within bounded time and memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, structs

from agent.cloud.aws.answer_fields import Members, clean, is_text, shorten
from agent.cloud.errors.explain import Failure
from agent.core.errors import AgentError
from agent.core.model import Reason

LINE_LIMIT_BYTES = 8 << 20
"""Longest line. A thousand volumes with ten tags each are about 1 MB of JSON."""
PARTS_LIMIT = 12
"""Most lines of one answer: 10 kB for each of ten thousand volumes; fifty tags of a hundred letters are 7."""
MARKS_LIMIT = 1 << 20
"""Most commas and opening brackets in a line. Each may cost a hundred bytes once it is parsed."""
SMALL_BYTES = 32 << 10
"""What is decoded on the event loop; more would hold it up."""

_CODE_LIMIT = 256
_MESSAGE_LIMIT = 8192
_FAILURE_KEYS = set(Failure.__struct_fields__)


class GarbledError(Exception):
    """A line that is no reply to anything; nothing more can be believed of who wrote it."""


class Reply(Struct, frozen=True):
    """An answer or a failure, not yet looked into: ``read_answer`` and ``read_failure`` do."""

    number: int
    answer: Mapping[str, Any] | None
    failure: Any
    is_large: bool = False
    has_more: bool = False
    """It is a part of an answer whose next part is the next line of this number."""
    earlier: tuple[Mapping[str, Any], ...] = ()
    """The parts before it, once it is whole."""


def decode_reply(line: bytes) -> Reply:
    """Return the reply that a line is; GarbledError where it is none."""
    if count_marks(line) > MARKS_LIMIT:
        raise GarbledError("it has too many members")
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise GarbledError("it is not JSON") from error
    shapes = ({"id", "answer"}, {"id", "failure"}, {"id", "answer", "more"})
    if not isinstance(reply, dict) or reply.keys() not in shapes or reply.get("more", True) is not True:
        raise GarbledError("it is no reply")
    number, answer = reply["id"], reply.get("answer")
    if type(number) is not int or ("answer" in reply and not isinstance(answer, dict)):
        raise GarbledError("it is no reply")
    return Reply(number, answer, reply.get("failure"), len(line) > SMALL_BYTES, has_more="more" in reply)


def count_marks(line: bytes) -> int:
    """Return how many members a line of JSON may have, at most."""
    return sum(line.count(mark) for mark in (b",", b"[", b"{"))


def read_failure(service: str, operation: str, value: Any) -> Failure:
    """Return the failure of one call; AgentError where it is not shaped as one.

    Service and operation are those that were asked: what the worker says of them decides nothing.
    """
    members = Members(value, "the failure")
    if strange := value.keys() - _FAILURE_KEYS:
        raise AgentError(f"the failure has a member {shorten(min(strange))}", reason=Reason.CLOUD_ERROR)
    return Failure(
        service=service,
        operation=operation,
        code=clean(members.find_free_text("code", _CODE_LIMIT) or "Unknown"),
        message=clean(members.find_free_text("message", _MESSAGE_LIMIT) or ""),
        http_status=members.find_number("http_status") or 0,
        request_id=clean(members.find_free_text("request_id", _CODE_LIMIT) or ""),
    )


def encode_failure(number: Any, failure: Failure) -> bytes:
    """Return a failure as a line; words that would not be taken are shortened."""
    members = structs.asdict(failure)
    members["code"] = _fit(failure.code, _CODE_LIMIT)
    members["message"] = _fit(failure.message, _MESSAGE_LIMIT)
    members["request_id"] = _fit(failure.request_id, _CODE_LIMIT)
    return json.dumps({"id": number, "failure": members}).encode() + b"\n"


def _fit(text: str, limit: int) -> str:
    return text[:limit] if is_text(text[:limit], limit) else ascii(text)[:limit]
