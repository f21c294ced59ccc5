"""What the daemon asks the process that reads its policy, and what it believes of the answer.

The request is a line of JSON, the places whose lines are asked for, and then the file as it is. The answer is
JSON: the file's sound content, out of which the policy is built here, by the checks of each value; or what is
wrong with it. So the one thing that whoever took that process over could say is another policy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from agent.core.errors import AgentError
from agent.core.model import Reason
from agent.policy.entry_conflicts import find_contradictions
from agent.policy.policy import Policy
from agent.policy.values.build import build_section
from agent.policy.yaml.problems import MAX_PROBLEMS, Loc, Problem

_MAX_CONTENT_BYTES = 3 << 20
_MAX_WORDS = 10_000
"""Characters of a message, a hint or a place: more than any has."""


class Answer(Struct, frozen=True):
    """A policy and the lines that were asked for; or None and its problems, one at least."""

    policy: Policy | None
    problems: tuple[Problem, ...] = ()
    lines: tuple[int, ...] = ()


def write_request(content: bytes, locs: Sequence[Loc]) -> bytes:
    """Return the request to read what the file holds, and to find lines."""
    return json.dumps([list(loc) for loc in locs]).encode() + b"\n" + content


def read_request(request: bytes) -> tuple[bytes, list[Loc]]:
    """Return what a request asks."""
    line, _, content = request.partition(b"\n")
    return content, [tuple(loc) for loc in json.loads(line)]


def write_answer(content: Any, problems: Sequence[Problem], lines: Sequence[int]) -> bytes:
    """Return the answer: ``content`` where there are no problems."""
    told = [[one.line, one.column, one.where, one.message, one.hint] for one in problems]
    said = {"content": None if told else content, "problems": told, "lines": list(lines)}
    answer = json.dumps(said).encode()
    if told or len(answer) <= _MAX_CONTENT_BYTES:
        return answer
    message = f"The file holds more than {_MAX_CONTENT_BYTES >> 20} MiB, aliases written out."
    large = Problem(0, 0, "", message, "A policy is far smaller.")
    return write_answer(None, [large], ())


def read_answer(raw: bytes, lines: int) -> Answer:
    """Return what is believed of an answer, with as many lines as were asked for.

    Raises AgentError where it is not one, or the policy in it is not sound.
    """
    try:
        return _read_answer(json.loads(raw), lines)
    except (AgentError, ValueError, TypeError, KeyError, RecursionError) as error:
        why = str(error).rstrip(".") or "it is no answer"
        raise AgentError(
            f"What the process that reads the policy answered cannot be used: {why}.",
            hint="This is a fault of the agent's own.",
            reason=Reason.INTERNAL_ERROR,
        ) from error


def _read_answer(answer: Any, lines: int) -> Answer:
    problems = tuple(_read_problem(*item) for item in answer["problems"])
    if len(problems) > MAX_PROBLEMS:
        raise ValueError(f"it has {len(problems)} problems")
    if problems:
        return Answer(None, problems)
    numbers = answer["lines"]
    if type(numbers) is not list or len(numbers) != lines or {type(one) for one in numbers} - {int}:
        raise ValueError("it has other lines than were asked for")
    policy = build_section(Policy, answer["content"])
    for defect in find_contradictions(policy):
        raise ValueError(defect.message)
    return Answer(policy, lines=tuple(numbers))


def _read_problem(line: object, column: object, where: object, message: object, hint: object) -> Problem:
    if type(line) is not int or type(column) is not int:
        raise TypeError("a problem of it is nowhere")
    return Problem(
        line, column, _read_words(where), _read_words(message), None if hint is None else _read_words(hint)
    )


def _read_words(value: object) -> str:
    if type(value) is not str or len(value) > _MAX_WORDS:
        raise TypeError("a problem of it is not told in words")
    return value
