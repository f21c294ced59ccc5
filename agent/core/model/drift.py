"""In what a volume is not as its claim and its class say, and what becomes of it."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct


class Remedy(str, Enum):
    """What the agent does about a difference."""

    NOW = "now"
    """AWS is asked to change it, or is changing it."""
    LATER = "later"
    """It is changed when AWS allows it."""
    NEW_VOLUME = "new-volume"
    """Nothing: no volume can be changed so once it is made."""
    NEVER_SMALLER = "never-smaller"
    """Nothing: volumes never shrink."""

    @property
    def is_agents(self) -> bool:
        """The agent brings it about, sooner or later."""
        return self in {Remedy.NOW, Remedy.LATER}

    def describe(self) -> str:
        return {
            Remedy.NOW: "AWS is asked to change it",
            Remedy.LATER: "changed when AWS allows it",
            Remedy.NEW_VOLUME: "only a new volume can have it",
            Remedy.NEVER_SMALLER: "volumes never shrink",
        }[self]


class Difference(Struct, frozen=True):
    """One thing that a volume is, and should not be."""

    what: str
    """The policy's key: type | size | iops | throughput | encrypted | kms_key_id | multi_attach | tags"""
    found: str
    wanted: str
    remedy: Remedy
    part: str = ""
    """Of ``tags`` the one that differs."""

    def describe(self) -> str:
        """Return it as part of a sentence: ``iops is 3000, should be 6000 (AWS is asked to change it)``."""
        what = f"{self.what}.{self.part}" if self.part else self.what
        return f"{what} is {self.found}, should be {self.wanted} ({self.remedy.describe()})"


class Provisioned(Struct, frozen=True):
    """What a volume is given, by AWS's description; None where its type has no such number."""

    iops: int | None = None
    throughput_mib_s: int | None = None
