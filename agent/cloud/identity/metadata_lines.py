"""What the daemon and the process that asks the metadata service for it say to each other: lines of JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from agent.cloud.identity.metadata import MAX_ANSWER_BYTES, MetadataAnswer

LINE_LIMIT_BYTES = 4 * MAX_ANSWER_BYTES
_STATUS_LIMIT = 1000


def encode_question(endpoint: str, paths: Sequence[str], timeout_s: float) -> bytes:
    """Return the daemon's line."""
    return json.dumps([endpoint, list(paths), timeout_s]).encode() + b"\n"


def decode_question(line: bytes) -> tuple[str, list[str], float]:
    """Return what a line of the daemon's asks."""
    endpoint, paths, timeout_s = json.loads(line)
    return endpoint, paths, timeout_s


def encode_answers(answers: Sequence[MetadataAnswer]) -> bytes:
    """Return the line that answers, content in base64."""
    told = [[each.status, each.reason, base64.b64encode(each.content).decode()] for each in answers]
    return json.dumps({"answers": told}).encode() + b"\n"


def encode_failure(error: Exception) -> bytes:
    """Return the line that says why the service does not."""
    return json.dumps({"failure": str(error) or type(error).__name__}).encode() + b"\n"


def decode_answers(line: bytes, number: int) -> tuple[MetadataAnswer, ...] | str:
    """Return as many answers as were asked for, or why the service did not answer.

    ValueError where the line is none of ``encode_answers`` and ``encode_failure``.
    """
    try:
        told = json.loads(line)
    except RecursionError:
        raise ValueError("no answer") from None
    match told:
        case {"failure": str(failure)}:
            return failure
        case {"answers": [*answers]} if len(answers) == number:
            return tuple(_check(answer) for answer in answers)
    raise ValueError("no answer to each path")


def _check(answer: Any) -> MetadataAnswer:
    match answer:
        case [int(status), str(reason), str(content)] if 0 <= status < _STATUS_LIMIT:
            return MetadataAnswer(status, reason, base64.b64decode(content, validate=True))
    raise ValueError("no answer")
