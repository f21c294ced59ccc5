"""The guest harness itself: what the other tests of this tier take for granted."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.guest import Guest, GuestError, GuestOptions, GuestTimeoutError
from tests.vm.guest.agent_disk import REPOSITORY

GIB = 1 << 30
MIB = 1 << 20
VOLUME = "vol-0123456789abcdef0"
OTHER = "vol-0fedcba9876543210"


def make_image(path: Path, size_bytes: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def find_by_serial(guest: Guest, serial: str) -> str | None:
    """Return the disk with a serial as ``lsblk`` prints it, which asks sysfs."""
    for line in guest.shell("lsblk --nodeps --noheadings --output NAME,SERIAL").splitlines():
        name, *rest = line.split()
        if rest == [serial]:
            return f"/dev/{name}"
    return None


class TestCommands:
    """Programs and files of the guest, from here."""

    def test_run_returns_status_and_both_outputs(self, guest: Guest) -> None:
        """A command's status, output and errors come back as they were, none of them decoded."""
        done = guest.run(["sh", "-c", r"printf 'a\377'; printf b >&2; exit 7"], check=False)
        assert (done.returncode, done.stdout, done.stderr) == (7, b"a\xff", b"b")

    def test_run_raises_with_the_output_of_a_failed_command(self, guest: Guest) -> None:
        """With check, failure is an error that says what the command said."""
        with pytest.raises(GuestError, match=r"ended with 1:\nno such luck"):
            guest.run(["sh", "-c", "echo no such luck >&2; exit 1"])

    def test_run_kills_what_takes_too_long(self, guest: Guest) -> None:
        """A command that hangs is killed in the guest, with its children, and is an error here."""
        with pytest.raises(GuestTimeoutError, match="was killed"):
            guest.run(["sh", "-c", "sleep 987 & wait"], timeout_s=1)
        assert guest.run(["pgrep", "-xf", "sleep 987"], check=False).returncode == 1

    def test_run_does_not_wait_for_daemons_left_behind(self, guest: Guest) -> None:
        """A background process that keeps the command's output open does not hold up the answer."""
        assert guest.shell("sleep 300 & echo $!", timeout_s=20).strip().isdigit()

    def test_unknown_program_is_an_error(self, guest: Guest) -> None:
        """A program that does not exist is told from one that failed."""
        with pytest.raises(GuestError, match="FileNotFoundError"):
            guest.run(["no-such-program"], check=False)

    def test_started_command_runs_beside_others_and_takes_signals(self, guest: Guest) -> None:
        """Commands run concurrently, and a started one can be signalled and waited for."""
        sleeper = guest.start_command(["sleep", "300"])
        guest.run(["true"])
        assert sleeper.is_running()
        assert sleeper.send_signal(signal.SIGTERM)
        assert sleeper.wait(20).returncode == -signal.SIGTERM

    def test_files_survive_the_trip(self, guest: Guest) -> None:
        """Any bytes put into a file come back the same, and its mode is the one asked for."""
        content = bytes(range(256)) * 4096
        guest.put("/tmp/deep/down/file", content, mode=0o640)  # noqa: S108 - of the guest
        assert guest.get("/tmp/deep/down/file") == content  # noqa: S108
        assert guest.shell("stat -c %a /tmp/deep/down/file").strip() == "640"


class TestKernelTarget:
    """Volumes that the guest's own kernel serves to itself."""

    def test_volume_appears_with_ebs_identity(self, guest: Guest) -> None:
        """A volume of the kernel's target is an NVMe namespace with EBS's model and the volume's serial."""
        device = guest.nvmet.attach(VOLUME, GIB)
        assert device.startswith("/dev/nvme")
        identity = guest.shell('nvme id-ctrl "$1"', device)
        assert "sn        : vol0123456789abcdef0\n" in identity
        assert "mn        : Amazon Elastic Block Store" in identity
        assert guest.shell('blockdev --getsize64 "$1"', device).strip() == str(GIB)

    def test_growing_is_announced_with_resize(self, guest: Guest) -> None:
        """A volume that grows raises a change event with RESIZE=1, and the device has its new size."""
        device = guest.nvmet.attach(VOLUME, GIB)
        monitor = guest.start_command(
            ["udevadm", "monitor", "--udev", "--property", "--subsystem-match=block"]
        )
        guest.run(["udevadm", "settle"])
        guest.nvmet.grow(VOLUME, 2 * GIB)
        guest.wait_until(
            ["sh", "-c", 'test "$(blockdev --getsize64 "$1")" = "$2"', "sh", device, str(2 * GIB)],
            timeout_s=20,
        )
        guest.run(["udevadm", "settle"])
        monitor.send_signal(signal.SIGTERM)
        events = monitor.wait(20).stdout.decode().split("\n\n")
        [event] = [event for event in events if "RESIZE=1" in event]
        assert "ACTION=change" in event
        assert f"DEVNAME={device}" in event

    def test_twenty_volumes_attach_together(self, guest: Guest) -> None:
        """Twenty volumes become twenty devices, each with its own serial, and leave nothing when removed."""
        sizes_bytes = {f"vol-{number:017x}": (number + 64) * MIB for number in range(20)}
        devices = guest.nvmet.attach_all(sizes_bytes)
        assert len(set(devices)) == 20
        assert {volume: guest.nvmet.find_device(volume) for volume in list(sizes_bytes)[::7]} == dict(
            list(zip(sizes_bytes, devices, strict=True))[::7]
        )
        guest.nvmet.remove_all()
        assert (
            guest.shell("ls /scratch/volumes; lsblk --noheadings --nodeps --output NAME --include 259") == ""
        )

    @pytest.mark.parametrize("leave", ["disconnect", "pull"])
    def test_volume_that_left_returns_with_its_data(self, guest: Guest, leave: str) -> None:
        """A volume that was detached, or pulled, is gone as a device and comes back with what was written."""
        device = guest.nvmet.attach(VOLUME, 64 * MIB)
        guest.shell('echo kept | dd of="$1" bs=512 count=1 conv=sync,fsync', device)
        getattr(guest.nvmet, leave)(VOLUME)
        assert guest.nvmet.find_device(VOLUME) is None
        returned = guest.nvmet.connect(VOLUME)
        assert guest.shell('head -c 5 "$1"', returned) == "kept\n"

    def test_pulled_while_mounted_gives_errors(self, guest: Guest) -> None:
        """A volume pulled from under its mount fails every access at once, and its mount stays listed."""
        device = guest.nvmet.attach(VOLUME, 64 * MIB)
        guest.shell('mkfs.ext4 -q "$1"; mkdir -p /mnt/pulled; mount "$1" /mnt/pulled', device)
        guest.nvmet.pull(VOLUME)
        written = guest.run(
            ["dd", "if=/dev/zero", "of=/mnt/pulled/x", "count=1", "conv=fsync"], check=False, timeout_s=20
        )
        assert written.returncode != 0
        assert "/mnt/pulled" in guest.get("/proc/self/mountinfo").decode()


