"""What the agent says when something is wrong: one sentence that names the object, and a way out.

Errors are values with fields. They are raised where the fact is known, caught where one volume's
reconcile ends, and logged there once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from agent.core.reasons import Reason


class ExitCode(IntEnum):
    """What a command's exit status means; part of the interface."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_READY = 3
    NO_ANSWER = 4
    REFUSED = 5


@dataclass(eq=False)
class AgentError(Exception):
    """Something the agent was asked to do, or to know, could not be done or known.

    ``message`` is one sentence naming the object; ``hint`` is what a person can do about it;
    ``reason`` is the CamelCase word shown beside the volume's condition; ``retryable`` says that the same
    attempt may succeed later with nobody's help.
    """

    message: str
    hint: str | None = None
    reason: Reason | None = None
    retryable: bool = True
    exit_code: ExitCode = ExitCode.FAILED

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class RefusedError(AgentError):
    """A safety rule says no; nothing was touched."""


class CoveredError(RefusedError):
    """A mount is there, and its path leads elsewhere: something hides it. Its device is as it was."""


class NotMountedError(AgentError):
    """What was mounted is not mounted any more, which says nothing of its device."""


@dataclass(eq=False)
class NotAnsweringError(AgentError):
    """A device, filesystem or program did not answer in its time; what waited for it was abandoned."""

    may_be_frozen: bool = False
    """What waits does so for something that this kernel does not show, as for a thaw."""


class FrozenError(NotAnsweringError):
    """Somebody froze the filesystem: who wants to write to it waits for the thaw. No device is at fault."""


class InconclusiveError(AgentError):
    """A look brought nothing, and not for a reason that lies in the volume: what was known of it may hold."""


class ShortageError(InconclusiveError):
    """The node has run out of what the attempt takes: descriptors, memory, processes, space for a file."""


class OccupiedError(AgentError):
    """Something is being done with the volume that takes its time: nothing was begun, and nothing touched."""


class OvertakenError(AgentError):
    """What was about to be done is not wanted any more, or not so; it was left, and is decided anew."""


class BugError(AgentError):
    """The agent itself is at fault. Whoever raises it has put the traceback in the log."""


class VanishedError(AgentError):
    """The device went away, or is not the one it was, between look and use."""


@dataclass(eq=False)
class InvalidValueError(AgentError):
    """A value someone wrote cannot be meant; writing it again would not help."""

    retryable: bool = False
    exit_code: ExitCode = ExitCode.USAGE
