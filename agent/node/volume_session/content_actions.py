"""Steps on what is on a volume: format it, check it, and have what is there grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.core.errors import AgentError, OvertakenError, RefusedError
from agent.core.model import (
    Checked,
    FormatRecord,
    FormatStage,
    Observed,
    Reason,
)
from agent.core.steps import (
    Check,
    Format,
    GrowFilesystem,
    GrowPartition,
    SettleFormat,
)
from agent.core.units import utc_now
from agent.node.device import partition_steps, partition_table
from agent.node.filesystem import change_mount, format_guard, fsck, mkfs
from agent.node.isolate.programs import Completed, run
from agent.node.mounts import release_device
from agent.node.volume_session.context import NodeContext
from agent.node.volume_session.pin import Pin
from agent.node.volume_session.recheck import read_checked_state, verify_unchanged
from agent.node.volume_session.step_needs import (
    FIND_TIMEOUT_S,
    FLUSH_TIMEOUT_S,
    GROW_TIMEOUT_S,
    VERIFY_TIMEOUT_S,
    need_device,
    need_filesystem,
    need_mount,
)


class CountedRun:
    """Runs programs, and counts what they write to disks."""

    def __init__(self) -> None:
        self._counts: list[int | None] = []

    async def __call__(self, argv: Sequence[str], **settings: Any) -> Completed:
        completed = await run(argv, **settings)
        self._counts.append(completed.written_bytes)
        return completed

    @property
    def written_bytes(self) -> int | None:
        """What all of them wrote; None where that of one is not known."""
        known = [count for count in self._counts if count is not None]
        return sum(known) if len(known) == len(self._counts) else None


class ContentActions:
    """How each of them is done on the pinned device of one volume."""

    def __init__(self, node: NodeContext, pin: Pin) -> None:
        self._node = node
        self._pin = pin

    async def format(self, action: Format, observed: Observed, confirm: Callable[[], None]) -> None:
        if observed.device is None or not self._pin.is_locked:
            raise RefusedError(f"{self._pin.volume} was not locked when it was looked at.")
        record = FormatRecord(
            volume_id=self._pin.volume,
            uuid=action.resume_uuid or format_guard.choose_uuid(),
            type=action.type,
            size_bytes=observed.device.size_bytes,
            stage=FormatStage.INTENDED,
            recorded_at=utc_now().isoformat(timespec="seconds"),
        )
        fd = self._pin.fd
        request = format_guard.VerifyRequest(
            observed.device, self._node.source.identify, action.resume_uuid, self._pin.writes
        )
        await self._pin.call(format_guard.verify_formattable, fd, request, timeout_s=VERIFY_TIMEOUT_S)
        await self._node.save(self._node.records.formats.write, record)
        # A synced note takes its time, in which someone else may have come, or the permission gone.
        try:
            await self._pin.call(format_guard.verify_formattable, fd, request, timeout_s=VERIFY_TIMEOUT_S)
            self._confirm_format(observed, confirm)
        except (AgentError, OSError):
            if action.resume_uuid is None:
                await self._node.save(self._node.records.formats.remove, self._pin.volume)
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
        await self._node.save(self._node.records.formats.write, format_guard.complete(record))
        self._pin.checked = Checked(is_clean=True, detail="made just now")

    def _confirm_format(self, observed: Observed, confirm: Callable[[], None]) -> None:
        """Raise OvertakenError unless the volume is to be formatted still, for all that is known by now."""
        confirm()
        answer = self._node.find_answer(self._pin.volume)
        if (answer.origin, answer.is_awaited) != (observed.origin, observed.is_origin_awaited):
            raise OvertakenError(f"Something else is known by now of what {self._pin.volume} was made from.")

    async def settle_format(self, _: SettleFormat, observed: Observed) -> None:
        if observed.format_record is not None:
            record = format_guard.complete(observed.format_record)
            await self._node.save(self._node.records.formats.write, record)

    async def check(self, action: Check, observed: Observed) -> None:
        device, content = need_device(observed), need_filesystem(observed)
        expected = self._pin.expect(device, content, self._node.source.identify)
        # A check repairs, so what it is made on is still what was looked at.
        before = await self._pin.call(verify_unchanged, self._pin.fd, expected, timeout_s=VERIFY_TIMEOUT_S)
        counted = CountedRun()
        fd = await self._pin.open_part(device, action.partition)
        try:
            checked = self._pin.checked = await fsck.check_filesystem(fd, action.type, run=counted)
        except AgentError as error:
            if error.reason is Reason.DEVICE_BUSY:  # which the tool says without saying by whom
                await self._pin.call(release_device.check_unused, device, timeout_s=FIND_TIMEOUT_S)
            raise
        finally:
            await self._pin.close_part(fd)
        after = await self._pin.call(
            read_checked_state,
            self._pin.fd,
            device,
            content,
            before,
            counted.written_bytes,
            timeout_s=FLUSH_TIMEOUT_S,
        )
        self._pin.note_check(after)
        self._node.remember(self._pin.volume).keep_check(after.state, checked)

    async def grow_partition(
        self, action: GrowPartition, observed: Observed, confirm: Callable[[], None]
    ) -> None:
        need_device(observed)
        saved = self._node.paths.state / "partition-tables" / f"{self._pin.volume}.sfdisk"

        async def save(path: Path, table: str) -> None:
            await self._node.save(partition_steps.save_table, path, table)

        async with self._pin.locked():
            entry = await partition_table.grow_partition(
                self._pin.fd, action.partition, action.to_bytes, saved, save=save, confirm=confirm
            )
            await self._pin.call(
                partition_steps.resize_kernel_partition,
                self._pin.fd,
                entry.number,
                entry.start_bytes,
                entry.size_bytes,
                timeout_s=GROW_TIMEOUT_S,
            )
        self._pin.is_changed = True

    async def grow_filesystem(self, action: GrowFilesystem, observed: Observed) -> None:
        device = need_device(observed)
        mount = need_mount(observed, action.path)
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
