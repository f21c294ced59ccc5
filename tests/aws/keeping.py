"""What becomes of snapshots, which moto omits: how they end, locks, fast restores, refused deletions."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from xml.sax.saxutils import escape

from tests.aws.errors import CallError

OPERATIONS = frozenset({"EnableFastSnapshotRestores", "DisableFastSnapshotRestores", "LockSnapshot"})


@dataclass
class Keeping:
    """The snapshots of one cloud, by ID."""

    state: str = "completed"
    """What a snapshot that is begun comes to: pending | completed | error."""
    locks: dict[str, datetime] = field(default_factory=dict)
    """Until when each is locked."""
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
        """Lock, or switch fast restores; returns what the answer holds, as XML."""
        if operation == "LockSnapshot":
            end = now + timedelta(days=int(parameters.get("LockDuration", 0)))
            if "ExpirationDate" in parameters:
                end = datetime.fromisoformat(parameters["ExpirationDate"].replace("Z", "+00:00"))
            self.locks[parameters["SnapshotId"]] = end
            return f"<lockExpiresOn>{end:%Y-%m-%dT%H:%M:%S.000Z}</lockExpiresOn>"
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
        if self.locks.get(snapshot, now) > now:
            raise CallError("SnapshotLocked", f"{snapshot} is locked.")
        if snapshot in self.in_images:
            raise CallError("InvalidSnapshot.InUse", f"The snapshot {snapshot} is currently in use by ami-1.")
        if snapshot in {one for one, _ in self.fast}:
            message = f"Fast snapshot restores of {snapshot} are enabled; disable them first."
            raise CallError("InvalidSnapshot.InUse", message)
