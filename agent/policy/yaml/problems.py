"""What is wrong with a policy file, said so that it can be mended: where, what, and how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from agent.core.errors import AgentError, ExitCode

Loc: TypeAlias = "tuple[str | int, ...]"
"""A place in the policy: ``("volumes", 0, "mount", "path")``."""

MAX_BYTES = 1 << 20
"""The largest file: a policy is far smaller."""
MAX_PROBLEMS = 100
"""More than anyone reads, and few enough that a hostile file costs nothing."""


class Problem(Struct, frozen=True, order=True):
    """One thing wrong with a policy file; ``line`` and ``column`` count from 1, 0 is the file as a whole."""

    line: int
    column: int
    where: str
    """``volumes[0].mount.path``; empty for the file as a whole."""
    message: str
    hint: str | None = None

    def describe(self) -> str:
        """Return the problem on one line."""
        place = f"line {self.line}, column {self.column}: " if self.line else ""
        where = f"{self.where}: " if self.where else ""
        return f"{place}{where}{self.message}{f' {self.hint}' if self.hint else ''}"


@dataclass(eq=False)
class PolicyError(AgentError):
    """A policy file that cannot be used, with every problem found in it."""

    retryable: bool = False
    exit_code: ExitCode = ExitCode.USAGE
    problems: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, origin: str, problems: Sequence[Problem]) -> PolicyError:
        """Make the error for the policy called ``origin`` (its path)."""
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        return cls(
            f"The policy {origin} has {count}; {'it is' if len(problems) == 1 else 'the first is'}"
            f" {problems[0].describe().rstrip('.')}.",
            hint=None if len(problems) == 1 else f"See them all with: ebs-agent check {origin}",
            problems=tuple(problems),
        )


def name_place(loc: Loc) -> str:
    """Return a place as people read it: ``volumes[0].mount.path``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part:.60}" for part in loc)
    return text.removeprefix(".")


def limit_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems in the file's order, each once, and no more than a person can use."""
    ordered = sorted(set(problems), key=lambda problem: (problem.line, problem.column, problem.message))
    if len(ordered) <= MAX_PROBLEMS:
        return ordered
    last = ordered[MAX_PROBLEMS - 1]
    rest = len(ordered) - MAX_PROBLEMS + 1
    follow = Problem(last.line, last.column, "", f"{rest} more problems follow.")
    return [*ordered[: MAX_PROBLEMS - 1], follow]
