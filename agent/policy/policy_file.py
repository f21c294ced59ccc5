"""The policy's file to a daemon: which waits for no disk, and has no parser in its own process."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from agent.base.file_reading import FileRead, read_file
from agent.base.off_loop import Aside, Confined, answer_here, do_here
from agent.core.errors import AgentError
from agent.policy.handing_over import Answer, read_answer, write_request
from agent.policy.policy import Policy
from agent.policy.yaml.problems import MAX_BYTES, Loc, PolicyError

READER = "agent.policy.reading.apart:answer"
"""What reads the policy in a process of its own. By name: it imports what the daemon is not to have."""


class PolicyFile(Struct, frozen=True):
    """The policy's file, read by ``aside`` and understood by ``confined``."""

    path: Path
    aside: Aside = do_here
    confined: Confined = answer_here

    async def load(self, *, trust_owner: bool = False) -> Policy:
        """Return the policy, or raise PolicyError with everything that is wrong with the file.

        What the file says is done as root, so only root may have written it. ``trust_owner`` skips that, for
        development alone. Raises NotAnsweringError where the file's disk hangs, or reading takes too long.
        """
        answer = await self._ask(judge_file(self.path, await self._read(), trust_owner=trust_owner))
        if answer.policy is None:
            raise PolicyError.of(str(self.path), answer.problems)
        return answer.policy

    async def find_lines(self, policy: Policy, locs: Sequence[Loc]) -> list[int | None]:
        """Return the lines on which the file says each of ``locs``, or what is around it.

        None where the file cannot be read, or says something else by now than ``policy``.
        """
        try:
            answer = await self._ask((await self._read()).content, locs)
        except AgentError:
            return [None for _ in locs]
        return list(answer.lines) if answer.policy == policy else [None for _ in locs]

    async def _read(self) -> FileRead:
        with explaining(self.path):
            return await self.aside(read_file, str(self.path), MAX_BYTES + 1, subject=str(self.path))

    async def _ask(self, content: bytes, locs: Sequence[Loc] = ()) -> Answer:
        request = write_request(content, locs)
        answer = await self.confined(READER, request, subject=f"The policy {self.path}")
        return read_answer(answer, len(locs))


@contextmanager
def explaining(path: str | Path) -> Iterator[None]:
    """Say of a policy that cannot be read what is wrong with it."""
    try:
        yield
    except FileNotFoundError:
        raise PolicyError(
            f"There is no policy at {path}.", hint=f"Write one, and check it with: ebs-agent check {path}"
        ) from None
    except (OSError, ValueError) as error:
        raise PolicyError(f"The policy {path} cannot be read: {_describe(error)}.") from None


def judge_file(path: Path, found: FileRead, *, trust_owner: bool) -> bytes:
    """Return what the file holds, or raise PolicyError where it is none that may be believed."""
    if not found.is_regular:
        raise PolicyError(f"The policy {path} is not a file.")
    if not trust_owner:
        _check_owner(path, found)
    return found.content


def _check_owner(path: Path, found: FileRead) -> None:
    name = shlex.quote(str(path))
    problems: list[tuple[str, str]] = []
    if found.uid != 0:
        problems.append((f"belongs to user {found.uid}", f"chown root:root {name}"))
    if found.mode & (stat.S_IWGRP | stat.S_IWOTH):
        problems.append((f"has mode {stat.S_IMODE(found.mode):04o}", f"chmod go-w {name}"))
    if problems:
        what = " and ".join(what for what, _ in problems)
        commands = " && ".join(command for _, command in problems)
        raise PolicyError(
            f"The policy {path} {what}; only root may be able to change it.",
            hint=f"Check what it says, then run: {commands}",
        )


def _describe(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
