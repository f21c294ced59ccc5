"""Starts and ends QEMU: the command line, the process and the disks of one guest."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.vm.guest.errors import GuestError
from tests.vm.guest.tools import run_tool

QEMU = "qemu-system-x86_64"
HOTPLUG_PORTS = 8
# What the kernel's socket address holds, with its ending zero.
SOCKET_PATH_BYTES = 107
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Disk:
    """A virtio disk of a guest; its serial is its name in ``/dev/disk/by-id/virtio-SERIAL``."""

    path: Path
    format: str
    serial: str
    mountpoint: str
    # The host keeps what was written in its page cache, which a killed QEMU does not lose. A qcow2 file's own
    # tables are in QEMU's memory until they are flushed, so only raw files may go without.
    is_flushed: bool = True


@dataclass(frozen=True)
class MachineSpec:
    """All that decides QEMU's command line."""

    directory: Path
    kernel: Path
    initrd: Path
    kernel_args: tuple[str, ...]
    disks: tuple[Disk, ...]
    accelerator: str
    memory_mib: int
    cpus: int
    has_network: bool = False


class Machine:
    """A running QEMU, a child of this process or one that another process left running."""

    def __init__(self, process: psutil.Process, directory: Path) -> None:
        self._process = process
        self._directory = directory

    @classmethod
    def start(cls, spec: MachineSpec, nvme: Mapping[str, Path], *, outlives_us: bool) -> Machine:
        """Start QEMU and wait until its sockets are there.

        ``nvme`` are the volumes that are plugged in from the start, by their port. Unless it is to outlive
        us, the kernel ends it with this process, however that ends.
        """
        check_socket_paths(spec.directory)
        bond = [] if outlives_us else ["setpriv", "--pdeathsig", "KILL"]
        for name in ("command", "qmp", "console"):
            (spec.directory / f"{name}.sock").unlink(missing_ok=True)
        with (spec.directory / "qemu.log").open("ab") as log:
            process = psutil.Popen(
                [*bond, *build_command_line(spec, nvme)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=outlives_us,
            )
        machine = cls(process, spec.directory)
        try:
            machine._wait_for_sockets()
        except BaseException:
            machine.kill()
            raise
        return machine

    @classmethod
    def find(cls, directory: Path, pid: int) -> Machine | None:
        """Return the QEMU that another process started for this directory, if it still runs."""
        try:
            process = psutil.Process(pid)
            is_ours = any(str(directory) in word for word in process.cmdline())
        except psutil.Error:
            return None
        return cls(process, directory) if is_ours else None

    @property
    def pid(self) -> int:
        """The process ID."""
        return int(self._process.pid)

    def processor_time_s(self) -> float:
        """Return how long it has computed: little, where the host was too busy for it."""
        try:
            times = self._process.cpu_times()
        except psutil.Error:
            return 0.0
        return float(times.user + times.system)

    def is_running(self) -> bool:
        """Tell whether QEMU has not ended."""
        with contextlib.suppress(psutil.Error):
            return self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE
        return False

    def wait(self, timeout_s: float) -> None:
        """Wait until QEMU ended."""
        try:
            self._process.wait(timeout_s)
        except psutil.TimeoutExpired as error:
            raise GuestError(f"QEMU did not end within {timeout_s:g} s") from error

    def kill(self) -> None:
        """End QEMU at once: to the guest this is a power loss."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process.kill()
        self.wait(START_TIMEOUT_S)

    def _wait_for_sockets(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        # QEMU listens on them in the order of the command line; the control socket is the last.
        while not (self._directory / "qmp.sock").exists():
            if not self.is_running() or time.monotonic() > deadline:
                log = (self._directory / "qemu.log").read_text(errors="replace")[-2000:]
                raise GuestError(f"QEMU did not start: {log}")
            time.sleep(0.02)


def build_command_line(spec: MachineSpec, nvme: Mapping[str, Path]) -> list[str]:
    """Return QEMU's arguments."""
    accelerator = f"{spec.accelerator},thread=multi" if spec.accelerator == "tcg" else spec.accelerator
    # The least that today's distributions ask for (x86-64-v2): each extension more is a module more to load.
    processor = "Nehalem,+rdrand" if spec.accelerator == "tcg" else "host"
    network = ["-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="]
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "q35", "-accel", accelerator, "-cpu", processor),
        *("-smp", str(spec.cpus), "-m", str(spec.memory_mib)),
        *("-kernel", str(spec.kernel), "-initrd", str(spec.initrd), "-append", " ".join(spec.kernel_args)),
        *(
            "-chardev",
            build_socket(spec.directory, "console")
            + f",logfile={escape(spec.directory / 'console.log')},logappend=on",
        ),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci", "-chardev", build_socket(spec.directory, "command")),
        *("-device", "virtserialport,chardev=command,name=guest.command"),
        *("-device", "virtio-rng-pci"),
        *(word for disk in spec.disks for word in build_disk(disk)),
        *(
            word
            for number, port in enumerate(list_ports(), start=1)
            for word in ("-device", f"pcie-root-port,id={port},chassis={number}")
        ),
        *(word for port, image in nvme.items() for word in build_nvme(port, image)),
        *(network if spec.has_network else []),
        *("-qmp", f"unix:{escape(spec.directory / 'qmp.sock')},server=on,wait=off"),
    ]


