"""What a volume says of itself: EBS's words at EBS's offsets."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable

import pytest

from tests.ebs import Status, Target
from tests.unit.ebs.conftest import SIZE_BYTES, VOLUME
from tests.unit.ebs.initiator import Attached

AttachVolume = Callable[..., Awaitable[Attached]]
INSTANCE_STORE = "AWS0123456789ABCDEF0"


async def identify(volume: Attached, cns: int, *, namespace_id: int = 0, **more: int) -> bytes:
    answer = await volume.admin.run(0x06, cdw10=cns, namespace_id=namespace_id, receive=4096, **more)
    assert answer.status == 0, hex(answer.status)
    assert len(answer.data) == 4096
    return answer.data


async def test_controller_is_amazons_elastic_block_store(attach_volume: AttachVolume) -> None:
    """Vendor, serial, model and the vendor bytes are where the agent's ioctl reads them."""
    volume = await attach_volume()
    page = await identify(volume, 1)
    assert struct.unpack_from("<H", page)[0] == 0x1D0F
    assert page[4:24] == b"vol0123456789abcdef0"
    assert page[24:64] == b"Amazon Elastic Block Store".ljust(40)
    assert page[3072:3104] == b"/dev/sdf".ljust(32)
    assert struct.unpack_from("<H", page, 78)[0] == volume.controller_id


async def test_short_volume_id_is_a_short_serial(attach_volume: AttachVolume) -> None:
    """IDs of old volumes have 8 digits, and spaces fill the serial."""
    volume = await attach_volume("vol-89abcdef")
    assert (await identify(volume, 1))[4:24] == b"vol89abcdef".ljust(20)


async def test_instance_store_says_another_model_and_no_device_name(attach_volume: AttachVolume) -> None:
    """A drive that is not ours is told apart by its model."""
    volume = await attach_volume(INSTANCE_STORE)
    page = await identify(volume, 1)
    assert page[4:24] == INSTANCE_STORE.encode()
    assert page[24:64] == b"Amazon EC2 NVMe Instance Storage".ljust(40)
    assert page[3072:3104] == b" " * 32
    log = await volume.get_log_page(0xD0)
    assert struct.unpack_from("<I", log.data)[0] == 0xEC2C0D7E


async def test_controller_offers_what_linux_insists_on(attach_volume: AttachVolume) -> None:
    """Without keep alive or SGLs, Linux refuses a fabrics controller."""
    volume = await attach_volume()
    page = await identify(volume, 1)
    assert struct.unpack_from("<H", page, 320)[0] > 0  # KAS
    assert struct.unpack_from("<I", page, 536)[0] & 3 == 1  # SGLS
    assert page[111] == 1  # CNTRLTYPE
    assert struct.unpack_from("<I", page, 92)[0] & 1 << 8  # OAES: namespace changes
    assert struct.unpack_from("<H", page, 1800)[0] == 0  # ICDOFF
    assert struct.unpack_from("<I", page, 1792)[0] * 16 == 64 + 8192  # IOCCSZ
    assert page[768:1024].rstrip(b"\0") == b"nqn.2026-01.example.ebs:vol0123456789abcdef0"


