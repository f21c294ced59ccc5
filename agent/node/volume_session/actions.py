"""The steps, done on a pinned device. Each verifies for itself what it depends on, and none retries.

Whatever may block runs in a worker or a program, under a limit. What a step brought is for the next look to
find.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from agent.core.errors import AgentError, OvertakenError, RefusedError, VanishedError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import (
    Checked,
    Device,
    DeviceNumber,
    Filesystem,
    FormatRecord,
    FormatStage,
    Mount,
    MountRecord,
    Observed,
    Partition,
    Reason,
)
from agent.core.steps import (
    Action,
    Check,
    EndRaw,
    Format,
    GrowFilesystem,
    GrowPartition,
    Link,
    MountFilesystem,
    MoveMount,
    NoteRaw,
    Relinquish,
    Remount,
    RestoreNodeOwnership,
    SetNodeOwnership,
    SetRootOwnership,
    SettleFormat,
    Tune,
    Unlink,
    Unmount,
)
from agent.node.device import links, partition_table
from agent.node.device.node_owner import set_node_owner
from agent.node.device.tuning import set_tuning
from agent.node.filesystem import change_mount, format_guard, fsck, mkfs
from agent.node.filesystem.frozen_filesystems import find_touched_mount
from agent.node.filesystem.mount import MountRequest, mount_filesystem, move_mount
from agent.node.mounts.detached_mounts import detach_and_note
from agent.node.volume_session import release_device
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.pin import Pin, find_partition
from agent.node.volume_session.raw_handover import need_raw_note, note_raw, note_restored, refuse_raw
from agent.node.volume_session.recheck import Unchanged, read_state, verify_unchanged

VERIFY_TIMEOUT_S = 30.0
MOUNT_TIMEOUT_S = 600.0
"""Replaying a full log takes minutes."""
GROW_TIMEOUT_S = 600.0
OWN_TIMEOUT_S = 30.0
FIND_TIMEOUT_S = 60.0
"""A node may run thousands of processes with hundreds of open files each."""
FLUSH_TIMEOUT_S = 600.0
"""Gigabytes may be waiting for a slow volume."""

DUPLICATE_UUID = "duplicate UUID"
"""What xfs says when another mounted filesystem has the same one (fs/xfs/xfs_mount.c)."""


class VolumeActions:
    """How each step is done."""

    def __init__(self, node: NodeContext, pin: Pin) -> None:
        self._node = node
        self._pin = pin
        self._do: dict[type[Any], Callable[[Any, Observed], Awaitable[None]]] = {
            SettleFormat: self._settle_format,
            Check: self._check,
            GrowFilesystem: self._grow_filesystem,
            MountFilesystem: self._mount,
            Remount: self._remount,
            MoveMount: self._move,
            Unmount: self._unmount,
            SetRootOwnership: self._set_root_ownership,
            Link: self._link,
            Unlink: self._unlink,
            NoteRaw: self._note_raw,
            SetNodeOwnership: self._set_node_ownership,
            RestoreNodeOwnership: self._restore_node_ownership,
            EndRaw: self._end_raw,
            Tune: self._tune,
            Relinquish: self._relinquish,
        }

    async def execute(self, action: Action, observed: Observed, confirm: Callable[[], None]) -> None:
        """Do one step, or raise AgentError; what it brought is for the next look to find.

        ``confirm`` raises where it is not wanted any more; what takes its time asks again before the deed.
        """
        try:
            if isinstance(action, (Format, Check, MountFilesystem)) and observed.raw is not None:
                raise refuse_raw(observed)
            touched = find_touched_mount(action, observed)
            if touched is not None:
                await self._node.freezes.refuse_frozen(self._pin.volume, touched.path, touched.device_number)
            if isinstance(action, (Check, MountFilesystem)):
                await self._verify_unchanged(observed)
            if isinstance(action, Format):
                await self._format(action, observed, confirm)
            elif isinstance(action, GrowPartition):
                await self._grow_partition(action, observed, confirm)
            else:
                await self._do[type(action)](action, observed)
        except OSError as error:
            if is_shortage(error):
                raise explain_shortage(f"{self._pin.volume}: to {action.describe()} failed", error) from error
            raise AgentError(
                f"{self._pin.volume}: to {action.describe()} failed: {error.strerror or error}.",
                hint="See the kernel log for the device.",
                reason=Reason.STEP_FAILED,
            ) from error

    async def _verify_unchanged(self, observed: Observed) -> None:
        """Raise unless what was looked at is still there: what checks or mounts it writes to it."""
        if not isinstance(observed.content, Filesystem):
            raise RefusedError(f"{self._pin.volume} was not found to hold a filesystem.")
        request = Unchanged(
            _need_device(observed), self._node.source.identify, observed.content, self._pin.checked_state
        )
        await self._pin.call(verify_unchanged, self._pin.fd, request, timeout_s=VERIFY_TIMEOUT_S)

    async def _format(self, action: Format, observed: Observed, confirm: Callable[[], None]) -> None:
        if observed.device is None or not self._pin.is_locked:
            raise RefusedError(f"{self._pin.volume} was not locked when it was looked at.")
        record = FormatRecord(
            volume_id=self._pin.volume,
            uuid=action.resume_uuid or format_guard.choose_uuid(),
            type=action.type,
            size_bytes=observed.device.size_bytes,
            stage=FormatStage.INTENDED,
            recorded_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        fd = self._pin.fd
        request = format_guard.VerifyRequest(
            observed.device, self._node.source.identify, action.resume_uuid, self._pin.writes
        )
        await self._pin.call(format_guard.verify_formattable, fd, request, timeout_s=VERIFY_TIMEOUT_S)
        await self._node.save(self._node.records.write_format, record)
        # A synced note takes its time, in which someone else may have come, or the permission gone.
        try:
            await self._pin.call(format_guard.verify_formattable, fd, request, timeout_s=VERIFY_TIMEOUT_S)
            self._confirm_format(observed, confirm)
        except (AgentError, OSError):
            if action.resume_uuid is None:
                await self._node.save(self._node.records.remove_format, self._pin.volume)
            raise
        await mkfs.make_filesystem(
            fd,
            action.type,
            uuid=record.uuid,
            label=action.label,
            options=action.mkfs_options,
            is_resuming=action.resume_uuid is not None,
            confirm=lambda: self._confirm_format(observed, confirm),
        )
        await self._pin.call(
            format_guard.verify_formatted, fd, observed.device, record, timeout_s=VERIFY_TIMEOUT_S
        )
        # Not before: announced, a failure would wake its own next attempt, and no pause be kept.
        self._pin.is_changed = True
        self._pin.checked_state = None
        await self._node.save(self._node.records.write_format, format_guard.complete(record))
        self._pin.checked = Checked(is_clean=True, detail="made just now")

    def _confirm_format(self, observed: Observed, confirm: Callable[[], None]) -> None:
        """Raise OvertakenError unless the volume is to be formatted still, for all that is known by now."""
        confirm()
        answer = self._node.find_answer(self._pin.volume)
        if (answer.origin, answer.is_awaited) != (observed.origin, observed.is_origin_awaited):
            raise OvertakenError(f"Something else is known by now of what {self._pin.volume} was made from.")

    async def _settle_format(self, _: SettleFormat, observed: Observed) -> None:
        if observed.format_record is not None:
            record = format_guard.complete(observed.format_record)
            await self._node.save(self._node.records.write_format, record)

    async def _check(self, action: Check, observed: Observed) -> None:
        device = _need_device(observed)
        fd = await self._pin.open_part(device, action.partition)
        try:
            checked = self._pin.checked = await fsck.check_filesystem(fd, action.type)
        except AgentError as error:
            if error.reason is Reason.DEVICE_BUSY:  # which the tool says without saying by whom
                await self._pin.call(release_device.check_unused, device, timeout_s=FIND_TIMEOUT_S)
            raise
        finally:
            await self._pin.close_part(fd)
        # It may have taken hours: whatever else is on the device by now is looked for anew.
        self._pin.recognized = None
        state = await self._pin.call(read_state, self._pin.fd, device, timeout_s=FLUSH_TIMEOUT_S)
        self._pin.checked_state = state
        self._node.verdicts.keep(self._pin.volume, state, checked)

    async def _grow_partition(
        self, action: GrowPartition, observed: Observed, confirm: Callable[[], None]
    ) -> None:
        _need_device(observed)
        saved = self._node.paths.state / "partition-tables" / f"{self._pin.volume}.sfdisk"

        async def save(path: Path, table: str) -> None:
            await self._node.save(partition_table.save_table, path, table)

        async with self._pin.locked():
            entry = await partition_table.grow_partition(
                self._pin.fd, action.partition, action.to_bytes, saved, save=save, confirm=confirm
            )
            await self._pin.call(
                partition_table.resize_kernel_partition,
                self._pin.fd,
                entry.number,
                entry.start_bytes,
                entry.size_bytes,
                timeout_s=GROW_TIMEOUT_S,
            )
        self._pin.is_changed = True

    async def _grow_filesystem(self, action: GrowFilesystem, observed: Observed) -> None:
        device = _need_device(observed)
        mount = _need_mount(observed, action.path)
        fd = await self._pin.open_part(device, action.partition)
        try:
            await self._pin.call(
                change_mount.grow_mounted,
                mount.path,
                mount.device_number,
                fd,
                action.type,
                timeout_s=GROW_TIMEOUT_S,
            )
        finally:
            await self._pin.close_part(fd)

    async def _mount(self, action: MountFilesystem, observed: Observed) -> None:
        device = _need_device(observed)
        part: Device | Partition = device
        if action.partition is not None:
            part = find_partition(device, action.partition)
        request = MountRequest(
            source=part.path,
            device_number=part.device_number,
            type=action.type,
            uuid=action.uuid or "",
            path=action.path,
            allowed_roots=self._node.allowed_roots,
            options=action.options,
            uid=action.uid,
            gid=action.gid,
            mode=action.mode,
        )
        try:
            await self._pin.call(mount_filesystem, request, timeout_s=MOUNT_TIMEOUT_S)
        except AgentError as error:
            if DUPLICATE_UUID not in error.message or action.uuid is None or "nouuid" in action.options:
                raise
            self._node.duplicate_uuids.add(action.uuid)
            return
        await self._note_mount(action.path, part.device_number, device, action.options)

    async def _remount(self, action: Remount, observed: Observed) -> None:
        words = (*action.options, *action.undoing)
        await self._pin.call(
            change_mount.remount, action.path, action.device_number, words, timeout_s=MOUNT_TIMEOUT_S
        )
        in_force = (*action.options, *action.left)
        await self._note_mount(action.path, action.device_number, _need_device(observed), in_force)

    async def _move(self, action: MoveMount, observed: Observed) -> None:
        if action.ring:
            await self._node.rings.move(action.ring)
            return
        mount = _need_mount(observed, action.from_path)
        await self._pin.call(
            move_mount,
            action.from_path,
            mount.device_number,
            action.to_path,
            self._node.allowed_roots,
            timeout_s=MOUNT_TIMEOUT_S,
        )
        # What was asked for since it was mounted goes with it; else no option would be changed any more.
        note = await self._node.read(self._node.records.read_mount, self._pin.volume)
        if note is not None and note.path == action.from_path:
            await self._node.note_mount(replace(note, path=action.to_path))
        self._node.rings.hear_free(action.from_path)

    async def _unmount(self, action: Unmount, _: Observed) -> None:
        if action.is_stale:
            self._node.lost.add(self._pin.volume)
            leftover = await self._pin.call(detach_and_note, action.mount, timeout_s=OWN_TIMEOUT_S)
            earlier = self._node.leftovers.get(self._pin.volume, ())
            self._node.leftovers[self._pin.volume] = (*earlier, leftover)
        else:
            await self._pin.call(change_mount.unmount, action.mount, timeout_s=MOUNT_TIMEOUT_S)
        await self._node.forget_mount(self._pin.volume)
        self._node.rings.hear_free(action.mount.path)

    async def _set_root_ownership(self, action: SetRootOwnership, _: Observed) -> None:
        await self._pin.call(
            change_mount.set_root_ownership,
            action.path,
            action.device_number,
            action.uid,
            action.gid,
            action.mode,
            timeout_s=OWN_TIMEOUT_S,
        )

    async def _link(self, action: Link, observed: Observed) -> None:
        if not action.path.startswith(f"{links.BY_ID}/"):
            need_raw_note(observed)
        links.set_link(self._node.paths.dev_ebs, action.path, _need_device(observed).path)

    async def _unlink(self, action: Unlink, _: Observed) -> None:
        there = links.list_links(self._node.paths.dev_ebs)
        links.remove_links(
            self._node.paths.dev_ebs, {name: target for name, target in there.items() if name != action.path}
        )

    async def _note_raw(self, _: NoteRaw, observed: Observed) -> None:
        await note_raw(self._node, _need_device(observed), observed.node_owner)

    async def _set_node_ownership(self, action: SetNodeOwnership, observed: Observed) -> None:
        need_raw_note(observed)
        await self._own_node(_need_device(observed), action.uid, action.gid, action.mode)

    async def _restore_node_ownership(self, action: RestoreNodeOwnership, observed: Observed) -> None:
        owner = action.owner
        await self._own_node(_need_device(observed), owner.uid, owner.gid, owner.mode)
        await note_restored(self._node, need_raw_note(observed))

    async def _own_node(self, device: Device, uid: int | None, gid: int | None, mode: int | None) -> None:
        await self._pin.call(
            set_node_owner, device.path, device.device_number, uid, gid, mode, timeout_s=OWN_TIMEOUT_S
        )

    async def _end_raw(self, _: EndRaw, observed: Observed) -> None:
        await self._pin.call(release_device.check_unused, _need_device(observed), timeout_s=FIND_TIMEOUT_S)
        await self._node.save(self._node.records.remove_raw, self._pin.volume)

    async def _tune(self, action: Tune, observed: Observed) -> None:
        # A new scheduler waits for the requests under way, and a stalled device never ends them.
        await self._pin.call(
            set_tuning,
            _need_device(observed).device_number,
            action.read_ahead_bytes,
            action.scheduler,
            timeout_s=OWN_TIMEOUT_S,
        )

    async def _relinquish(self, action: Relinquish, observed: Observed) -> None:
        device = _need_device(observed)
        if not action.is_forced:
            await self._pin.call(release_device.check_unused, device, timeout_s=FIND_TIMEOUT_S)
        # What can be flushed is, whatever cannot; a filesystem that is mounted twice is the same one.
        failures: dict[DeviceNumber, AgentError | OSError | None] = {}
        for mount in observed.mounts:
            if failures.get(mount.device_number, True):
                failures[mount.device_number] = await self._flush_mount(mount, device)
        await self._pin.call(release_device.flush_device, self._pin.fd, timeout_s=FLUSH_TIMEOUT_S)
        for failure in filter(None, failures.values()):
            raise failure

    async def _flush_mount(self, mount: Mount, device: Device) -> AgentError | OSError | None:
        """Flush what is mounted, and return the error that this met."""
        try:
            await self._pin.call(release_device.flush_any_mount, mount, device, timeout_s=FLUSH_TIMEOUT_S)
        except (AgentError, OSError) as error:
            return error
        return None

    async def _note_mount(
        self, path: str, number: DeviceNumber, device: Device, options: tuple[str, ...]
    ) -> None:
        note = MountRecord(self._pin.volume, path, number, self._node.boot_id, device.diskseq, options)
        await self._node.note_mount(note)


def _need_device(observed: Observed) -> Device:
    if observed.device is None:
        raise VanishedError(f"{observed.volume_id} is not attached.")
    return observed.device


def _need_mount(observed: Observed, path: str) -> Mount:
    for mount in observed.mounts:
        if mount.path == path:
            return mount
    raise VanishedError(f"{observed.volume_id} is not mounted at {path} any more.")