def list_ports() -> list[str]:
    """Return the names of the ports that volumes can be plugged into while the guest runs."""
    return [f"port{number}" for number in range(HOTPLUG_PORTS)]


def build_socket(directory: Path, name: str) -> str:
    """Return the option of a character device that one host at a time connects to."""
    return f"socket,id={name},path={escape(directory / f'{name}.sock')},server=on,wait=off"


def build_disk(disk: Disk) -> list[str]:
    """Return the options of a virtio disk."""
    node = disk.serial
    flush = "off" if disk.is_flushed else "on"
    source = f"file.driver=file,file.filename={escape(disk.path)}"
    return [
        *(
            "-blockdev",
            f"driver={disk.format},node-name={node},discard=unmap,cache.no-flush={flush},{source}",
        ),
        *("-device", f"virtio-blk-pci,drive={node},serial={disk.serial}"),
    ]


def build_nvme(port: str, image: Path) -> list[str]:
    """Return the options of an NVMe volume that is there from the start; the file is named by volume ID."""
    volume_id = image.stem
    return [
        *(
            "-blockdev",
            f"driver=raw,node-name=node-{volume_id},discard=unmap,file.driver=file,file.filename={escape(image)}",
        ),
        *("-device", f"nvme,id={volume_id},serial={to_serial(volume_id)},drive=node-{volume_id},bus={port}"),
    ]


def to_serial(volume_id: str) -> str:
    """Return the serial number of an EBS volume: its ID without the hyphen."""
    return volume_id.replace("-", "", 1)


def escape(path: Path) -> str:
    """Return a path as an option's value."""
    return str(path).replace(",", ",,")


def borrow(source: Path, directory: Path) -> Path:
    """Return a hard link to a cached file, which stays when the cache forgets it, or else the file itself."""
    link = directory / source.name
    try:
        link.hardlink_to(source)
    except OSError:
        return source  # on another filesystem: the guest lasts as long as the cache
    return link


def make_overlay(path: Path, backing: Path) -> None:
    """Make a disk that starts as the backing one and keeps its own changes."""
    backing = borrow(backing, path.parent)
    run_tool(["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", path], timeout_s=60)


def make_scratch(path: Path, size_bytes: int) -> None:
    """Make a raw sparse disk with an empty filesystem."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    quick = ["-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", "-m", "0"]
    run_tool(["mkfs.ext4", "-q", "-F", *quick, "-L", "guest-scratch", path], timeout_s=60)


def check_socket_paths(directory: Path) -> None:
    """Refuse a directory whose sockets could not be connected to."""
    if len(str(directory / "console.sock").encode()) > SOCKET_PATH_BYTES:
        raise GuestError(f"{directory} is too long a path for sockets: choose a shorter directory")