async def test_namespace_has_the_volumes_size_and_no_other_identity(attach_volume: AttachVolume) -> None:
    """512-byte sectors, and no EUI-64 or NGUID that would replace the serial in udev's links."""
    volume = await attach_volume()
    page = await identify(volume, 0, namespace_id=1)
    assert struct.unpack_from("<QQQ", page) == (SIZE_BYTES // 512,) * 3
    assert page[130] == 9  # LBADS of format 0
    assert page[104:128] == bytes(24)
    assert page[30] == 0
    assert await identify(volume, 3, namespace_id=1) == bytes(4096)


async def test_multi_attach_volumes_namespace_may_be_shared(attach_volume: AttachVolume) -> None:
    """NMIC says so; the controller stays a single one, so that Linux shows no hidden paths."""
    volume = await attach_volume(is_multi_attach=True)
    assert (await identify(volume, 0, namespace_id=1))[30] & 1
    assert (await identify(volume, 1))[76] == 0


async def test_subsystem_with_paths_says_it_has_several_controllers(attach_volume: AttachVolume) -> None:
    """CMIC makes Linux multi-path, for tests of its hidden devices."""
    volume = await attach_volume(has_paths=True)
    assert (await identify(volume, 1))[76] & 2


async def test_only_namespace_one_is_active(attach_volume: AttachVolume) -> None:
    """The namespace is always 1 on EBS."""
    volume = await attach_volume()
    assert struct.unpack_from("<II", await identify(volume, 2, namespace_id=0)) == (1, 0)
    assert await identify(volume, 2, namespace_id=1) == bytes(4096)
    assert struct.unpack_from("<HH", await identify(volume, 0x13)) == (1, volume.controller_id)
    assert await identify(volume, 6) == bytes(4096)


@pytest.mark.parametrize(
    ("opcode", "what", "expected"),
    [
        (0x06, {"cdw10": 0x08, "receive": 4096}, Status.INVALID_FIELD),
        (0x06, {"cdw10": 0x06, "cdw11": 2 << 24, "receive": 4096}, Status.INVALID_FIELD),
        (0x06, {"cdw10": 0x00, "namespace_id": 2, "receive": 4096}, Status.INVALID_NAMESPACE),
        (0x02, {"cdw10": 0xC0 | 1023 << 16, "receive": 4096}, Status.INVALID_LOG_PAGE),
        (0x09, {"cdw10": 0x7E}, Status.INVALID_FIELD),
        (0x0A, {"cdw10": 0x7E}, Status.INVALID_FIELD),
        (0x09, {"cdw10": 0x06, "cdw11": 0}, Status.FEATURE_NOT_CHANGEABLE),
        (0x80, {}, Status.INVALID_OPCODE),
    ],
)
async def test_admin_command_that_is_not_offered_fails_with_its_status(
    attach_volume: AttachVolume, opcode: int, what: dict[str, int], expected: Status
) -> None:
    """A host may ask for more than there is; it hears so and goes on."""
    volume = await attach_volume()
    assert (await volume.admin.run(opcode, **what)).code == expected
    assert (await volume.admin.run(0x18)).status == 0


async def test_features_are_granted_and_remembered(attach_volume: AttachVolume) -> None:
    """Queues are granted up to 64, keep alive and events are as set."""
    volume = await attach_volume()
    granted = await volume.admin.run(0x09, cdw10=0x07, cdw11=0x01FF01FF)
    assert granted.result == 63 | 63 << 16
    await volume.admin.run(0x09, cdw10=0x0F, cdw11=15000)
    assert (await volume.admin.run(0x0A, cdw10=0x0F)).result == 15000
    host = await volume.admin.run(0x0A, cdw10=0x81, receive=16)
    assert host.data == b"nqn.2026-01.example.host:one"[-16:]


async def test_fifth_event_request_is_one_too_many(attach_volume: AttachVolume) -> None:
    """The limit is the one Identify gives, zero-based."""
    volume = await attach_volume()
    assert (await identify(volume, 1))[259] == 3
    for _ in range(4):
        volume.admin.start(0x0C, namespace_id=0)
    assert (await volume.admin.run(0x0C, namespace_id=0)).code == Status.EVENT_LIMIT_EXCEEDED


async def test_shutdown_is_complete_only_when_all_is_durable(
    attach_volume: AttachVolume, target: Target
) -> None:
    """A host that shuts its controller down may turn the power off next."""
    volume = await attach_volume()
    await volume.write(0, b"x" * 512)
    assert (await volume.admin.get_property(0x1C)).result == 1
    assert (await volume.admin.set_property(0x14, 0x464001)).status == 0
    assert (await volume.admin.get_property(0x1C)).result == 1 | 2 << 2
    assert target.volume(VOLUME).statistics.write.ops == 1


async def test_disabled_controller_serves_nothing(attach_volume: AttachVolume) -> None:
    """Commands before CC.EN, or after it is cleared, are out of sequence."""
    volume = await attach_volume()
    assert (await volume.admin.set_property(0x14, 0)).status == 0
    assert (await volume.admin.get_property(0x1C)).result == 0
    assert (await volume.read(0, 512)).code == Status.SEQUENCE_ERROR
    assert (await volume.admin.run(0x06, cdw10=1, receive=4096)).code == Status.SEQUENCE_ERROR


async def test_capabilities_are_a_queue_of_128_and_the_nvm_command_set(attach_volume: AttachVolume) -> None:
    """CAP is what Linux sizes its queues by."""
    volume = await attach_volume()
    capabilities = (await volume.admin.get_property(0, wide=True)).result
    assert capabilities & 0xFFFF == 127
    assert capabilities >> 37 & 1
    assert (await volume.admin.get_property(8)).result == 0x10400
    assert (await volume.admin.get_property(0x20)).code == Status.INVALID_FIELD
