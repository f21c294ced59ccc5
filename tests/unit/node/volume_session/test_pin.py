"""What a pass holds of a volume's device, on nodes that every machine has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from agent.core.errors import AgentError
from agent.core.model import Device, DeviceNumber, Filesystem, FsType, Identity, Partition, VolumeId
from agent.core.replace import replace
from agent.node.isolate.messages import Fd
from agent.node.isolate.workers import Workers
from agent.node.volume_session.inspect import DeviceFacts, LookRequest
from agent.node.volume_session.pin import Pin
from agent.node.volume_session.recheck import CheckedState, State

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


FOUND = Filesystem(FsType.EXT4, "6f1c1f0e-5a0b-4d0a-9c43-0d6c1d7a2b11")
BEFORE, AFTER = State(7, 2 << 30, (0, 0)), State(7, 2 << 30, (16, 0))


class Looking:
    """In the place of workers: each look finds what comes next."""

    def __init__(self, *found: tuple[Filesystem | None, State | None]) -> None:
        self._found = list(found)
        self._is_first = True

    async def call(self, *_: Any, **__: Any) -> object:
        content, recognized = self._found.pop(0)
        facts = DeviceFacts(describe_device(read_number()), None, content=content, recognized=recognized)
        is_first, self._is_first = self._is_first, False
        return (Fd(0), facts) if is_first else facts


@pytest.mark.parametrize(
    ("looks", "state"),
    [
        ([(FOUND, BEFORE)], BEFORE),
        ([(FOUND, BEFORE), (FOUND, None)], BEFORE),
        ([(FOUND, BEFORE), (FOUND, AFTER)], AFTER),
        ([(FOUND, None)], None),
        ([(replace(FOUND, label="other"), BEFORE), (FOUND, AFTER)], AFTER),
        ([(replace(FOUND, label="other"), BEFORE), (FOUND, None)], None),
        ([(FOUND, BEFORE), (None, AFTER), (FOUND, None)], None),
    ],
    ids=["once", "confirmed", "afresh", "not counted", "another", "another, not counted", "gone meanwhile"],
)
async def test_what_is_expected_is_what_was_recognised_last(
    looks: list[tuple[Filesystem | None, State | None]], state: State | None
) -> None:
    """In the state it was recognised in, and not in the one in which it was only confirmed."""
    pin = Pin(cast("Workers", Looking(*looks)), VOLUME, "/dev/nvme0n1")
    for _ in looks:
        await pin.look(cast("LookRequest", None))
    device = describe_device(read_number())
    assert pin.expect(device, FOUND, lambda _: device.identity).recognized == state
    other = replace(FOUND, uuid="other")
    assert pin.expect(device, other, lambda _: device.identity).recognized is None


async def test_shared_volume_is_recognised_afresh() -> None:
    """What other nodes write to it is not counted on this one."""
    pin = Pin(cast("Workers", Looking((FOUND, BEFORE))), VOLUME, "/dev/nvme0n1")
    await pin.look(cast("LookRequest", None))
    device = describe_device(read_number())
    shared = replace(device, identity=replace(device.identity, is_shared=True))
    assert pin.expect(shared, FOUND, lambda _: device.identity).recognized is None


@pytest.mark.parametrize(
    ("after", "state"),
    [
        (CheckedState(AFTER, is_recognized=True), AFTER),
        (CheckedState(AFTER, is_recognized=False), BEFORE),
        (CheckedState(None, is_recognized=False), BEFORE),
    ],
    ids=["nobody else wrote", "somebody did", "not counted"],
)
async def test_what_was_recognised_may_hold_after_a_check(after: CheckedState, state: State) -> None:
    """For the state the check left, or for the one before alone: then it is recognised afresh."""
    pin = Pin(cast("Workers", Looking((FOUND, BEFORE))), VOLUME, "/dev/nvme0n1")
    await pin.look(cast("LookRequest", None))
    pin.note_check(after)
    device = describe_device(read_number())
    expected = pin.expect(device, FOUND, lambda _: device.identity)
    assert (expected.recognized, expected.checked) == (state, after.state)


def test_discarding_is_no_writing() -> None:
    """Nothing that the agent runs in place of a check discards, so who did is another."""
    assert BEFORE.add(8192) == AFTER
    assert BEFORE.add(8192) != replace(AFTER, writes=(16, 8))
