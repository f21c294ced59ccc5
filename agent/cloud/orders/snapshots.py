"""What a person asks of snapshots through the agent: take one, list them, delete one."""

from __future__ import annotations

from typing import Any

from agent.cloud.aws.answer_fields import Unread, split
from agent.cloud.aws.calls import CreateSnapshot, DeleteSnapshot, DescribeSnapshots
from agent.cloud.aws.models import (
    MADE_BY,
    TAG_FROZEN,
    TAG_MADE_BY,
    TAG_SCHEDULE,
    TAG_VOLUME,
    CloudSnapshot,
)
from agent.cloud.errors.explain import explain_unread, require_read
from agent.cloud.orders.runner import SNAPSHOT_PATIENCE_S, Follower, Sighting
from agent.cloud.orders.volumes import describe_one
from agent.cloud.snapshots.take_frozen import take_snapshot
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import VolumeId
from agent.core.units import GIB


class SnapshotOrders:
    """Carries orders out with the daemon's own client and hands."""

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._make = follower.make

    async def take(self, volume_id: VolumeId, *, is_frozen: bool, is_awaited: bool) -> CloudSnapshot:
        """Take a snapshot, frozen where a filesystem is mounted here; ends when begun, or completed."""
        await describe_one(self._follower, volume_id)
        tags = ((TAG_MADE_BY, MADE_BY), (TAG_VOLUME, str(volume_id)))
        call = CreateSnapshot(volume_id, f"{volume_id}, asked for by hand", tags)
        begun = await take_snapshot(self._make, self._follower.hands.freeze if is_frozen else None, call)
        held = " with writes held" if begun.tag(TAG_FROZEN) == "yes" else ""
        await self._follower.say(f"{begun.snapshot_id} of {volume_id} has begun{held}.")
        found = begun
        if not is_awaited:
            return found

        async def look() -> Sighting:
            nonlocal found
            answer = require_read(await self._describe("snapshot-id", begun.snapshot_id))
            found = next(iter(answer), begun)
            if found.state == "error":
                raise AgentError(f"{found.snapshot_id} failed.", hint="Take another one.")
            progress = f"{found.snapshot_id} is {found.state}, {found.progress_percent} %."
            return Sighting(progress, found.state == "completed", found.progress_percent)

        await self._follower.follow(volume_id, look, SNAPSHOT_PATIENCE_S)
        return found

    async def list(self, volume_id: VolumeId | None) -> list[CloudSnapshot]:
        """Return every snapshot of a volume, or every one the agent made, oldest first."""
        if volume_id is None:
            answer = await self._describe(f"tag:{TAG_MADE_BY}", MADE_BY)
        else:
            answer = await self._describe("volume-id", volume_id)
        found, unread = split(answer)
        for one in unread:
            await self._follower.say(explain_unread(one).message)
        return sorted(found, key=lambda one: (one.started_at, one.snapshot_id))

    async def delete(self, snapshot_id: str) -> None:
        """Delete one snapshot the agent made; others are for whoever made them to delete."""
        found = require_read(await self._describe("snapshot-id", snapshot_id))
        if not found:
            raise AgentError(f"AWS knows no {snapshot_id} in this account and region.", retryable=False)
        if not found[0].is_made_by_agent:
            raise RefusedError(
                f"{snapshot_id} was not made by the agent.",
                hint="Delete it with whatever made it.",
                exit_code=ExitCode.REFUSED,
            )
        make = self._follower.make_about(VolumeId(found[0].volume_id))
        await make(DeleteSnapshot(snapshot_id))
        await self._follower.say(f"{snapshot_id} is deleted.")

    async def _describe(self, name: str, value: str) -> tuple[CloudSnapshot | Unread, ...]:
        return await self._make(DescribeSnapshots(((name, (value,)),)))


def show_snapshot(snapshot: CloudSnapshot) -> dict[str, Any]:
    """Return a snapshot as JSON values.

    ``frozen`` tells whether writes were held when it began (yes, no, unmounted; null where nobody said so),
    ``schedule`` the policy entry on whose schedule the agent took it.
    """
    return {
        "snapshot_id": snapshot.snapshot_id,
        "volume_id": snapshot.volume_id,
        "state": snapshot.state,
        "progress_percent": snapshot.progress_percent,
        "size_bytes": snapshot.size_gib * GIB,
        "started_at": snapshot.started_at,
        "frozen": snapshot.tag(TAG_FROZEN),
        "made_by_agent": snapshot.is_made_by_agent,
        "schedule": snapshot.tag(TAG_SCHEDULE) if snapshot.is_made_by_agent else None,
    }
