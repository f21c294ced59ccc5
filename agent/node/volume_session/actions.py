"""The steps, done on a pinned device. Each verifies for itself what it depends on, and none retries.

Whatever may block runs in a worker or a program, under a limit. What a step brought is for the next look to
find.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agent.core.errors import AgentError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import (
    Device,
    DeviceNumber,
    Mount,
    Observed,
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
    Publish,
    PublishNode,
    Relinquish,
    Remount,
    RestoreNodeOwnership,
    SetNodeOwnership,
    SetRootOwnership,
    SettleFormat,
    Tune,
    Unlink,
    Unmount,
    Unpublish,
)
from agent.node.device import links
from agent.node.device.node_owner import set_node_owner
from agent.node.device.tuning import set_tuning
from agent.node.filesystem.frozen_filesystems import find_touched_mount
from agent.node.mounts import release_device
from agent.node.volume_session.content_actions import ContentActions
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.mount_actions import MountActions
from agent.node.volume_session.pin import Pin
from agent.node.volume_session.raw_handover import need_raw_note, note_raw, note_restored, refuse_raw
from agent.node.volume_session.step_needs import (
    FIND_TIMEOUT_S,
    FLUSH_TIMEOUT_S,
    OWN_TIMEOUT_S,
    need_device,
)


class VolumeActions:
    """How each step is done."""

    def __init__(self, node: NodeContext, pin: Pin) -> None:
        self._node = node
        self._pin = pin
        content, mounts = ContentActions(node, pin), MountActions(node, pin)
        self.deeds: dict[type[Any], Callable[..., Awaitable[None]]] = {
            Format: content.format,
            GrowPartition: content.grow_partition,
            SettleFormat: content.settle_format,
            Check: content.check,
            GrowFilesystem: content.grow_filesystem,
            MountFilesystem: mounts.mount,
            Remount: mounts.remount,
            MoveMount: mounts.move,
            Unmount: mounts.unmount,
            Publish: mounts.publish,
            PublishNode: mounts.publish_node,
            Unpublish: mounts.unpublish,
            SetRootOwnership: mounts.set_root_ownership,
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
            asks_again = isinstance(action, (Format, GrowPartition))
            await self.deeds[type(action)](action, observed, *((confirm,) if asks_again else ()))
        except OSError as error:
            if is_shortage(error):
                raise explain_shortage(f"{self._pin.volume}: to {action.describe()} failed", error) from error
            raise AgentError(
                f"{self._pin.volume}: to {action.describe()} failed: {error.strerror or error}.",
                hint="See the kernel log for the device.",
                reason=Reason.STEP_FAILED,
            ) from error

    async def _link(self, action: Link, observed: Observed) -> None:
        if not action.path.startswith(f"{links.BY_ID}/"):
            need_raw_note(observed)
        links.set_link(self._node.paths.dev_ebs, action.path, need_device(observed).path)

    async def _unlink(self, action: Unlink, _: Observed) -> None:
        there = links.list_links(self._node.paths.dev_ebs)
        links.remove_links(
            self._node.paths.dev_ebs, {name: target for name, target in there.items() if name != action.path}
        )

    async def _note_raw(self, _: NoteRaw, observed: Observed) -> None:
        await note_raw(self._node, need_device(observed), observed.node_owner)

    async def _set_node_ownership(self, action: SetNodeOwnership, observed: Observed) -> None:
        need_raw_note(observed)
        await self._own_node(need_device(observed), action.uid, action.gid, action.mode)

    async def _restore_node_ownership(self, action: RestoreNodeOwnership, observed: Observed) -> None:
        owner = action.owner
        await self._own_node(need_device(observed), owner.uid, owner.gid, owner.mode)
        await note_restored(self._node, need_raw_note(observed))

    async def _own_node(self, device: Device, uid: int | None, gid: int | None, mode: int | None) -> None:
        await self._pin.call(
            set_node_owner, device.path, device.device_number, uid, gid, mode, timeout_s=OWN_TIMEOUT_S
        )

    async def _end_raw(self, _: EndRaw, observed: Observed) -> None:
        await self._pin.call(release_device.check_unused, need_device(observed), timeout_s=FIND_TIMEOUT_S)
        await self._node.save(self._node.records.raws.remove, self._pin.volume)

    async def _tune(self, action: Tune, observed: Observed) -> None:
        # A new scheduler waits for the requests under way, and a stalled device never ends them.
        await self._pin.call(
            set_tuning,
            need_device(observed).device_number,
            action.read_ahead_bytes,
            action.scheduler,
            timeout_s=OWN_TIMEOUT_S,
        )

    async def _relinquish(self, action: Relinquish, observed: Observed) -> None:
        device = need_device(observed)
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
