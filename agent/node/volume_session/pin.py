"""A volume's device, held from the first look of a pass to its last step, and what was proven on it.

Opening, asking and letting go may all block, so all of them happen in workers. While the descriptor is held
the kernel gives its device number to no other disk.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from typing_extensions import TypeVarTuple, Unpack

from agent.core.errors import VanishedError
from agent.core.model import (
    Checked,
    Content,
    Device,
    DeviceNumber,
    Filesystem,
    Identity,
    Partition,
    VolumeId,
)
from agent.node.content.recognize import probe
from agent.node.device.device_lock import LOCK_PATIENCE_S, announce_change, lock_device, unlock_device
from agent.node.device.open_device import open_partition
from agent.node.filesystem.format_guard import lock_and_probe
from agent.node.isolate.messages import Fd
from agent.node.isolate.workers import Workers
from agent.node.volume_session.inspect import DeviceFacts, LookRequest, look_at, open_and_look
from agent.node.volume_session.recheck import CheckedState, State, Unchanged

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

OPEN_TIMEOUT_S = 10.0
LOOK_TIMEOUT_S = 15.0
"""Some hundred KiB are read of a device whose contents are looked at."""
PROBE_TIMEOUT_S = 195.0
"""Proof of blankness reads up to 1 GiB; a throttled volume gives 50 MiB/s or less. Another's lock is waited
for before it."""


class Pin:
    """The device of one volume during one pass; no device where the volume is absent."""

    def __init__(self, workers: Workers, volume: VolumeId, path: str | None) -> None:
        self.volume = volume
        self.path = path
        self.is_locked = False
        self.checked: Checked | None = None
        """What a filesystem check found in this pass, or in an earlier one on the same state."""
        self.checked_state: State | None = None
        """On which state of the device it found that in this pass; None also where that cannot be told."""
        self.recognized: Filesystem | None = None
        """What the last look found on the device."""
        self._recognized_state: State | None = None
        """In which state of the device the looks recognised that, or began to; None where it is not known."""
        self.writes: tuple[int, ...] | None = None
        """What had been written to the device, by ``count_writes``, before its contents were last proven."""
        self.is_changed = False
        """Something else is on the device now, and udev is to be told once the lock is let go."""
        self._workers = workers
        self._fd: Fd | None = None

    @property
    def fd(self) -> Fd:
        """The descriptor everything is done on. Raises VanishedError where there is none."""
        if self._fd is None:
            raise VanishedError(f"{self.volume} is not attached.")
        return self._fd

    async def call(self, function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts], timeout_s: float) -> T:
        """Run ``function`` in a worker, about this volume."""
        return await self._workers.call(function, *args, timeout_s=timeout_s, subject=self.volume)

    async def look(self, request: LookRequest) -> DeviceFacts:
        """Look at the device, opened first and then held."""
        if self._fd is None:
            self._fd, look = await self.call(open_and_look, request, timeout_s=LOOK_TIMEOUT_S)
        else:
            look = await self.call(look_at, self._fd, request, timeout_s=LOOK_TIMEOUT_S)
        found = look.content if isinstance(look.content, Filesystem) and not look.mounts else None
        if look.recognized is not None or found != self.recognized:
            self._recognized_state = look.recognized
        self.recognized = found
        return look

    def expect(self, device: Device, content: Filesystem, identify: Callable[[int], Identity]) -> Unchanged:
        """Return what is to be found before the device is checked or mounted: what was looked at and checked.

        What another node writes to a shared volume is counted there, so that is recognised afresh.
        """
        is_known = content == self.recognized and not device.identity.is_shared
        state = self._recognized_state if is_known else None
        return Unchanged(device, identify, content, checked=self.checked_state, recognized=state)

    def note_check(self, after: CheckedState) -> None:
        """Note how a check left the device: what was recognised before may hold for that."""
        self.checked_state = after.state
        if after.is_recognized:
            self._recognized_state = after.state

    async def lock_and_probe(self, device: Device) -> Content:
        """Find out what is on the device, with udev and other tools kept off it until the pass ends."""
        found = await self.call(lock_and_probe, self.fd, device, timeout_s=PROBE_TIMEOUT_S)
        self.is_locked, self.writes = True, found.writes
        return found.content

    async def probe(self, device: Device) -> Content:
        """Find out what is on the device as it is now, for whoever only wants to know."""
        return await self.call(probe, self.fd, device, timeout_s=PROBE_TIMEOUT_S)

    async def open_part(self, device: Device, number: int | None) -> Fd:
        """Return a descriptor of partition ``number``, or of the whole device; give it to ``close_part``."""
        if number is None:
            return self.fd
        part = find_partition(device, number)
        return await self.call(open_partition, part.path, part.device_number, timeout_s=OPEN_TIMEOUT_S)

    async def close_part(self, fd: Fd) -> None:
        """Let go of a partition; the whole device stays held."""
        if fd != self._fd:
            await self._workers.close(fd, subject=self.volume)

    async def close(self) -> None:
        """Let go of the device, and so of its lock."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            rdev = os.fstat(fd).st_rdev
            number = DeviceNumber(os.major(rdev), os.minor(rdev)) if self.is_changed else None
            self.is_locked = self.is_changed = False
            await self._workers.close(fd, subject=self.volume)
            if number is not None:
                await self.call(announce_change, number, timeout_s=OPEN_TIMEOUT_S)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Keep udev and other tools off the device within."""
        await self.call(lock_device, self.fd, timeout_s=LOCK_PATIENCE_S + OPEN_TIMEOUT_S)
        try:
            yield
        finally:
            if self._fd is not None:
                await self.call(unlock_device, self._fd, timeout_s=OPEN_TIMEOUT_S)


def find_partition(device: Device, number: int) -> Partition:
    """Return a partition of ``device`` by its number, or raise VanishedError."""
    for partition in device.partitions:
        if partition.number == number:
            return partition
    raise VanishedError(f"{device.path} has no partition {number} any more.")
