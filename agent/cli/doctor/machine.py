"""Has the machine what the agent relies on: permissions, kernel, programs, libraries, udev, timeouts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
from msgspec import Struct, field

from agent.cli.doctor.findings import Finding, Grade
from agent.core.errors import AgentError
from agent.core.model import FsType
from agent.node.isolate import programs as command
from agent.node.isolate.installed_programs import hint_at_package, locate_program
from agent.node.kernel.nvme import FABRICS_HINT, FABRICS_VARIABLE, FABRICS_WARNING
from agent.node.mounts.namespaces import PRIVATE_HINT, PRIVATE_WARNING, is_private

KERNEL_NEEDED = (5, 12)
"""mount_setattr(2); the new mount API itself is of 5.2."""
KERNEL_WISHED = (5, 15)
"""BLKGETDISKSEQ, which tells one appearance of a disk from the next."""
MAX_IO_TIMEOUT_S = 4294967295
"""What EBS recommends for nvme_core: a stalled volume then waits, instead of failing its filesystem."""

UNIT_PROCESSES = "sys/fs/cgroup/system.slice/ebs-agent.service/cgroup.procs"
"""The running unit's processes (Linux, cgroup-v2.rst)."""

CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
}
"""What the agent does as root, with the kernel's numbers for it; a container's root may lack some."""


class Toolset(Struct, frozen=True):
    """The programs one filesystem type, or partitioning, needs, and how one of them tells its version."""

    subject: str
    programs: tuple[str, ...]
    version_argv: tuple[str, ...]
    type: FsType | None = None


TOOLSETS = (
    Toolset("ext4 tools", ("mkfs.ext4", "e2fsck", "resize2fs"), ("mkfs.ext4", "-V"), FsType.EXT4),
    Toolset("xfs tools", ("mkfs.xfs", "xfs_growfs", "xfs_logprint"), ("mkfs.xfs", "-V"), FsType.XFS),
    Toolset("btrfs tools", ("mkfs.btrfs", "btrfs"), ("mkfs.btrfs", "--version"), FsType.BTRFS),
    Toolset("partition tools", ("sfdisk",), ("sfdisk", "--version")),
)


def ask_version(argv: tuple[str, ...]) -> str:
    """Return the first line a program says about its version."""

    async def ask() -> str:
        done = await command.run(argv, timeout_s=5.0)
        return (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]

    return anyio.run(ask)


def load_library(name: str) -> None:
    """Load a shared library, or raise OSError."""
    import ctypes  # noqa: PLC0415  # one check of many needs it

    ctypes.CDLL(name)


