"""What a pass holds of a volume's device, on nodes that every machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.core.errors import AgentError
from agent.core.model import Device, DeviceNumber, Identity, Partition, VolumeId
from agent.node.isolate.workers import Workers
from agent.node.volume_session.pin import Pin

pytestmark = pytest.mark.anyio

VOLUME = VolumeId("vol-0123456789abcdef0")
NODE = "/dev/null"


def describe_device(number: DeviceNumber) -> Device:
    """Return a device whose only partition is the node at ``NODE``, said to have this number."""
    partition = Partition(1, NODE, number, start_bytes=1 << 20, size_bytes=1 << 30)
    identity = Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0")
    return Device("/dev/nvme0n1", DeviceNumber(259, 0), identity, 2 << 30, partitions=(partition,))


def read_number() -> DeviceNumber:
    """Return the number of the node at ``NODE``."""
    return split_number(Path(NODE).stat())


def split_number(status: os.stat_result) -> DeviceNumber:
    """Return the device number of a node."""
    return DeviceNumber(os.major(status.st_rdev), os.minor(status.st_rdev))


async def test_partition_is_open_here() -> None:
    """A partition's descriptor is the daemon's own, of that partition, and its end is no other's."""
    async with Workers() as workers:
        pin = Pin(workers, VOLUME, "/dev/nvme0n1")
        fd = await pin.open_part(describe_device(read_number()), 1)
        assert split_number(os.fstat(fd)) == read_number()
        await pin.close_part(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        assert await workers.call(os.getpid, timeout_s=60, subject=VOLUME) > 0


async def test_another_partition_is_refused() -> None:
    """A node that is of another partition by now is not opened."""
    async with Workers() as workers:
        pin = Pin(workers, VOLUME, "/dev/nvme0n1")
        with pytest.raises(AgentError, match="not the partition"):
            await pin.open_part(describe_device(DeviceNumber(259, 7)), 1)
