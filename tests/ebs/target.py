"""The target: a directory of volumes, and the one instance they can be attached to.

The face that tests use. It owns which volumes exist, which are attached, and their files; what a host sends
is served by `connection` and `controller`. One process per directory, enforced by a lock.

    async with Target(directory, host=LinuxHost()) as target:
        await target.create("vol-0123456789abcdef0", size_bytes=10 << 30)
        device = await target.attach("vol-0123456789abcdef0", device_name="/dev/sdf")
        await target.grow("vol-0123456789abcdef0", 20 << 30)
        target.volume("vol-0123456789abcdef0").stall()
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tests.ebs.backing import Backing, copy_file, create_file
from tests.ebs.clock import now_us
from tests.ebs.connection import Connection
from tests.ebs.controller import Controller
from tests.ebs.errors import TargetError
from tests.ebs.fabrics import Connect, connect_data_error
from tests.ebs.host import LinuxHost
from tests.ebs.limits import Limiter, Rates
from tests.ebs.record import (
    VolumeRecord,
    check_volume_id,
    load_record,
    save_record,
    serial_of,
    sync_directory,
)
from tests.ebs.subsystem import Subsystem
from tests.ebs.volume import Volume

if TYPE_CHECKING:
    from typing_extensions import Self  # no dependency where the target runs

log = logging.getLogger(__name__)

_BACKLOG = 256  # many volumes connect at once, each with several queues
_NO_RATES = Rates()


class Target:
    """Volumes in ``directory``, served on ``address``.

    ``host`` makes this machine's kernel follow attach, detach and pull; without it that is the caller's
    business. ``instance_rates`` limit all attached volumes together.
    """

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 4420,
        host: LinuxHost | None = None,
        instance_rates: Rates = _NO_RATES,
        sync: Callable[[int], None] = os.fdatasync,
    ) -> None:
        self.directory = directory
        self.address = address
        self.port = port
        self._host = host
        self._sync = sync
        self._instance = Limiter(instance_rates)
        self._volumes: dict[str, Volume] = {}
        self._subsystems: dict[str, Subsystem] = {}  # by NQN: the attached volumes
        self._connections: set[Connection] = set()
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._server: asyncio.Server | None = None
        self._lock = -1

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Load every volume of the directory and listen; attached ones can be reached again at once."""
        self._take_lock()
        try:
            for path in sorted(self.directory.glob("*.json")):
                self._open(load_record(path))
            self._server = await asyncio.get_running_loop().create_server(
                self._accept, self.address, self.port, backlog=_BACKLOG
            )
        except BaseException:
            await self.stop()
            raise
        self.port = self._server.sockets[0].getsockname()[1]
        log.info("serving %d volumes on %s:%d", len(self._volumes), self.address, self.port)

    async def stop(self) -> None:
        """Close every connection and file. Hosts find attached volumes again when the target returns."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.close("the target stops")
        await self._all_closed.wait()
        for volume in self._volumes.values():
            await volume.close()
        self._volumes.clear()
        self._subsystems.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Volumes

    @property
    def volumes(self) -> list[Volume]:
        return list(self._volumes.values())

    def volume(self, volume_id: str) -> Volume:
        """Return a volume, whose methods stall, slow, fail and heal it; TargetError where there is none."""
        try:
            return self._volumes[volume_id]
        except KeyError:
            raise TargetError(f"there is no volume {volume_id}") from None

    async def create(
        self,
        volume_id: str,
        *,
        size_bytes: int = 0,
        source: Path | None = None,
        is_multi_attach: bool = False,
        has_paths: bool = False,
        rates: Rates = _NO_RATES,
    ) -> Volume:
        """Create a volume, blank or with the bytes of the snapshot ``source``, whose size is the least."""
        check_volume_id(volume_id)
        if volume_id in self._volumes:
            raise TargetError(f"{volume_id} exists")
        source_bytes = os.stat(source).st_size if source else 0  # noqa: PTH116 - pathlib is taken for a wait
        record = VolumeRecord(
            volume_id=volume_id,
            size_bytes=size_bytes or source_bytes,
            serial=serial_of(volume_id),
            is_multi_attach=is_multi_attach,
            has_paths=has_paths,
            rates=rates,
        )
        if record.size_bytes < source_bytes:
            raise TargetError(f"{volume_id}: smaller than the snapshot it is made from")
        # A backing file without a record is a creation that was interrupted, and nobody's data.
        self._path(volume_id, "img").unlink(missing_ok=True)
        if source is None:
            create_file(self._path(volume_id, "img"), record.size_bytes)
        else:
            await asyncio.to_thread(copy_file, source, self._path(volume_id, "img"))
            os.truncate(self._path(volume_id, "img"), record.size_bytes)
        sync_directory(self.directory)
        save_record(self._path(volume_id, "json"), record)
        return self._open(record)

    async def delete(self, volume_id: str) -> None:
        """Remove a volume that is not attached, and its bytes."""
        volume = self.volume(volume_id)
        if volume.record.is_attached:
            raise TargetError(f"{volume_id} is attached")
        self._path(volume_id, "json").unlink()
        del self._volumes[volume_id]
        await volume.close()
        self._path(volume_id, "img").unlink()
        sync_directory(self.directory)

    async def clear(self) -> None:
        """Heal, pull and delete every volume."""
        for volume in self.volumes:
            volume.heal()
            if volume.record.is_attached:
                await self.pull(volume.record.volume_id)
            await self.delete(volume.record.volume_id)

    async def snapshot(self, volume_id: str, path: Path) -> None:
        """Copy a volume's bytes, as they are at this moment, to a new file; its commands wait meanwhile."""
        await self.volume(volume_id).copy_to(path)

    async def grow(self, volume_id: str, size_bytes: int) -> None:
        """Make a volume larger, as ModifyVolume does; hosts are told, and Linux announces RESIZE=1."""
        volume = self.volume(volume_id)
        volume.grow(size_bytes)
        if volume.record.is_attached:
            self._subsystems[volume.record.nqn].announce_change()

    def set_rates(self, volume_id: str, rates: Rates) -> None:
        volume = self.volume(volume_id)
        volume.update_record(replace(volume.record, rates=rates))

    def set_instance_rates(self, rates: Rates) -> None:
        self._instance.change(rates, now_us())

    # Attachments

    async def attach(
        self, volume_id: str, *, device_name: str = "", serial: str | None = None
    ) -> Path | None:
        """Let hosts find a volume under a block device name, and connect the host's kernel if there is one.

        Returns the device, ``/dev/nvmeXn1``, or None without a host. ``serial`` makes it say another serial
        than its own. Attaching what is attached connects the kernel where it is not connected.
        """
        volume = self.volume(volume_id)
        if not volume.record.is_attached:
            own = serial_of(volume_id)
            record = replace(volume.record, is_attached=True, device_name=device_name, serial=serial or own)
            if record.nqn in self._subsystems:
                raise TargetError(f"{volume_id}: another attached volume says serial {record.serial}")
            volume.update_record(record)
            volume.reset_statistics()
            self._subsystems[record.nqn] = Subsystem(volume)
        if self._host is None:
            return None
        return await self._host.connect(volume.record.nqn, self.address, self.port)

    async def detach(self, volume_id: str) -> None:
        """Let the kernel give the volume up while it still answers, then hide it."""
        volume = self._attached(volume_id)
        if self._host is not None:
            await self._host.disconnect(volume.record.nqn)
        self._hide(volume, "detached")

    async def pull(self, volume_id: str) -> None:
        """Take a volume away without warning, as a forced detach does: I/O in flight fails."""
        volume = self._attached(volume_id)
        nqn = volume.record.nqn
        if self._host is not None:
            self._host.give_up(nqn)
        self._hide(volume, "pulled")
        if self._host is not None:
            await self._host.wait_until_gone(nqn)

    async def put_back(self, volume_id: str, *, serial: str | None = None) -> Path | None:
        """Attach a volume under the device name it had, perhaps with another serial."""
        volume = self.volume(volume_id)
        return await self.attach(volume_id, device_name=volume.record.device_name, serial=serial)

    def sever(self, volume_id: str, reason: str = "severed") -> None:
        """Break a volume's connections. It stays attached, so hosts come back by themselves."""
        self._subsystems[self._attached(volume_id).record.nqn].end(reason)

    def open_queue(self, connect: Connect, connection: Connection) -> Controller:
        """Return the controller a connection asks for (see `connection.Directory`)."""
        subsystem = self._subsystems.get(connect.subsystem_nqn)
        if subsystem is None:
            raise connect_data_error(256)
        return subsystem.open_queue(connect, connection)

    def _attached(self, volume_id: str) -> Volume:
        volume = self.volume(volume_id)
        if not volume.record.is_attached:
            raise TargetError(f"{volume_id} is not attached")
        return volume

    def _hide(self, volume: Volume, reason: str) -> None:
        volume.update_record(replace(volume.record, is_attached=False))
        self._subsystems.pop(volume.record.nqn).end(reason)

    def _open(self, record: VolumeRecord) -> Volume:
        json_path, image_path = self._path(record.volume_id, "json"), self._path(record.volume_id, "img")
        backing = Backing(image_path, sync=self._sync)
        if backing.size_bytes < record.size_bytes:
            backing.close()
            raise TargetError(f"{image_path} is shorter than the {record.size_bytes} bytes of its volume")
        volume = Volume(record, json_path, backing, self._instance)
        self._volumes[record.volume_id] = volume
        if record.is_attached:
            self._subsystems[record.nqn] = Subsystem(volume)
        return volume

    def _accept(self) -> Connection:
        connection = Connection(self, self._forget)
        self._connections.add(connection)
        self._all_closed.clear()
        return connection

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._all_closed.set()

    def _path(self, volume_id: str, suffix: str) -> Path:
        return self.directory / f"{volume_id}.{suffix}"

    def _take_lock(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise TargetError(f"another target serves {self.directory}") from None
