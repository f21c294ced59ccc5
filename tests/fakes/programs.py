"""A stand-in for programs: nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.core.errors import AgentError
from agent.node.isolate.programs import Completed


@dataclass
class ScriptedRun:
    """Runs nothing: answers what is scripted, in order, and fails on anything else."""

    answers: list[Completed | AgentError] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        pass_fds: Sequence[int] = (),
        input: str | None = None,  # noqa: A002 (subprocess's own word)
        check: Sequence[int] = (0,),
        name: str | None = None,
    ) -> Completed:
        assert timeout_s > 0
        assert input is None
        assert name is None or name in argv
        assert pass_fds, "a tool without the descriptor would open a path"
        self.asked.append(tuple(argv))
        answer = self.answers.pop(0)
        if isinstance(answer, AgentError):
            raise answer
        assert answer.returncode in check
        return answer


def completed(returncode: int = 0, stdout: str = "", stderr: str = "") -> Completed:
    return Completed(("tool",), returncode, stdout, stderr)