class TestHotPlug:
    """Volumes that are PCI devices of the virtual machine."""

    def test_volume_appears_and_leaves(self, guest: Guest, tmp_path: Path) -> None:
        """A PCI NVMe device can be plugged in and out at any time, with what the host's file holds."""
        image = make_image(tmp_path / "image", 16 * MIB)
        image.write_bytes(b"from the host\n" + image.read_bytes()[14:])
        guest.plug_nvme(VOLUME, image)
        guest.wait_until(lambda: find_by_serial(guest, "vol0123456789abcdef0"), timeout_s=30)
        device = find_by_serial(guest, "vol0123456789abcdef0")
        assert device is not None
        assert guest.shell('head -n 1 "$1"', device) == "from the host\n"
        guest.unplug_nvme(VOLUME)
        guest.wait_until(lambda: find_by_serial(guest, "vol0123456789abcdef0") is None, timeout_s=30)


class TestPower:
    """One guest through everything that a machine goes through, since each boot takes its time."""

    def test_reboot_power_off_and_power_loss_keep_the_disks(self, fresh_guest: Guest, tmp_path: Path) -> None:
        """What was synced is there after a reboot, a shutdown and a power loss; what was not may be lost."""
        guest = fresh_guest
        guest.nvmet.attach(VOLUME, 64 * MIB)
        guest.nvmet.attach(OTHER, 128 * MIB)
        guest.plug_nvme("vol-0aaaaaaaaaaaaaaaa", make_image(tmp_path / "image", 16 * MIB))
        guest.shell("echo first > /scratch/note; echo first > /root/note; sync; dmesg | grep -q Linux")
        before = guest.get("/proc/sys/kernel/random/boot_id")

        guest.reboot()
        assert guest.get("/proc/sys/kernel/random/boot_id") != before
        assert guest.shell("cat /scratch/note /root/note") == "first\nfirst\n"
        # The target's volumes come back when they are connected, in whatever order.
        assert guest.nvmet.find_device(VOLUME) is None
        assert guest.nvmet.connect(OTHER) < guest.nvmet.connect(VOLUME)
        guest.wait_until(lambda: find_by_serial(guest, "vol0aaaaaaaaaaaaaaaa"), timeout_s=30)

        writer = guest.start_command(["sleep", "300"])
        guest.kill()
        with pytest.raises(GuestError, match="the guest ended"):
            writer.wait(20)
        guest.start()
        assert guest.shell("cat /scratch/note /root/note") == "first\nfirst\n"
        guest.wait_until(lambda: find_by_serial(guest, "vol0aaaaaaaaaaaaaaaa"), timeout_s=30)

        guest.power_off()
        assert not guest.is_alive()
        guest.start()
        assert guest.shell("cat /scratch/note") == "first\n"


def test_agent_is_installed_from_the_working_tree(guest: Guest) -> None:
    """The agent in the guest is the one of the working tree, installed by the guest's own Python."""
    installed = guest.get("/opt/ebs-agent/current/lib/python3.11/site-packages/agent/__init__.py")
    assert installed == (REPOSITORY / "agent/__init__.py").read_bytes()
    guest.run(["/opt/ebs-agent/current/bin/python", "-c", "import agent.core.model, h11, boto3, pyudev"])


def test_bare_guest_has_no_agent(boot_guest: Callable[[GuestOptions], Guest]) -> None:
    """A guest without the agent is as an installer finds it: the directory is empty, on the root disk."""
    guest = boot_guest(GuestOptions())
    assert (
        guest.shell("ls /opt/ebs-agent; findmnt --noheadings --output SOURCE --target /opt/ebs-agent")
        == "/dev/vda\n"
    )
