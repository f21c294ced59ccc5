"""The Identify data structures: how a volume introduces itself, in EBS's words.

Pure. Layouts: NVMe base 1.4, section 5.15, and NVMe-oF 1.1, section 4.1. EBS's own values were read off Nitro
instances; where the fabric demands another, a comment says so.
"""

from __future__ import annotations

import struct

from tests.ebs.errors import CommandError, Status
from tests.ebs.nvm import NAMESPACE_ID
from tests.ebs.pdu import IN_CAPSULE_BYTES, MAX_TRANSFER_BYTES
from tests.ebs.record import VolumeRecord

PAGE_BYTES = 4096
AMAZON = 0x1D0F
EBS_MODEL = "Amazon Elastic Block Store"
INSTANCE_STORE_MODEL = "Amazon EC2 NVMe Instance Storage"
VERSION = 0x10400  # NVMe 1.4
QUEUE_ENTRIES = 128
EVENT_REQUESTS = 4
NAMESPACE_CHANGES = 1 << 8  # the asynchronous event a grown volume raises: bit in OAES and in its feature

_IEEE = bytes.fromhex("a002dc")  # Amazon's, least significant byte first
_FIRMWARE = "1.0"
_SECTOR_SHIFT = 9


def pack_controller(record: VolumeRecord, controller_id: int) -> bytes:
    """Return Identify Controller (CNS 01h)."""
    page = bytearray(PAGE_BYTES)
    model = INSTANCE_STORE_MODEL if record.is_instance_store else EBS_MODEL
    struct.pack_into("<HH", page, 0, AMAZON, AMAZON)
    _put_text(page, 4, 20, record.serial)
    _put_text(page, 24, 40, model)
    _put_text(page, 64, 8, _FIRMWARE)
    page[73:76] = _IEEE
    page[76] = 2 if record.has_paths else 0  # CMIC: several controllers, which makes Linux multi-path
    page[77] = (MAX_TRANSFER_BYTES // PAGE_BYTES).bit_length() - 1  # MDTS
    struct.pack_into("<HI", page, 78, controller_id, VERSION)
    struct.pack_into("<I", page, 92, NAMESPACE_CHANGES)  # OAES
    struct.pack_into("<I", page, 96, 1)  # CTRATT: host identifiers of 128 bits, which fabrics demand
    page[111] = 1  # CNTRLTYPE: an I/O controller
    page[258] = 3  # ACL, zero-based
    page[259] = EVENT_REQUESTS - 1  # AERL, zero-based
    page[260] = 3  # FRMW: one slot, read only
    page[261] = 4  # LPA: log pages have offsets
    struct.pack_into("<H", page, 320, 10)  # KAS: keep alive in seconds, which fabrics demand
    page[512:514] = b"\x66\x44"  # SQES, CQES: 64 and 16 bytes
    struct.pack_into("<H", page, 514, QUEUE_ENTRIES)  # MAXCMD
    struct.pack_into("<I", page, 516, 1)  # NN
    struct.pack_into("<H", page, 520, 1 << 2 | 1 << 3)  # ONCS: dataset management, write zeroes
    page[525] = 0x07  # VWC: there is a write cache, and a flush may name every namespace
    struct.pack_into("<I", page, 536, 1 << 20 | 1)  # SGLS: supported, with offsets into the capsule
    page[768:1024] = record.nqn.encode().ljust(256, b"\0")
    struct.pack_into("<II", page, 1792, (64 + IN_CAPSULE_BYTES) // 16, 1)  # IOCCSZ, IORCSZ
    page[1803] = 1  # MSDBD: one data descriptor a command
    _put_text(page, 3072, 32, "" if record.is_instance_store else record.device_name)
    return bytes(page)


def pack_namespace(record: VolumeRecord) -> bytes:
    """Return Identify Namespace (CNS 00h), as on EBS without EUI-64 or NGUID: the serial is the identity."""
    page = bytearray(PAGE_BYTES)
    struct.pack_into("<QQQ", page, 0, record.sectors, record.sectors, record.sectors)
    page[30] = 1 if record.is_multi_attach or record.has_paths else 0  # NMIC: may be attached to several
    page[33] = 0x09  # DLFEAT: deallocated blocks read as zeros, and write zeroes deallocates
    struct.pack_into("<I", page, 128, _SECTOR_SHIFT << 16)  # LBAF0
    return bytes(page)


def pack_page(
    record: VolumeRecord, controller_id: int, *, cns: int, namespace_id: int, dword11: int
) -> bytes:
    """Return the 4096 bytes an Identify command asks for; CommandError for what this target does not have."""
    if cns == 0x01:
        return pack_controller(record, controller_id)
    if cns == 0x02:  # active namespaces above the one named
        if namespace_id >= 0xFFFFFFFE:
            raise CommandError(Status.INVALID_NAMESPACE)
        return struct.pack("<I", NAMESPACE_ID if namespace_id < NAMESPACE_ID else 0).ljust(PAGE_BYTES, b"\0")
    if cns == 0x06 and dword11 >> 24 == 0:  # limits of the NVM command set: none of their own
        return bytes(PAGE_BYTES)
    if cns == 0x13:  # controllers of the subsystem, from the one in the upper half of dword 10 on
        return struct.pack("<HH", 1, controller_id).ljust(PAGE_BYTES, b"\0")
    if cns not in {0x00, 0x03}:
        raise CommandError(Status.INVALID_FIELD)
    if namespace_id != NAMESPACE_ID:
        raise CommandError(Status.INVALID_NAMESPACE)
    # The list of descriptors (03h) is empty: there is nothing to describe.
    return pack_namespace(record) if cns == 0x00 else bytes(PAGE_BYTES)


def _put_text(page: bytearray, offset: int, size: int, text: str) -> None:
    page[offset : offset + size] = text.encode("ascii").ljust(size, b" ")
