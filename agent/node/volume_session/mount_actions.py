"""Steps on a volume's mount: made, changed, moved and taken away, each with the note of it."""

from __future__ import annotations

from agent.core.errors import AgentError, RefusedError
from agent.core.model import (
    Device,
    DeviceNumber,
    MountRecord,
    Observed,
    Partition,
    Reason,
)
from agent.core.replace import replace
from agent.core.steps import (
    MountFilesystem,
    MoveMount,
    Publish,
    PublishNode,
    Remount,
    SetRootOwnership,
    Unmount,
    Unpublish,
)
from agent.node.filesystem import change_mount
from agent.node.filesystem.mount import MountRequest, move_mount
from agent.node.mounts.detached_mounts import detach_and_note
from agent.node.mounts.pod_views import View, publish_mount, publish_node, remove_view
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.pin import Pin, find_partition
from agent.node.volume_session.recheck import verify_and_mount
from agent.node.volume_session.step_needs import (
    MOUNT_TIMEOUT_S,
    OWN_TIMEOUT_S,
    need_device,
    need_filesystem,
    need_mount,
)

DUPLICATE_UUID = "duplicate UUID"
"""What xfs says when another mounted filesystem has the same one (fs/xfs/xfs_mount.c)."""


class MountActions:
    """How each of them is done for one volume."""

    def __init__(self, node: NodeContext, pin: Pin) -> None:
        self._node = node
        self._pin = pin

    async def mount(self, action: MountFilesystem, observed: Observed) -> None:
        device, content = need_device(observed), need_filesystem(observed)
        part: Device | Partition = device
        if action.partition is not None:
            part = find_partition(device, action.partition)
        roots, is_directory_made = self._node.choose_roots(action.path)
        request = MountRequest(
            source=part.path,
            device_number=part.device_number,
            type=action.type,
            uuid=action.uuid or "",
            path=action.path,
            allowed_roots=roots,
            is_directory_made=is_directory_made,
            options=action.options,
            uid=action.uid,
            gid=action.gid,
            mode=action.mode,
        )
        # What is mounted is what was looked at and checked, made sure of in the same call.
        expected = self._pin.expect(device, content, self._node.source.identify)
        try:
            await self._pin.call(verify_and_mount, self._pin.fd, expected, request, timeout_s=MOUNT_TIMEOUT_S)
        except AgentError as error:
            if DUPLICATE_UUID not in error.message or action.uuid is None or "nouuid" in action.options:
                raise
            self._node.duplicate_uuids.add(action.uuid)
            return
        await self._note_mount(action.path, part.device_number, device, action.options)

    async def remount(self, action: Remount, observed: Observed) -> None:
        words = (*action.options, *action.undoing)
        await self._pin.call(
            change_mount.remount, action.path, action.device_number, words, timeout_s=MOUNT_TIMEOUT_S
        )
        in_force = (*action.options, *action.left)
        await self._note_mount(action.path, action.device_number, need_device(observed), in_force)

    async def move(self, action: MoveMount, observed: Observed) -> None:
        if action.ring:
            await self._node.rings.move(action.ring)
            return
        mount = need_mount(observed, action.from_path)
        await self._pin.call(
            move_mount,
            action.from_path,
            mount.device_number,
            action.to_path,
            self._node.allowed_roots,
            timeout_s=MOUNT_TIMEOUT_S,
        )
        # What was asked for since it was mounted goes with it; else no option would be changed any more.
        note = await self._node.read(self._node.records.mounts.read, self._pin.volume)
        if note is not None and note.path == action.from_path:
            await self._node.note_mount(replace(note, path=action.to_path))
        self._node.rings.hear_free(action.from_path)

    async def unmount(self, action: Unmount, _: Observed) -> None:
        if action.is_stale:
            memory = self._node.remember(self._pin.volume)
            memory.was_lost = True
            leftover = await self._pin.call(detach_and_note, action.mount, timeout_s=OWN_TIMEOUT_S)
            memory.leftovers = (*memory.leftovers, leftover)
        else:
            await self._pin.call(change_mount.unmount, action.mount, timeout_s=MOUNT_TIMEOUT_S)
        await self._node.forget_mount(self._pin.volume)
        self._node.rings.hear_free(action.mount.path)

    async def set_root_ownership(self, action: SetRootOwnership, _: Observed) -> None:
        await self._pin.call(
            change_mount.set_root_ownership,
            action.path,
            action.device_number,
            action.uid,
            action.gid,
            action.mode,
            timeout_s=OWN_TIMEOUT_S,
        )

    async def publish(self, action: Publish, _: Observed) -> None:
        await self._pin.call(
            publish_mount,
            action.staged,
            action.path,
            action.options,
            self._find_roots(action.path),
            timeout_s=OWN_TIMEOUT_S,
        )

    async def publish_node(self, action: PublishNode, observed: Observed) -> None:
        device = need_device(observed)
        await self._pin.call(
            publish_node,
            device.path,
            device.device_number,
            action.path,
            ("ro",) if action.is_read_only else (),
            self._find_roots(action.path),
            timeout_s=OWN_TIMEOUT_S,
        )

    async def unpublish(self, action: Unpublish, observed: Observed) -> None:
        view = View(
            action.path,
            frozenset() if observed.device is None else observed.device.numbers,
            None if observed.device is None else observed.device.path,
            self._node.source.is_present if action.is_noted else None,
        )
        await self._pin.call(remove_view, view, self._find_roots(action.path), timeout_s=MOUNT_TIMEOUT_S)

    def _find_roots(self, path: str) -> tuple[str, ...]:
        """Return beneath which directory pods see volumes: kubelet's, and no other."""
        roots, is_made = self._node.choose_roots(path)
        if is_made:
            raise RefusedError(
                f"{path} is not below kubelet's directory ({self._node.kubelet_root or 'not known'}).",
                hint="agent.csi.kubelet_root in the policy says where that is.",
                reason=Reason.PATH_NOT_ALLOWED,
                retryable=False,
            )
        return roots

    async def _note_mount(
        self, path: str, number: DeviceNumber, device: Device, options: tuple[str, ...]
    ) -> None:
        note = MountRecord(self._pin.volume, path, number, self._node.boot_id, device.diskseq, options)
        await self._node.note_mount(note)
