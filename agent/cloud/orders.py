"""What a person asks of the cloud through the agent: attach, detach, create, expand, modify, snapshot.

Each order is an iterator of progress: sentences, and at its end the result. It looks before every call and
stops at the first thing that cannot be; asking again takes it up where it stands. The same planners decide
as in the loop.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

import anyio

from agent.cloud.attach import plan_attach, plan_detach
from agent.cloud.calls import (
    Call,
    CreateSnapshot,
    CreateVolume,
    DeleteSnapshot,
    DescribeSnapshots,
    ModifyVolume,
)
from agent.cloud.claims import check_kms_key
from agent.cloud.decisions import Do, NodeView, Release, Settled
from agent.cloud.describe import describe_known, describe_modifications
from agent.cloud.findings import Hands
from agent.cloud.modify import plan_expand, wait_for
from agent.cloud.shoot import take_snapshot
from agent.cloud.values import GIB, MADE_BY, TAG_MADE_BY, TAG_VOLUME, CloudSnapshot, CloudVolume
from agent.cloud.whoami import require_identity
from agent.errors import AgentError, ExitCode, NotAnsweringError, RefusedError
from agent.model import Reason, VolumeId
from agent.steps import Refuse, Wait

Progress = AsyncIterator[str]
Make = Callable[[Call[Any]], Awaitable[Any]]

PATIENCE_S = 600.0
"""For what AWS brings about within a minute when all is well."""
_PAUSE_S = 2.0


@dataclass(frozen=True)
class NewVolume:
    """A volume asked for by hand."""

    size_gib: int | None
    type: str = "gp3"
    iops: int | None = None
    throughput: int | None = None
    is_encrypted: bool | None = None
    kms_key_id: str | None = None
    snapshot_id: str | None = None
    name: str | None = None


class Orders:
    """Carries orders out with the daemon's own client and hands."""

    def __init__(
        self, make: Make, hands: Hands, view: Callable[[], NodeView], pause_s: float = _PAUSE_S
    ) -> None:
        self._make = make
        self._hands = hands
        self._view = view
        self._pause_s = pause_s

    async def attach(self, volume_id: VolumeId) -> Progress:
        """Attach the volume here; ends when its device is here."""
        deadline = monotonic() + PATIENCE_S
        said = ""
        while True:
            volume = await self._describe(volume_id)
            decision = plan_attach(volume, self._view())
            if isinstance(decision, Settled):
                yield f"{volume_id} is here."
                return
            if isinstance(decision, Do):
                yield f"Asking AWS to {decision.describe()}."
                await self._make(decision.call)
            elif isinstance(decision, (Wait, Refuse)):
                _raise_final(decision)
                if decision.message != said:
                    said = decision.message
                    yield said
            await self._pause(deadline, volume_id)

    async def detach(self, volume_id: VolumeId, *, is_forced: bool = False) -> Progress:
        """Unmount, flush and detach the volume; ends when it is gone from API and node."""
        deadline = monotonic() + PATIENCE_S
        is_released = False
        said = ""
        while True:
            decision = plan_detach(await self._describe(volume_id), self._view(), is_released=is_released)
            if decision is None:
                yield f"{volume_id} is detached."
                return
            if isinstance(decision, Release):
                yield f"Unmounting {volume_id}."
                await self._release(volume_id, is_forced=is_forced)
                is_released = True
                continue
            if isinstance(decision, Do):
                yield f"Asking AWS to {decision.describe()}."
                await self._make(decision.call)
            elif isinstance(decision, (Wait, Refuse)):
                _raise_final(decision)
                if decision.message != said:
                    said = decision.message
                    yield said
            await self._pause(deadline, volume_id)

    async def _release(self, volume_id: VolumeId, *, is_forced: bool) -> None:
        try:
            await self._hands.release(volume_id)
        except AgentError as error:
            if not is_forced:
                raise RefusedError(
                    error.message,
                    hint="End them and try again. --force detaches it under them: what they have not written "
                    "is lost.",
                    reason=error.reason,
                    exit_code=ExitCode.REFUSED,
                ) from error

    async def create(self, wanted: NewVolume) -> Progress:
        """Make a volume in this node's zone that no policy entry claims; ends when it is available."""
        identity = self._view().identity
        require_identity(identity, "zone")
        check_kms_key("the new volume", wanted.kms_key_id, identity.account)
        tags = {TAG_MADE_BY: MADE_BY, **({"Name": wanted.name} if wanted.name else {})}
        call = CreateVolume(
            client_token=secrets.token_hex(32),
            zone=str(identity.zone),
            size_gib=wanted.size_gib,
            type=wanted.type,
            tags=tuple(sorted(tags.items())),
            iops=wanted.iops,
            throughput=wanted.throughput,
            is_encrypted=wanted.is_encrypted,
            kms_key_id=wanted.kms_key_id,
            snapshot_id=wanted.snapshot_id,
        )
        yield f"Asking AWS to {call.describe()}."
        volume: CloudVolume = await self._make(call)
        yield f"{volume.volume_id} is being made."
        deadline = monotonic() + PATIENCE_S
        while volume.state != "available":
            if volume.state in {"error", "deleting", "deleted"}:
                raise AgentError(f"{volume.volume_id} could not be made: it is in state {volume.state}.")
            await self._pause(deadline, volume.volume_id)
            found = await describe_known(self._make, [volume.volume_id])
            volume = found[0] if found else volume
        yield f"{volume.volume_id} is available in {volume.zone}."

    async def expand(self, volume_id: VolumeId, size_bytes: int) -> Progress:
        """Make the volume larger; ends when the size is usable. Filesystems grow by the policy's ``grow``."""
        if size_bytes % GIB:
            raise AgentError("A volume's size is whole GiB.", retryable=False, exit_code=ExitCode.USAGE)
        volume = await self._describe(volume_id)
        modifications = await describe_modifications(self._make, [volume_id])
        planned = plan_expand(volume, size_bytes // GIB, modifications.get(volume_id))
        if isinstance(planned, Wait):
            raise AgentError(planned.message, planned.hint, planned.reason)
        if planned is None:
            yield f"{volume_id} has {volume.size_gib} GiB already."
            return
        yield f"Asking AWS to {planned.describe()}."
        await self._make(planned.call)
        async for text in self._follow_modification(volume_id):
            yield text

    async def modify(self, call: ModifyVolume) -> Progress:
        """Change type, IOPS or throughput; ends when that is usable. A change that is none is not sent."""
        volume = await self._describe(call.volume_id)
        now = {"type": volume.type, "iops": volume.iops, "throughput": volume.throughput}
        asked = {name: getattr(call, name) for name in now if getattr(call, name) is not None}
        if all(now[name] == value for name, value in asked.items()):
            yield f"{call.volume_id} is so already; nothing was asked of AWS."
            return
        modifications = await describe_modifications(self._make, [call.volume_id])
        waiting = wait_for(call.volume_id, modifications.get(call.volume_id))
        if waiting is not None:
            raise AgentError(waiting.message, waiting.hint, waiting.reason)
        yield f"Asking AWS to {call.describe()}."
        await self._make(call)
        async for text in self._follow_modification(call.volume_id):
            yield text

    async def _follow_modification(self, volume_id: VolumeId) -> Progress:
        deadline = monotonic() + PATIENCE_S
        while True:
            modification = (await describe_modifications(self._make, [volume_id])).get(volume_id)
            if modification is None or modification.state == "modifying":
                percent = 0 if modification is None else modification.progress_percent
                yield f"{volume_id} is being modified, {percent} %."
                await self._pause(deadline, volume_id)
                continue
            if modification.state == "failed":
                why = modification.message or "no reason given"
                raise AgentError(f"AWS could not modify {volume_id}: {why}.")
            yield f"{volume_id} is {modification.state}; the change is usable."
            return

    async def snapshot(self, volume_id: VolumeId, *, is_frozen: bool, is_awaited: bool) -> Progress:
        """Take a snapshot, frozen where a filesystem is mounted here; ends when begun, or completed."""
        await self._describe(volume_id)
        call = _make_snapshot_call(volume_id)
        snapshot = await take_snapshot(self._make, self._hands.freeze if is_frozen else None, call)
        yield f"{snapshot.snapshot_id} of {volume_id} has begun{' with writes held' if is_frozen else ''}."
        deadline = monotonic() + 24 * 3600
        while is_awaited and snapshot.state != "completed":
            if snapshot.state == "error":
                raise AgentError(f"{snapshot.snapshot_id} failed.", hint="Take another one.")
            await self._pause(deadline, volume_id)
            filters = (("snapshot-id", (snapshot.snapshot_id,)),)
            found: tuple[CloudSnapshot, ...] = await self._make(DescribeSnapshots(filters))
            snapshot = found[0] if found else snapshot
            yield f"{snapshot.snapshot_id} is {snapshot.state}, {snapshot.progress_percent} %."

    async def list_snapshots(self, volume_id: VolumeId) -> Progress:
        """Name every snapshot of the volume in this account, oldest first."""
        filters = (("volume-id", (volume_id,)),)
        found: tuple[CloudSnapshot, ...] = await self._make(DescribeSnapshots(filters))
        for one in sorted(found, key=lambda one: one.started_at):
            by = "the agent" if one.is_made_by_agent else "someone else"
            yield f"{one.snapshot_id} {one.state} {one.progress_percent} % {one.started_at} by {by}"

    async def delete_snapshot(self, snapshot_id: str) -> Progress:
        """Delete one snapshot the agent made; others are for whoever made them to delete."""
        found: tuple[CloudSnapshot, ...] = await self._make(
            DescribeSnapshots((("snapshot-id", (snapshot_id,)),))
        )
        if not found:
            raise AgentError(f"AWS knows no {snapshot_id} in this account and region.", retryable=False)
        if not found[0].is_made_by_agent:
            raise RefusedError(
                f"{snapshot_id} was not made by the agent.",
                hint="Delete it with whatever made it.",
                exit_code=ExitCode.REFUSED,
            )
        await self._make(DeleteSnapshot(snapshot_id))
        yield f"{snapshot_id} is deleted."

    async def _describe(self, volume_id: VolumeId) -> CloudVolume:
        found = await describe_known(self._make, [volume_id])
        if not found:
            raise AgentError(
                f"AWS knows no {volume_id} in this account and region.",
                hint="Is the ID right, and the volume in this region and account?",
                reason=Reason.NOT_ATTACHED,
                retryable=False,
            )
        return found[0]

    async def _pause(self, deadline: float, volume_id: VolumeId) -> None:
        if monotonic() > deadline:
            raise NotAnsweringError(
                f"{volume_id}: AWS did not get there in time.",
                hint="What was asked may still happen; ask again to see how far it is.",
                exit_code=ExitCode.NOT_READY,
            )
        await anyio.sleep(self._pause_s)


def _make_snapshot_call(volume_id: VolumeId) -> CreateSnapshot:
    tags = ((TAG_MADE_BY, MADE_BY), (TAG_VOLUME, str(volume_id)))
    return CreateSnapshot(volume_id, f"{volume_id}, asked for by hand", tags)


def _raise_final(decision: Wait | Refuse) -> None:
    """Raise where waiting would not help."""
    final = {Reason.WRONG_ZONE, Reason.MANAGED_BY_CSI, Reason.ATTACHED_ELSEWHERE}
    if isinstance(decision, Refuse) or decision.reason in final:
        raise RefusedError(
            decision.message, decision.hint, decision.reason, retryable=False, exit_code=ExitCode.REFUSED
        )
