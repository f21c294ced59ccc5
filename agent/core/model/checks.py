"""What AWS itself finds of a volume: its status checks, and how far a copy's content has come."""

from __future__ import annotations

from msgspec import Struct

STALLED = "stalled"


class Initialization(Struct, frozen=True):
    """How much of a volume's content has come from the snapshot or volume it was made from."""

    percent: int
    """At least so much."""
    left_s: int | None = None
    """AWS's own estimate; it makes one only for volumes with an initialization rate."""
    kind: str | None = None
    """default | provisioned-rate | volume-copy"""

    @property
    def is_done(self) -> bool:
        return self.percent >= 100  # noqa: PLR2004 - per cent


class AwsChecks(Struct, frozen=True):
    """The last result of the checks that EBS makes of every volume, every five minutes."""

    status: str
    """ok | impaired | warning | insufficient-data"""
    is_io_enabled: bool | None = None
    """False: AWS has switched I/O off, for fear that what is on the volume is not consistent."""
    io_performance: str | None = None
    """normal | degraded | severely-degraded | stalled; also not-applicable and insufficient-data."""
    initialization: Initialization | None = None
    """None of a volume that began empty."""
    events: tuple[str, ...] = ()
    """What AWS says of its causes, a type and a sentence each."""

    @property
    def is_impaired(self) -> bool | None:
        """Whether a check failed; None where AWS does not know yet."""
        return {"ok": False, "warning": False, "impaired": True}.get(self.status)

    @property
    def is_changing(self) -> bool:
        """Another answer is to be expected soon."""
        is_coming = self.initialization is not None and not self.initialization.is_done
        return is_coming or self.status != "ok"
