"""Asks an NVMe device which volume it is, by ioctl on its open descriptor. Never by name, link or sysfs.

The bytes come from a device that anyone may have made: whatever is not exactly what EBS says is refused with
a reason. Layouts: NVM Express base specification (Identify Controller, Identify Namespace); the vendor area
and the serial's form as AWS documents them and its own ``ebsnvme`` reads them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import struct
from pathlib import Path

from msgspec import Struct

from agent.core.errors import AgentError, InconclusiveError, RefusedError
from agent.core.exhaustion import is_shortage
from agent.core.model import DeviceNumber, Identity, Reason, VolumeId
from agent.node.kernel.ioctl import NvmeAdminCommand, Request, ioctl
from agent.node.kernel.sysfs import SYSFS, list_names, locate, read_attribute

FABRICS_VARIABLE = "EBS_AGENT_TEST_FABRICS"
"""Set to 1, a device over a network that says it is an EBS volume is taken for one: for tests alone."""
FABRICS_WARNING = f"{FABRICS_VARIABLE} is set, so any target over a network may pass for a volume."
FABRICS_HINT = f"Take {FABRICS_VARIABLE} out of the unit's environment and restart it. It is for tests alone."

_GET_LOG_PAGE = 0x02
_IDENTIFY = 0x06
_CNS_NAMESPACE = 0
_CNS_CONTROLLER = 1
_PAGE_BYTES = 4096
_TIMEOUT_MS = (1 << 31) - 1
"""Weeks. A kernel that gives an admin command up resets the controller, and one that merely stalls may lose
its device by that, with all that was not flushed (drivers/nvme/host/pci.c, nvme_timeout). It is the worker
that asks which is given up."""
_LOG_PAGE_EBS = 0xD0
_STATUS_TYPE = 0x700
_PATH_RELATED = 0x300
"""The type of status with which Linux ends what it could not send: the controller is being reset or reached
again (drivers/nvme/host/core.c, nvme_fail_nonready_command and nvme_cancel_request)."""
_NSID = 1

_VENDOR_AMAZON = 0x1D0F
_MODEL_EBS = "Amazon Elastic Block Store"
_MODEL_INSTANCE_STORE = "Amazon EC2 NVMe Instance Storage"

_PCIE = "pcie"
"""EBS's transport, as the kernel names it (drivers/nvme/host/pci.c); others are tcp, rdma, fc, loop."""
_CONTROLLER = re.compile(r"nvme\d+", re.ASCII)

_SERIAL = re.compile(r"vol(?P<digits>[0-9a-f]{17}|[0-9a-f]{8})", re.ASCII)
_ATTACH_NAME = re.compile(r"(?:/dev/)?(?P<name>[a-z][a-z0-9]{1,15})", re.ASCII)


class Controller(Struct, frozen=True):
    """What Identify Controller says, as far as the agent asks; text decoded and checked, nothing judged."""

    vendor_id: int
    serial: str
    model: str
    vendor_area: bytes
    is_fabrics: bool
    """Reached over a network (NVMe over Fabrics); EBS itself is always a PCIe function."""


def identify(fd: int, *, takes_fabrics: bool = False) -> Identity:
    """Return which volume the device open at ``fd`` is.

    ``takes_fabrics`` takes what is reached over a network for a volume, whoever made it: for tests alone.

    Raises RefusedError where the device is not an EBS volume or says nonsense, InconclusiveError where the
    kernel cannot reach it now, AgentError where it does not answer the commands of an NVMe device.
    """
    transports = _find_transports(fd)
    foreign = transports - {_PCIE, None}
    if foreign and not takes_fabrics:
        # What a network shows may be made by anyone, vendor and all.
        way = ", ".join(sorted(map(str, foreign)))
        raise _refuse(f"it is reached over {way}, and EBS's volumes over PCIe")
    controller = _send_admin_command(fd, _IDENTIFY, nsid=0, cdw10=_CNS_CONTROLLER)
    namespace = _send_admin_command(fd, _IDENTIFY, nsid=_NSID, cdw10=_CNS_NAMESPACE)
    identity = parse_identity(controller, namespace, takes_fabrics=bool(foreign))
    if not transports or None in transports:
        raise _miss("sysfs does not say how it is reached")
    return identity


def _find_transports(fd: int) -> frozenset[str | None]:
    rdev = os.fstat(fd).st_rdev
    return read_transports(DeviceNumber(os.major(rdev), os.minor(rdev)))


def read_transports(number: DeviceNumber, sysfs: Path = SYSFS) -> frozenset[str | None]:
    """Return how the controllers of a disk are reached, ``pcie`` or ``tcp``; None of one that is mute.

    It is the kernel's word, and not the device's.
    """
    node = f"{locate(number, sysfs)}/device"
    own = read_attribute(f"{node}/transport")
    if own is not None:
        return frozenset({own})
    # Of a disk that may have several ways it is its subsystem, which has the controllers in it.
    controllers = (name for name in list_names(node) if _CONTROLLER.fullmatch(name))
    return frozenset(read_attribute(f"{node}/{name}/transport") for name in controllers)


