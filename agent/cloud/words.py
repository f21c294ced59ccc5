"""What each order at the control socket may say: its words, and what each of them is in JSON.

Held to before anything else is made of them: what is nearly right is not guessed at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.errors import AgentError, ExitCode

_PARAMETERS: Mapping[str, type] = {"type": str, "iops": int, "throughput": int}
_NEW: Mapping[str, type] = {
    **_PARAMETERS,
    "size": str,
    "encrypted": bool,
    "kms_key_id": str,
    "name": str,
}
WORDS: Mapping[str, Mapping[str, type]] = {
    "attach": {"volume": str},
    "detach": {"volume": str, "force": bool},
    "create": {**_NEW, "from": str},
    "restore": {**_NEW, "snapshot": str},
    "expand": {"volume": str, "size": str},
    "modify": {"volume": str, **_PARAMETERS},
    "snapshot": {"volume": str, "freeze": bool, "wait": bool},
    "snapshots": {"volume": str},
    "delete-snapshot": {"snapshot": str},
    "orphans": {},
    "delete-orphan": {"volume": str},
}
"""The words of each order, and what each is in JSON. None is one that was not said."""

_KINDS: Mapping[type, str] = {str: "a text", bool: "true or false", int: "a whole number"}
_MAX_TEXT = 1024


def check_words(order: str, words: Mapping[str, Any]) -> None:
    """Raise AgentError unless each word is one of the order's and what it is to be: ``"no"`` is not false."""
    for name, value in words.items():
        kind = WORDS[order].get(name)
        if kind is None:
            raise _wrong(
                f"{order} takes no word {name!r:.40}.", f"Its words are {', '.join(sorted(WORDS[order]))}."
            )
        if value is not None and type(value) is not kind:
            raise _wrong(f"{name} of {order} is {_KINDS[kind]}, and not {json.dumps(value):.40}.")
        if isinstance(value, str) and (len(value) > _MAX_TEXT or not value.isprintable()):
            raise _wrong(f"{name} of {order} is no text that anything is called by: {value!a:.40}.")


def _wrong(message: str, hint: str | None = None) -> AgentError:
    return AgentError(message, hint, retryable=False, exit_code=ExitCode.USAGE)
