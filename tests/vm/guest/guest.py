"""A guest: a Debian machine of its own that a test boots, commands, unplugs disks from and kills."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from tests.vm.guest.accelerator import choose_accelerator
from tests.vm.guest.agent_disk import REPOSITORY, get_agent_disk
from tests.vm.guest.channel import CommandChannel, GuestProcess
from tests.vm.guest.errors import GuestError, GuestTimeoutError
from tests.vm.guest.hotplug import HotPlug
from tests.vm.guest.image import RELEASE, Image, get_image
from tests.vm.guest.machine import (
    Disk,
    Machine,
    MachineSpec,
    borrow,
    make_overlay,
    make_scratch,
)
from tests.vm.guest.nvmet import Nvmet
from tests.vm.guest.qmp import QmpClient

# Ten seconds on an idle host; a crowded one may give a guest a tenth of a processor.
BOOT_TIMEOUT_S = 300.0
COMMAND_TIMEOUT_S = 60.0
SHUTDOWN_TIMEOUT_S = 90.0
POLL_S = 0.1
MOST_BOOTS = 3
# A boot takes a quarter of it, however busy the host is.
BOOT_PROCESSOR_TIME_S = 100.0
EARLY_PANIC = re.compile(rb"^\[ {4}[0-9]\.[0-9]+\] Kernel panic", re.MULTILINE)
"""In the first ten seconds of the kernel's own clock: nothing of the guest's system runs by then."""
AGENT_HOME = "/opt/ebs-agent/current"
# As the kernel names virtio disks, in the order of the command line.
DISK_NAMES = ("vda", "vdb", "vdc", "vdd")
# Without a machine ID each boot of a fresh guest would be a first boot, when systemd sets up all units anew.
KERNEL_ARGS = (
    "systemd.machine_id=00000000000000000000000000000eb5",
    *("root=/dev/vda", "rw", "console=ttyS0,115200", "loglevel=4", "systemd.show_status=false"),
    # Its volumes are reached over a network, which the agent's unit takes for none unless it is told to.
    "systemd.setenv=EBS_AGENT_TEST_FABRICS=1",
    # Emulated, each of these costs seconds and protects nothing.
    *("mitigations=off", "audit=0", "nokaslr", "random.trust_cpu=on"),
    *("tsc=reliable", "no_timer_check", "i8042.noaux", "i8042.nokbd", "8250.nr_uarts=1", "cryptomgr.notests"),
    # On a crowded host a processor of the guest stands still for longer than its kernel thinks possible.
    *("nowatchdog", "rcupdate.rcu_cpu_stall_suppress=1"),
    # As on EBS's own images: a volume that does not answer is waited for.
    "nvme_core.io_timeout=4294967295",
    # Linux 6.1 takes a TCP fragment that spans two huge pages for an overrun, and stops whoever receives it:
    # a target in user space, fed by the same machine's kernel, meets such fragments.
    "hardened_usercopy=off",
)


@dataclass(frozen=True)
class GuestOptions:
    """What may differ from one guest to another."""

    # The agent's venv of the working tree in /opt/ebs-agent; without it the guest is bare.
    has_agent: bool = False
    has_network: bool = False
    # An image with more programs, units and settings for /usr/local, of which the guest has an overlay.
    local_disk: str = ""
    kernel_args: tuple[str, ...] = ()
    memory_mib: int = 1536
    cpus: int = 2
    scratch_bytes: int = 64 << 30
    # Of Debian. The agent's venv is made for one only: guests of another are bare.
    release: str = RELEASE
    # Leave it running when this process ends, for work by hand.
    outlives_us: bool = False


class Guest:
    """One guest and its directory, which holds its disks, sockets and console log."""

    def __init__(
        self,
        directory: Path,
        options: GuestOptions,
        image: Image,
        *,
        owns_directory: bool,
        plugged: Mapping[str, Path] | None = None,
    ) -> None:
        self.directory = directory
        self.options = options
        self.nvmet = Nvmet(self)
        self._image = image
        self._owns_directory = owns_directory
        self._machine: Machine | None = None
        self._channel: CommandChannel | None = None
        self._qmp: QmpClient | None = None
        self._boot_id: str | None = None
        self._hotplug = HotPlug(directory / "nvme", plugged or {}, lambda: self.qmp)

    # Beginning and end

    @classmethod
    def boot(cls, options: GuestOptions | None = None, *, directory: Path | None = None) -> Guest:
        """Boot a fresh guest and wait until it is up; close it afterwards.

        In a directory of the caller's it stays on disk when closed, otherwise nothing of it remains.
        """
        options = options or GuestOptions()
        image = get_image(options.release)
        home = directory or Path(tempfile.mkdtemp(prefix="ebs-guest-"))
        home.mkdir(parents=True, exist_ok=True)
        guest = cls(home, options, image, owns_directory=directory is None)
        try:
            guest._make_disks()
            guest.start()
        except BaseException:
            guest.close()
            raise
        return guest

    @classmethod
    def find(cls, directory: Path) -> Guest | None:
        """Return the guest that another process left running in a directory."""
        try:
            state = json.loads((directory / "state.json").read_text())
        except FileNotFoundError:
            return None
        machine = Machine.find(directory, state["pid"])
        if machine is None:
            return None
        options = GuestOptions(**{**state["options"], "kernel_args": tuple(state["options"]["kernel_args"])})
        plugged = {port: Path(image) for port, image in state["plugged"].items()}
        guest = cls(directory, options, Image(Path(state["image"])), owns_directory=False, plugged=plugged)
        guest._machine = machine
        return guest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Start the guest on the disks that it has and wait until it is up."""
        disks = self._list_disks()
        mounts = [
            f"guest.mount={name}:{disk.mountpoint}" for name, disk in zip(DISK_NAMES, disks, strict=False)
        ]
        spec = MachineSpec(
            directory=self.directory,
            kernel=self._find_own(self._image.kernel),
            initrd=self._find_own(self._image.initrd),
            kernel_args=(*KERNEL_ARGS, *mounts[1:], *self.options.kernel_args),
            disks=disks,
            accelerator=choose_accelerator(self._image),
            memory_mib=self.options.memory_mib,
            cpus=self.options.cpus,
            has_network=self.options.has_network,
        )
        deadline = time.monotonic() + timeout_s
        left = MOST_BOOTS
        while left:
            self._machine = Machine.start(spec, self._hotplug.images, outlives_us=self.options.outlives_us)
            self._save_state()
            left -= 1
            if not self._is_lost_at_boot(deadline):
                break
            # An emulated processor may run code that the kernel is patching just then: it panics or hangs.
            if left:
                self.kill()
        self.wait_until_up(timeout_s=max(deadline - time.monotonic(), 1))

    def _is_lost_at_boot(self, deadline: float) -> bool:
        """Tell, once the guest answers or time is up, whether the kernel panicked early or hangs."""
        log = self.directory / "console.log"
        seen = log.stat().st_size if log.exists() else 0
        while time.monotonic() < deadline and self.machine.is_running() and not self.is_alive():
            if EARLY_PANIC.search(log.read_bytes()[seen:] if log.exists() else b""):
                return True
            if self.machine.processor_time_s() > BOOT_PROCESSOR_TIME_S:
                return True
            time.sleep(POLL_S)
        return False

    def wait_until_up(self, *, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait for a boot other than the last one known, until systemd has started all it had to."""
        deadline = time.monotonic() + timeout_s
        try:
            self._boot_id = self.channel.say_hello(timeout_s, unlike=self._boot_id)
            self.channel.give_up_pending("the guest restarted")
            self.run(
                ["systemctl", "is-system-running", "--wait"],
                check=False,
                timeout_s=max(deadline - time.monotonic(), 1),
            )
        except GuestError as error:
            spent = f"QEMU had {self.machine.processor_time_s():.0f} s of the processor"
            raise GuestError(f"the guest did not come up: {error}; {spent}\n{self.read_console()}") from error

    def reboot(self, *, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Reboot in good order and wait until the guest is up again."""
        self._learn_boot_id()
        # The command server may well be stopped before it can answer.
        self.start_command(["systemctl", "--no-block", "reboot"])
        self.wait_until_up(timeout_s=timeout_s)

    def power_off(self, *, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Shut down in good order and wait until QEMU has ended; ``start`` boots the same disks again."""
        self.start_command(["systemctl", "--no-block", "poweroff"])
        self.machine.wait(timeout_s)
        self._forget_machine()

    def rewrite_root(self) -> None:
        """Boot again from a root as new, as an update of the image leaves it; the scratch disk stays."""
        self.power_off()
        root = self.directory / "root.qcow2"
        root.unlink()
        make_overlay(root, self._find_own(self._image.disk))
        self.start()

    def kill(self) -> None:
        """Take the power away: what was not written is lost. ``start`` boots the same disks again."""
        self.machine.kill()
        self._forget_machine()

    def close(self) -> None:
        """End the guest for good."""
        if self._machine is not None:
            self.kill()
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def detach(self) -> None:
        """Disconnect and leave the guest running for another process to find."""
        self._disconnect()

    # Commands and files

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command as root and return how it ended; it is killed and an error when it takes too long."""
        process = self.start_command(argv, timeout_s=timeout_s, stdin=stdin, env=env, cwd=cwd)
        # The guest keeps the time; this end only notices that the whole guest hangs.
        return process.wait(timeout_s + 30, check=check)

    def start_command(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float | None = None,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> GuestProcess:
        """Start a command as root without waiting for it."""
        return self.channel.start(argv, stdin=stdin, env=env, cwd=cwd, timeout_s=timeout_s)

    def shell(self, script: str, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a shell script that stops at a failure, with arguments as $1, $2…; return what it printed."""
        return self.run(["sh", "-euc", script, "sh", *arguments], timeout_s=timeout_s).stdout.decode()

    def put(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        """Write a file, with the directories that lead to it; it is whole or not there."""
        script = 'mkdir -p "$(dirname "$1")"; cat > "$1.part"; chmod "$2" "$1.part"; mv -T "$1.part" "$1"'
        self.run(["sh", "-euc", script, "sh", path, f"{mode:o}"], stdin=content, timeout_s=300)

    def get(self, path: str) -> bytes:
        """Return a file's content."""
        return self.run(["cat", "--", path], timeout_s=300).stdout

    def put_tree(self, source: Path, destination: str, *, names: Sequence[str] = (".",)) -> None:
        """Copy a directory of the host, or some of its entries, into a directory of the guest."""
        archive = subprocess.run(
            ["tar", "-cC", source, "--exclude=__pycache__", "--owner=0", "--group=0", "--", *names],
            capture_output=True,
            check=True,
        ).stdout
        self.run(["mkdir", "-p", destination])
        self.run(["tar", "-xC", destination], stdin=archive, timeout_s=300)

    def refresh_agent(self) -> None:
        """Replace the agent's package in the running guest by the working tree's, and nothing else."""
        packages = self.shell(f"echo {AGENT_HOME}/lib/python3*/site-packages").strip()
        self.run(["rm", "-rf", f"{packages}/agent"])
        self.put_tree(REPOSITORY, packages, names=["agent"])
        self.run([f"{AGENT_HOME}/bin/python", "-m", "compileall", "-q", f"{packages}/agent"], timeout_s=120)

    def wait_until(
        self, condition: Sequence[str] | Callable[[], object], *, timeout_s: float, every_s: float = POLL_S
    ) -> None:
        """Wait until a command of the guest succeeds, or a predicate here returns something true."""
        deadline = time.monotonic() + timeout_s
        while True:
            if callable(condition):
                is_met, what = bool(condition()), getattr(condition, "__doc__", None) or repr(condition)
            else:
                is_met, what = self.run(condition, check=False).returncode == 0, " ".join(condition)
            if is_met:
                return
            if time.monotonic() > deadline:
                raise GuestTimeoutError(f"not so within {timeout_s:g} s: {what}")
            time.sleep(every_s)

    def is_alive(self) -> bool:
        """Tell whether the guest answers."""
        if self._machine is None or not self._machine.is_running():
            return False
        try:
            self.channel.say_hello(10)
        except GuestError:
            return False
        return True

    def read_console(self, tail_bytes: int = 6000) -> str:
        """Return the end of what the guest's serial console and QEMU itself had to say."""
        logs = [self.directory / name for name in ("console.log", "qemu.log")]
        ends = [log.read_bytes()[-tail_bytes:].decode(errors="replace") for log in logs if log.exists()]
        return "\n".join(ends)

    def read_journal(self, lines: int = 60) -> str:
        """Return the end of the journal of this boot, or why it cannot be had."""
        if not self.is_alive():
            return "the guest does not answer"
        try:
            return self.run(
                ["journalctl", "--boot", "--no-pager", "--output=short-monotonic", f"--lines={lines}"],
                timeout_s=20,
            ).stdout.decode(errors="replace")
        except GuestError as error:
            return str(error)

    # QEMU's own NVMe devices, with a model of their own and a fixed size

    def plug_nvme(self, volume_id: str, image: Path) -> None:
        """Plug a raw image in as an NVMe device whose serial is the volume's; the guest soon sees it."""
        self._hotplug.plug(volume_id, image)
        self._save_state()

    def unplug_nvme(self, volume_id: str) -> None:
        """Unplug an NVMe device and wait until the guest's kernel has let go of it."""
        self._hotplug.unplug(volume_id)
        self._save_state()

    def list_plugged(self) -> list[str]:
        """Return the IDs of the volumes that are plugged in."""
        return self._hotplug.list_volumes()

    # Connections and state

    @property
    def machine(self) -> Machine:
        """The running QEMU."""
        if self._machine is None:
            raise GuestError("the guest is not running")
        return self._machine

    @property
    def channel(self) -> CommandChannel:
        """The connection to the command server."""
        if self._channel is None:
            _ = self.machine
            self._channel = CommandChannel(self.directory / "command.sock")
        return self._channel

    @property
    def qmp(self) -> QmpClient:
        """The connection to QEMU."""
        if self._qmp is None:
            _ = self.machine
            self._qmp = QmpClient(self.directory / "qmp.sock")
        return self._qmp

    def _learn_boot_id(self) -> None:
        self._boot_id = self.channel.say_hello(COMMAND_TIMEOUT_S)

    def _make_disks(self) -> None:
        borrow(self._image.kernel, self.directory)
        borrow(self._image.initrd, self.directory)
        make_overlay(self.directory / "root.qcow2", self._image.disk)
        make_scratch(self.directory / "scratch.img", self.options.scratch_bytes)
        if self.options.has_agent:
            make_overlay(self.directory / "agent.qcow2", get_agent_disk(self._image))
        if self.options.local_disk:
            make_overlay(self.directory / "local.qcow2", Path(self.options.local_disk))

    def _find_own(self, cached: Path) -> Path:
        own = self.directory / cached.name
        return own if own.exists() else cached

    def _list_disks(self) -> tuple[Disk, ...]:
        return (
            Disk(self.directory / "root.qcow2", "qcow2", "guest-root", "/"),
            Disk(self.directory / "scratch.img", "raw", "guest-scratch", "/scratch", is_flushed=False),
            *(
                [Disk(self.directory / "agent.qcow2", "qcow2", "guest-agent", "/opt/ebs-agent")]
                if self.options.has_agent
                else []
            ),
            *(
                [Disk(self.directory / "local.qcow2", "qcow2", "guest-local", "/usr/local")]
                if self.options.local_disk
                else []
            ),
        )

    def _save_state(self) -> None:
        state = {
            "pid": self.machine.pid,
            "options": asdict(self.options),
            "image": str(self._image.directory),
            "plugged": {port: str(image) for port, image in self._hotplug.images.items()},
        }
        (self.directory / "state.json").write_text(json.dumps(state))

    def _forget_machine(self) -> None:
        self._disconnect()
        self._machine = None

    def _disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._qmp is not None:
            self._qmp.close()
            self._qmp = None
