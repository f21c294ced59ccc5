"""What of the board is for everybody, and what is not: decided here, for every face that anybody can reach.

Everybody may know how volumes are, and what to do about it. Who asks AWS, which processes of whom are in the
way, and what a hook of the node's owner said are for root and the group ``ebs-agent`` (the control socket
shows all), and for clients whose certificate the policy's authority has signed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from agent.report.board.events import EventName

WITHHELD = "[withheld]"
"""Stands in a sentence for what is not for everybody."""

_PRIVATE_FIELDS: Mapping[str, frozenset[str]] = {EventName.HOOK_FAILED.value: frozenset({"error", "hint"})}
"""Fields of events that are another program's own words."""

_NAMED_BY_AWS = re.compile(r"\barn:aws[^\s,;'\"()<>]*[^\s,;'\"()<>.:]")
"""Amazon Resource Names: of the role that asks, and of keys; an account's number is in each."""
_ACCOUNT = re.compile(r"(?<![\w.-])[0-9]{12}(?![\w.-]*\w)(?! bytes)")
"""An account's number by itself. Sizes have as many digits, and say bytes."""
_PROCESS = re.compile(r" \(pid [0-9]+(?:, [^\s()]+)?\)")
"""As ``Process.describe`` has it: what comes after the name, which has no blanks. A pattern that began with
the name would be tried at each character, and a long word would take the square of its length."""

T = TypeVar("T")


def redact(content: T) -> T:
    """Return JSON values as everybody may see them: of the same shape, with the same keys."""
    return _redact(content)  # type: ignore[no-any-return]  # of the same shape, so of the same type


def _redact(content: Any) -> Any:
    if isinstance(content, str):
        return _redact_text(content)
    if isinstance(content, dict):
        private = _PRIVATE_FIELDS.get(str(content.get("event")), frozenset())
        return {
            key: WITHHELD if key in private and value is not None else _redact(value)
            for key, value in content.items()
        }
    if isinstance(content, (list, tuple)):
        return [_redact(part) for part in content]
    return content


def _redact_text(text: str) -> str:
    for private in (_NAMED_BY_AWS, _ACCOUNT):
        text = private.sub(WITHHELD, text)
    return _redact_processes(text)


def _redact_processes(text: str) -> str:
    parts, kept_to = [], 0
    for found in _PROCESS.finditer(text):
        start = found.start()
        while start > kept_to and not (text[start - 1].isspace() or text[start - 1] in "()"):
            start -= 1
        parts += [text[kept_to:start], WITHHELD]
        kept_to = found.end()
    return "".join([*parts, text[kept_to:]])