def read_log_page(fd: int) -> bytes:
    """Return the 4096 bytes of EBS's detailed performance statistics (log page 0xD0)."""
    # NUMD, the number of dwords, is zero-based.
    return _send_admin_command(fd, _GET_LOG_PAGE, _NSID, _LOG_PAGE_EBS | (_PAGE_BYTES // 4 - 1) << 16)


def parse_identity(controller: bytes, namespace: bytes, *, takes_fabrics: bool = False) -> Identity:
    """Return the identity told by Identify Controller and Identify Namespace (4096 bytes each), or refuse.

    ``takes_fabrics``: where it says that it is over a network, the vendor is whoever runs the target.
    """
    told = parse_controller(controller)
    if told.model == _MODEL_INSTANCE_STORE:
        raise RefusedError(
            f"The device is an instance store drive ({told.serial!r}), which is not the agent's to touch.",
            reason=Reason.INSTANCE_STORE,
            retryable=False,
        )
    if told.model != _MODEL_EBS:
        raise _refuse(f"its model is {told.model!r}, and EBS's is {_MODEL_EBS!r}")
    if told.vendor_id != _VENDOR_AMAZON and not (takes_fabrics and told.is_fabrics):
        raise _refuse(f"its vendor is {told.vendor_id:#06x}, and Amazon is {_VENDOR_AMAZON:#06x}")
    match = _SERIAL.fullmatch(told.serial)
    if match is None:
        raise _refuse(f"its serial number {told.serial!r} is no volume ID")
    return Identity(
        volume_id=VolumeId(f"vol-{match['digits']}"),
        model=told.model,
        serial=told.serial,
        attach_name=parse_attach_name(told.vendor_area[:32]),
        # Linux's own network target says so of every namespace, and says that its vendor is nobody.
        is_shared=_is_shared(namespace) and told.vendor_id == _VENDOR_AMAZON,
    )


def parse_controller(raw: bytes) -> Controller:
    """Return the fields of Identify Controller's 4096 bytes, or refuse them."""
    if len(raw) != _PAGE_BYTES:
        raise _refuse(f"it identified itself with {len(raw)} bytes, and {_PAGE_BYTES} are due")
    (vendor_id,) = struct.unpack_from("<H", raw, 0)
    # IOCCSZ, the capsule size, is given by fabrics controllers and reserved (zero) on PCIe ones.
    (capsule_size,) = struct.unpack_from("<I", raw, 1792)
    return Controller(
        vendor_id=vendor_id,
        serial=_read_text(raw[4:24], "serial number"),
        model=_read_text(raw[24:64], "model"),
        vendor_area=bytes(raw[3072:4096]),
        is_fabrics=capsule_size != 0,
    )


def parse_attach_name(raw: bytes) -> str | None:
    """Return the device name chosen at attach, with ``/dev/``; None where there is none or it is nonsense.

    Nothing but the policy's ``device_name`` hangs on it, so nonsense is no reason to refuse the volume.
    """
    try:
        text = raw.decode("ascii").rstrip(" \0")
    except UnicodeDecodeError:
        return None
    match = _ATTACH_NAME.fullmatch(text)
    return f"/dev/{match['name']}" if match else None


def _is_shared(namespace: bytes) -> bool:
    """Whether NMIC says that several controllers may have this namespace."""
    if len(namespace) != _PAGE_BYTES:
        raise _refuse(f"its namespace is told in {len(namespace)} bytes, and {_PAGE_BYTES} are due")
    return bool(namespace[30] & 1)


def _read_text(raw: bytes, what: str) -> str:
    """Return a field of printable ASCII, padded with spaces at its end as the specification has it."""
    text = raw.decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise _refuse(f"its {what} {bytes(raw)!r} is not printable ASCII")
    return text.rstrip(" ")


def _refuse(why: str) -> RefusedError:
    return RefusedError(
        f"The device is not taken for an EBS volume: {why}.", reason=Reason.NOT_EBS, retryable=False
    )


def _miss(why: str) -> InconclusiveError:
    return InconclusiveError(
        f"The kernel cannot reach the device now ({why}).",
        hint="Its controller is being reset or connected again, and what uses it waits. See the kernel"
        " log if this lasts.",
        reason=Reason.UNREACHABLE,
    )


def make_admin_command(opcode: int, nsid: int, cdw10: int, address: int) -> NvmeAdminCommand:
    """Return an admin command that reads a page to ``address``, and waits for it as long as it takes."""
    return NvmeAdminCommand(
        opcode=opcode,
        nsid=nsid,
        addr=address,
        data_len=_PAGE_BYTES,
        cdw10=cdw10,
        timeout_ms=_TIMEOUT_MS,
    )


def _send_admin_command(fd: int, opcode: int, nsid: int, cdw10: int) -> bytes:
    """Send one admin command that reads a page from the device; return the page."""
    with mmap.mmap(-1, _PAGE_BYTES) as page:
        view = (ctypes.c_char * _PAGE_BYTES).from_buffer(page)
        command = make_admin_command(opcode, nsid, cdw10, ctypes.addressof(view))
        del view
        try:
            status = ioctl(fd, Request.NVME_IOCTL_ADMIN_CMD, command)
        except OSError as error:
            words = os.strerror(error.errno or 0)
            if error.errno == errno.EAGAIN:  # no path to a device that may have several
                raise _miss(words) from error
            if is_shortage(error):
                raise
            raise AgentError(
                f"The device does not take NVMe admin command {opcode:#04x}: {words}.",
                reason=Reason.PROBE_FAILED,
            ) from error
        require_success(opcode, status)
        return page[:]


def require_success(opcode: int, status: int) -> None:
    """Raise InconclusiveError where a command never reached the device, AgentError where it failed."""
    if status & _STATUS_TYPE == _PATH_RELATED:
        raise _miss(f"NVMe status {status:#x}")
    if status != 0:
        raise AgentError(
            f"The device answered NVMe admin command {opcode:#04x} with status {status:#x}.",
            reason=Reason.PROBE_FAILED,
        )
