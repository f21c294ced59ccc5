"""What is wrong with a volume at the moment, because somebody asked for it.

Values and arithmetic only; `tests.ebs.volume` acts on them. Faults are not kept across a restart of the
target: a test that dies leaves no broken volume behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from tests.ebs.errors import DO_NOT_RETRY


class Operation(str, Enum):
    """The kinds of command that can be made to fail."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    DISCARD = "discard"
    ZERO = "zero"


@dataclass
class Failure:
    """Commands of these kinds fail where they touch bytes ``first`` to ``end``.

    ``end`` is exclusive; None is the volume's end.

    ``status`` is an NVMe status (code type << 8 | code). ``is_final`` sets Do Not Retry, without which Linux
    tries a command five more times. ``count`` is how many commands fail before the fault heals; None is all
    of them.
    """

    status: int
    operations: frozenset[Operation] = frozenset(Operation)
    first: int = 0
    end: int | None = None
    is_final: bool = True
    count: int | None = None

    def strike(self, operation: Operation, first: int, size_bytes: int) -> int | None:
        """Return the status this command fails with, or None where it does not concern it."""
        if operation not in self.operations or self.count == 0:
            return None
        # A flush names no range, so a failure that concerns flushes concerns them all.
        if operation is not Operation.FLUSH and (
            first + size_bytes <= self.first or (self.end is not None and first >= self.end)
        ):
            return None
        if self.count is not None:
            self.count -= 1
        return self.status | (DO_NOT_RETRY if self.is_final else 0)


@dataclass(frozen=True)
class LogPageFault:
    """What is wrong with log page 0xD0: each field that is set replaces the truth.

    ``kept_bytes`` zeroes all behind it: a host cannot see a short transfer as anything else. ``status`` makes
    the command fail, as on volumes and instance types that have no such page.
    """

    magic: int | None = None
    version: int | None = None
    bin_count: int | None = None
    kept_bytes: int | None = None
    status: int | None = None


@dataclass
class Faults:
    """The faults of one volume. ``stall_after`` counts commands of ``stall_on`` down until all stall.

    ``is_cut_off`` lets no host connect.
    """

    is_stalled: bool = False
    is_admin_stalled: bool = False
    is_cut_off: bool = False
    stall_after: int | None = None
    stall_on: frozenset[Operation] = frozenset(Operation)
    delay_s: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    log_page: LogPageFault | None = None

    def hold(self, operation: Operation) -> bool:
        """Say whether the command that arrives now is held, counting it where stalling waits for a number."""
        if self.stall_after is not None and operation in self.stall_on:
            if self.stall_after == 0:
                self.stall_after = None
                self.is_stalled = True
            else:
                self.stall_after -= 1
        return self.is_stalled

    def find_failure(self, operation: Operation, first: int, size_bytes: int) -> int | None:
        """Return the status the command must fail with, or None."""
        for failure in self.failures:
            status = failure.strike(operation, first, size_bytes)
            if status is not None:
                return status
        return None
