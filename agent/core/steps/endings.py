"""What ends a plan short of its goal: nothing more is done until the volume is looked at again."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from msgspec import Struct

from agent.core.reasons import Condition, Reason


class _Said(Struct, frozen=True):
    """What is said instead of going on."""

    kind: ClassVar[str]
    reason: Reason
    message: str
    hint: str | None = None


class Refuse(_Said, frozen=True):
    """A safety rule says no. Nothing is touched."""

    kind: ClassVar[str] = "refuse"
    condition: Condition = Condition.REFUSED

    def describe(self) -> str:
        return f"refuse: {self.message}"


class Wait(_Said, frozen=True):
    """Something else has to happen first; a later look finds out whether it has."""

    kind: ClassVar[str] = "wait"
    condition: Condition = Condition.PENDING

    def describe(self) -> str:
        return f"wait: {self.message}"


class Degrade(_Said, frozen=True):
    """The volume is usable, and something about it is not as wanted and cannot be mended now."""

    kind: ClassVar[str] = "degrade"
    condition: Condition = Condition.DEGRADED

    def describe(self) -> str:
        return self.message


Ending: TypeAlias = "Refuse | Wait | Degrade"

ENDINGS = (Refuse, Wait, Degrade)
