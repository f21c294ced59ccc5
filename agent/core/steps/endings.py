"""What ends a plan short of its goal: nothing more is done until the volume is looked at again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from agent.core.reasons import Condition, Reason


@dataclass(frozen=True)
class _Said:
    """What is said instead of going on."""

    kind: ClassVar[str]
    reason: Reason
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Refuse(_Said):
    """A safety rule says no. Nothing is touched."""

    kind: ClassVar[str] = "refuse"
    condition: Condition = Condition.REFUSED

    def describe(self) -> str:
        return f"refuse: {self.message}"


@dataclass(frozen=True)
class Wait(_Said):
    """Something else has to happen first; a later look finds out whether it has."""

    kind: ClassVar[str] = "wait"
    condition: Condition = Condition.PENDING

    def describe(self) -> str:
        return f"wait: {self.message}"


@dataclass(frozen=True)
class Degrade(_Said):
    """The volume is usable, and something about it is not as wanted and cannot be mended now."""

    kind: ClassVar[str] = "degrade"
    condition: Condition = Condition.DEGRADED

    def describe(self) -> str:
        return self.message


Ending: TypeAlias = "Refuse | Wait | Degrade"

ENDINGS = (Refuse, Wait, Degrade)