class Host(Struct, frozen=True):
    """The node, as far as the examination looks at it."""

    root: Path = Path("/")
    kernel: str = field(default_factory=lambda: os.uname().release)
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)
    find_program: Callable[[str], str | None] = locate_program
    ask_version: Callable[[tuple[str, ...]], str] = ask_version
    load_library: Callable[[str], None] = load_library

    def read(self, path: str) -> str | None:
        """Return the text of a file below the root, stripped; None where there is none to be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return None

    def read_capabilities(self) -> int:
        """Return what this process may do, a bit each (linux/capability.h); all where that is not told."""
        for line in (self.read("proc/self/status") or "").splitlines():
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
        return -1


def examine_user(host: Host) -> Finding:
    """Tell whether what follows is the truth for the daemon, which runs as root."""
    if not host.is_root:
        found = "not root: devices cannot be opened or mounted"
        return Finding("permissions", Grade.FAILURE, found, "Run with sudo.")
    missing = [name for name, bit in CAPABILITIES.items() if not host.read_capabilities() >> bit & 1]
    if missing:
        mend = "Run outside of the container, or give it these capabilities."
        found = f"root without {', '.join(missing)}"
        is_hindered = missing != ["CAP_SYS_RESOURCE"]
        if not is_hindered:
            found += ": ext4 cannot be grown while it is mounted"
        return Finding("permissions", Grade.FAILURE if is_hindered else Grade.WARNING, found, mend)
    return Finding("permissions", Grade.OK, "root")


def examine_kernel(host: Host) -> Finding:
    """Tell whether the kernel has what the agent relies on."""
    numbers = [int(part) for part in host.kernel.replace("-", ".").split(".")[:2] if part.isdigit()]
    version = tuple(numbers)
    if version < KERNEL_NEEDED:
        return Finding(
            "kernel", Grade.FAILURE, f"{host.kernel} cannot mount detached", "Use Linux 5.15 or later."
        )
    if version < KERNEL_WISHED:
        found = f"{host.kernel} does not number the appearances of a disk"
        return Finding("kernel", Grade.WARNING, found, "Use Linux 5.15 or later.")
    return Finding("kernel", Grade.OK, host.kernel)


def examine_filesystems(host: Host, needed: frozenset[FsType]) -> Iterator[Finding]:
    """Tell for each type whether the kernel has it built in, loaded, or as a module to load."""
    active = {line.split()[-1] for line in (host.read("proc/filesystems") or "").splitlines() if line.strip()}
    modules = Path("lib/modules") / host.kernel
    listed = "\n".join(host.read(str(modules / name)) or "" for name in ("modules.dep", "modules.builtin"))
    for type_ in FsType:
        subject = f"{type_} in the kernel"
        if type_.value in active:
            yield Finding(subject, Grade.OK, "ready")
        elif f"/{type_}.ko" in listed:
            yield Finding(subject, Grade.OK, "a module the kernel loads when asked")
        else:
            grade = Grade.FAILURE if type_ in needed else Grade.WARNING
            mend = f"Use a kernel with {type_}, or another type in the policy."
            yield Finding(subject, grade, "missing", mend)


def examine_tools(host: Host, needed: frozenset[FsType]) -> Iterator[Finding]:
    """Tell which programs are here and of which version; a missing one matters if the policy needs it."""
    for toolset in TOOLSETS:
        missing = [program for program in toolset.programs if host.find_program(program) is None]
        if missing:
            grade = Grade.FAILURE if toolset.type in needed else Grade.WARNING
            found = f"missing: {', '.join(missing)}"
            yield Finding(toolset.subject, grade, found, hint_at_package(missing[0]))
            continue
        try:
            yield Finding(toolset.subject, Grade.OK, host.ask_version(toolset.version_argv))
        except AgentError as error:
            yield Finding(toolset.subject, Grade.FAILURE, error.message, hint_at_package(toolset.programs[0]))


def examine_blkid(host: Host) -> Finding:
    """Tell whether signatures can be probed: without, nothing is ever proven blank."""
    try:
        host.load_library("libblkid.so.1")
    except OSError as error:
        mend = "Install libblkid: apt-get install libblkid1, or dnf install libblkid."
        return Finding("libblkid", Grade.FAILURE, f"cannot be loaded: {error}", mend)
    return Finding("libblkid", Grade.OK, "libblkid.so.1")


def examine_udev(host: Host) -> Finding:
    """Tell whether devices are announced. Without, they are found at the next periodic look."""
    if (host.root / "run/udev/control").exists():
        return Finding("udev", Grade.OK, "running")
    mend = "Start it: systemctl start systemd-udevd."
    return Finding("udev", Grade.WARNING, "not running: volumes are noticed late", mend)


def examine_io_timeout(host: Host) -> Finding:
    """Tell whether a stalled volume waits, or becomes I/O errors and a read-only filesystem."""
    text = host.read("sys/module/nvme_core/parameters/io_timeout")
    if text is None:
        mend = "Expected where no NVMe volume is attached. Load it: modprobe nvme."
        return Finding("NVMe timeout", Grade.WARNING, "the NVMe driver is not loaded", mend)
    if text == str(MAX_IO_TIMEOUT_S):
        return Finding("NVMe timeout", Grade.OK, f"{text} s")
    mend = f"Add nvme_core.io_timeout={MAX_IO_TIMEOUT_S} to the kernel's command line and reboot."
    return Finding("NVMe timeout", Grade.WARNING, f"{text} s: a longer stall becomes I/O errors", mend)


def examine_namespace(host: Host) -> Finding:
    """Tell whether what is mounted from here is seen by the rest of the node."""
    is_alone = is_private(host.root / "proc")
    if is_alone is None:
        return Finding("mount namespace", Grade.OK, "not told here")
    if is_alone:
        return Finding("mount namespace", Grade.WARNING, PRIVATE_WARNING, PRIVATE_HINT)
    return Finding("mount namespace", Grade.OK, "the node's own")


def examine_identity(host: Host) -> Iterator[Finding]:
    """Tell where the running unit takes any network's device for a volume; nothing where it does not."""
    for process in (host.read(UNIT_PROCESSES) or "").split():
        if f"{FABRICS_VARIABLE}=1" in (host.read(f"proc/{process}/environ") or "").split("\0"):
            yield Finding("volume identity", Grade.FAILURE, FABRICS_WARNING, FABRICS_HINT)
            return
