"""What can be made to go wrong, and that nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.ebs import Failure, Operation, Status, Target
from tests.ebs.errors import DO_NOT_RETRY
from tests.unit.ebs.conftest import OTHER, VOLUME, connect
from tests.unit.ebs.initiator import Attached, Initiator

AttachVolume = Callable[..., Awaitable[Attached]]


async def test_stalled_volume_holds_io_and_still_answers_admin_commands(
    attach_volume: AttachVolume, target: Target
) -> None:
    """As on EBS: identify, statistics and keep alive go on while I/O stands still."""
    volume, other = await attach_volume(), await attach_volume(OTHER)
    target.volume(VOLUME).stall()
    command = volume.io.start(0x01, **Attached.blocks(0, 512), send=b"held" + bytes(508))
    assert (await volume.admin.run(0x06, cdw10=1, receive=4096)).status == 0
    assert (await volume.admin.run(0x18)).status == 0
    assert (await other.read(0, 512)).status == 0
    assert command not in volume.io._finished
    target.volume(VOLUME).resume()
    assert (await volume.io.wait(command)).status == 0
    assert (await volume.read(0, 512)).data[:4] == b"held"


async def test_stall_can_wait_for_a_number_of_commands(attach_volume: AttachVolume, target: Target) -> None:
    """The third command is the first one held."""
    volume = await attach_volume()
    target.volume(VOLUME).stall(after=2)
    assert (await volume.read(0, 512)).status == 0
    assert (await volume.read(0, 512)).status == 0
    command = volume.io.start(0x02, **Attached.blocks(0, 512), receive=512)
    await volume.admin.run(0x18)
    assert target.volume(VOLUME).faults.is_stalled
    assert command not in volume.io._finished


async def test_stall_can_wait_for_a_write(attach_volume: AttachVolume, target: Target) -> None:
    """Reads pass and are not counted; from the second write on all is held."""
    volume = await attach_volume()
    target.volume(VOLUME).stall(after=1, on=frozenset({Operation.WRITE}))
    for _ in range(3):
        assert (await volume.read(0, 512)).status == 0
    assert (await volume.write(0, b"first" + bytes(507))).status == 0
    held = volume.io.start(0x01, **Attached.blocks(0, 512), send=b"second" + bytes(506))
    read = volume.io.start(0x02, **Attached.blocks(0, 512), receive=512)
    await volume.admin.run(0x18)
    assert not {held, read} & set(volume.io._finished)
    target.volume(VOLUME).resume()
    assert (await volume.io.wait(held)).status == 0
    assert (await volume.read(0, 512)).data[:6] == b"second"


async def test_admin_commands_stall_too_when_asked_but_never_keep_alive(
    attach_volume: AttachVolume, target: Target
) -> None:
    """An ioctl can hang as well; the connection must not, or the kernel would give the device up."""
    volume = await attach_volume()
    target.volume(VOLUME).stall(admin=True)
    identify = volume.admin.start(0x06, cdw10=1, receive=4096)
    assert (await volume.admin.run(0x18)).status == 0
    assert identify not in volume.admin._finished
    target.volume(VOLUME).resume()
    assert (await volume.admin.wait(identify)).data[4:7] == b"vol"


async def test_held_commands_of_a_lost_connection_are_never_carried_out(
    attach_volume: AttachVolume, target: Target
) -> None:
    """A write nobody waits for any more must not overwrite what came after it."""
    volume = await attach_volume()
    target.volume(VOLUME).stall()
    volume.io.start(0x01, **Attached.blocks(0, 512), send=b"late" + bytes(508))
    await volume.admin.run(0x18)
    target.sever(VOLUME)
    async with connect(target) as again:
        target.volume(VOLUME).resume()
        assert (await again.read(0, 512)).data == bytes(512)
    assert target.volume(VOLUME).statistics.queue_length == 0


async def test_delayed_write_of_a_lost_connection_is_never_carried_out(
    attach_volume: AttachVolume, target: Target
) -> None:
    """The same while it waits for its delay to pass."""
    volume = await attach_volume()
    target.volume(VOLUME).faults.delay_s = 0.2
    volume.io.start(0x01, **Attached.blocks(0, 512), send=b"late" + bytes(508))
    await volume.admin.run(0x18)
    target.sever(VOLUME)
    target.volume(VOLUME).heal()
    await asyncio.sleep(0.3)
    async with connect(target) as again:
        assert (await again.read(0, 512)).data == bytes(512)


async def test_slow_volume_answers_late(attach_volume: AttachVolume, target: Target) -> None:
    """Every command takes at least the delay."""
    volume = await attach_volume()
    target.volume(VOLUME).faults.delay_s = 0.1
    begin = asyncio.get_running_loop().time()
    assert (await volume.read(0, 512)).status == 0
    assert asyncio.get_running_loop().time() - begin >= 0.1
    assert target.volume(VOLUME).statistics.read.time_us >= 100_000


@pytest.mark.parametrize(
    ("offset", "size_bytes", "expected"),
    [
        (0, 4096, 0),
        (4096, 512, Status.READ_ERROR),
        (0, 8192, Status.READ_ERROR),
        (7680, 1024, Status.READ_ERROR),
        (8192, 512, 0),
    ],
)
async def test_failure_strikes_what_touches_its_range(
    attach_volume: AttachVolume, target: Target, offset: int, size_bytes: int, expected: int
) -> None:
    """A bad range of bytes is bad for every command that overlaps it, and for no other."""
    volume = await attach_volume()
    target.volume(VOLUME).faults.failures.append(Failure(Status.READ_ERROR, first=4096, end=8192))
    answer = await volume.read(offset, size_bytes)
    assert answer.status == (expected | DO_NOT_RETRY if expected else 0)


async def test_failure_is_for_the_operations_it_names(attach_volume: AttachVolume, target: Target) -> None:
    """A volume can refuse writes and still be read."""
    volume = await attach_volume()
    target.volume(VOLUME).faults.failures.append(
        Failure(Status.WRITE_FAULT, operations=frozenset({Operation.WRITE}))
    )
    assert (await volume.write(0, b"x" * 512)).code == Status.WRITE_FAULT
    assert (await volume.read(0, 512)).data == bytes(512)
    assert (await volume.flush()).status == 0
    assert target.volume(VOLUME).statistics.write.ops == 0


async def test_failure_can_hit_flushes(attach_volume: AttachVolume, target: Target) -> None:
    """A flush has no range, so any range concerns it."""
    volume = await attach_volume()
    target.volume(VOLUME).faults.failures.append(
        Failure(Status.INTERNAL_ERROR, operations=frozenset({Operation.FLUSH}), first=4096, end=8192)
    )
    assert (await volume.flush()).code == Status.INTERNAL_ERROR


async def test_failure_heals_after_its_count(attach_volume: AttachVolume, target: Target) -> None:
    """A transient error is one that goes away; retryable ones do not set Do Not Retry."""
    volume = await attach_volume()
    target.volume(VOLUME).faults.failures.append(Failure(Status.INTERNAL_PATH_ERROR, count=2, is_final=False))
    statuses = [(await volume.read(0, 512)).status for _ in range(3)]
    assert statuses == [Status.INTERNAL_PATH_ERROR, Status.INTERNAL_PATH_ERROR, 0]


async def test_held_command_can_be_aborted(attach_volume: AttachVolume, target: Target) -> None:
    """A host may give up waiting; what runs already cannot be called back."""
    volume = await attach_volume()
    target.volume(VOLUME).stall()
    command = volume.io.start(0x01, **Attached.blocks(0, 512), send=b"x" * 512)
    await volume.admin.run(0x18)
    aborted = await volume.admin.run(0x08, namespace_id=0, cdw10=1 | command << 16)
    assert aborted.result == 0
    assert (await volume.io.wait(command)).code == Status.ABORT_REQUESTED
    unknown = await volume.admin.run(0x08, namespace_id=0, cdw10=1 | 999 << 16)
    assert unknown.result == 1
    target.volume(VOLUME).resume()
    assert (await volume.read(0, 512)).data == bytes(512)


async def test_severed_volume_can_be_reached_again(attach_volume: AttachVolume, target: Target) -> None:
    """A broken connection is not a detached volume."""
    volume = await attach_volume()
    target.sever(VOLUME)
    assert await volume.io.reader.read() == b""
    async with connect(target) as again:
        assert (await again.read(0, 512)).status == 0


async def test_volume_cut_off_is_reached_once_it_is_healed(
    attach_volume: AttachVolume, target: Target
) -> None:
    """Until then a host is turned away, and told that it may try again."""
    await attach_volume()
    target.volume(VOLUME).faults.is_cut_off = True
    target.sever(VOLUME)
    host = await Initiator.open(target.port)
    await host.initialize()
    refused = await host.connect(target.volume(VOLUME).record.nqn)
    assert (refused.code, refused.status & DO_NOT_RETRY) == (Status.CONNECT_BUSY, 0)
    await host.close()
    target.volume(VOLUME).heal()
    async with connect(target) as again:
        assert (await again.read(0, 512)).status == 0


async def test_faults_do_not_outlive_the_target(attach_volume: AttachVolume, target: Target) -> None:
    """A test that died leaves no broken volume behind."""
    await attach_volume()
    target.volume(VOLUME).stall()
    target.volume(VOLUME).faults.delay_s = 5
    await target.stop()
    await target.start()
    async with connect(target) as volume:
        assert (await asyncio.wait_for(volume.read(0, 512), 2)).status == 0
