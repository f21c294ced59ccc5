"""What becomes of snapshots, which moto omits: how they end, locks, fast restores, refused deletions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from xml.sax.saxutils import escape

from tests.aws.errors import CallError

OPERATIONS = frozenset(
    {
        "EnableFastSnapshotRestores",
        "DisableFastSnapshotRestores",
        "LockSnapshot",
        "DescribeLockedSnapshots",
    }
)


@dataclass(frozen=True)
class Lock:
    """The lock of one snapshot."""

    mode: str
    days: int | None
    end: datetime
    cooled_off: datetime
    """From when on a lock of mode compliance is for good."""

    def find_state(self, now: datetime) -> str:
        if self.end <= now:
            return "expired"
        return "compliance-cooloff" if self.mode == "compliance" and now < self.cooled_off else self.mode

    def show(self, snapshot: str, now: datetime) -> str:
        days = "" if self.days is None else f"<lockDuration>{self.days}</lockDuration>"
        return (
            f"<item><snapshotId>{snapshot}</snapshotId><lockState>{self.find_state(now)}</lockState>{days}"
            f"<lockExpiresOn>{self.end:%Y-%m-%dT%H:%M:%S.000Z}</lockExpiresOn></item>"
        )


@dataclass
class Keeping:
    """The snapshots of one cloud, by ID."""

    state: str = "completed"
    """What a snapshot that is begun comes to: pending | completed | error."""
    locks: dict[str, Lock] = field(default_factory=dict)
    fast: set[tuple[str, str]] = field(default_factory=set)
    """(snapshot ID, zone) of those that are fast to restore."""
    refused_zones: set[str] = field(default_factory=set)
    """Zones in which no fast restore is switched on; the call itself succeeds."""
    in_images: set[str] = field(default_factory=set)
    """Those that an image of somebody's uses."""
    begun_at: datetime | None = None

    def begin(self, snapshot: Any, now: datetime) -> None:
        """Take over a snapshot that moto just made, by AWS's clock; no two are of one second."""
        if self.begun_at is not None and now <= self.begun_at:
            now = self.begun_at + timedelta(seconds=1)
        snapshot.start_time = self.begun_at = now
        snapshot.status = self.state

    def call(self, operation: str, parameters: dict[str, Any], now: datetime) -> str:
        """Lock, tell locks, or switch fast restores; returns what the answer holds, as XML."""
        if operation == "LockSnapshot":
            return self._lock(parameters, now)
        if operation == "DescribeLockedSnapshots":
            asked = [snapshot for name, snapshot in parameters.items() if name.startswith("SnapshotId.")]
            found = [self.locks[snapshot].show(snapshot, now) for snapshot in asked if snapshot in self.locks]
            return f"<snapshotSet>{''.join(found)}</snapshotSet>"
        snapshot = parameters["SourceSnapshotId.1"]
        zones = [zone for name, zone in parameters.items() if name.startswith("AvailabilityZone.")]
        refused = {zone: self._switch(operation, snapshot, zone) for zone in zones}
        errors = "".join(
            f"<item><availabilityZone>{zone}</availabilityZone><error><code>{code}</code>"
            f"<message>{escape(message)}</message></error></item>"
            for zone, (code, message) in refused.items()
            if code
        )
        if not errors:
            return ""
        kept = f"<fastSnapshotRestoreStateErrorSet>{errors}</fastSnapshotRestoreStateErrorSet>"
        return f"<unsuccessful><item><snapshotId>{snapshot}</snapshotId>{kept}</item></unsuccessful>"

    def _lock(self, parameters: dict[str, Any], now: datetime) -> str:
        """Lock; what is locked by compliance for good is only ever locked for longer.

        Source: the EC2 API reference, LockSnapshot, which names no code for what it refuses.
        """
        days = int(parameters["LockDuration"]) if "LockDuration" in parameters else None
        end = now + timedelta(days=days or 0)
        if "ExpirationDate" in parameters:
            end = datetime.fromisoformat(parameters["ExpirationDate"].replace("Z", "+00:00"))
        cooled_off = now + timedelta(hours=int(parameters.get("CoolOffPeriod", 0)))
        snapshot, lock = parameters["SnapshotId"], Lock(parameters["LockMode"], days, end, cooled_off)
        held = self.locks.get(snapshot)
        if held is not None and held.find_state(now) == "compliance":
            if "CoolOffPeriod" in parameters:
                message = f"The cooling-off period of the lock of {snapshot} has expired."
                raise CallError("InvalidParameterCombination", message)
            if lock.mode != "compliance" or lock.end < held.end:
                raise CallError("InvalidParameterValue", f"The lock of {snapshot} can only be extended.")
        self.locks[snapshot] = lock
        return f"<lockExpiresOn>{end:%Y-%m-%dT%H:%M:%S.000Z}</lockExpiresOn>"

    def _switch(self, operation: str, snapshot: str, zone: str) -> tuple[str, str]:
        """Switch one zone; returns the code and the words of what was refused, empty where nothing was."""
        one = (snapshot, zone)
        if operation == "DisableFastSnapshotRestores":
            if one not in self.fast:
                return (
                    "InvalidSnapshot.InvalidState",
                    f"{snapshot} has no fast restores in {zone}.",
                )
            self.fast.remove(one)
        elif zone in self.refused_zones:
            return "FastSnapshotRestoreLimitExceeded", "You have reached the limit of fast snapshot restores."
        else:
            self.fast.add(one)
        return "", ""

    def check_deletion(self, snapshot: str, now: datetime) -> None:
        """Refuse to delete what is locked, in use by an image, or fast to restore."""
        lock = self.locks.get(snapshot)
        if lock is not None and lock.find_state(now) != "expired":
            raise CallError("SnapshotLocked", f"{snapshot} is locked.")
        if snapshot in self.in_images:
            raise CallError("InvalidSnapshot.InUse", f"The snapshot {snapshot} is currently in use by ami-1.")
        if snapshot in {one for one, _ in self.fast}:
            message = f"Fast snapshot restores of {snapshot} are enabled; disable them first."
            raise CallError("InvalidSnapshot.InUse", message)
