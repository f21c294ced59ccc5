"""What ends a plan short of its goal: nothing more is done until the volume is looked at again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from agent.core.reasons import Condition, Reason


@dataclass(frozen=True)
class Refuse:
    """A safety rule says no. Nothing is touched."""

    kind: ClassVar[str] = "refuse"
    reason: Reason
    message: str
    hint: str | None = None
    condition: Condition = Condition.REFUSED

    def describe(self) -> str:
        return f"refuse: {self.message}"


@dataclass(frozen=True)
class Wait:
    """Something else has to happen first; a later look finds out whether it has."""

    kind: ClassVar[str] = "wait"
    reason: Reason
    message: str
    hint: str | None = None
    condition: Condition = Condition.PENDING

    def describe(self) -> str:
        return f"wait: {self.message}"


@dataclass(frozen=True)
class Degrade:
    """The volume is usable, and something about it is not as wanted and cannot be mended now."""

    kind: ClassVar[str] = "degrade"
    reason: Reason
    message: str
    hint: str | None = None
    condition: Condition = Condition.DEGRADED

    def describe(self) -> str:
        return self.message


Ending: TypeAlias = "Refuse | Wait | Degrade"

ENDINGS = (Refuse, Wait, Degrade)
