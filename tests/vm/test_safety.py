"""Never lose a byte, on real NVMe: the sharpest contents, errors at places read, power lost in the midst."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.ebs import EbsTarget
from tests.vm.guest import Guest
from tests.vm.guest_agent import STATE, UNIT, GuestAgent, make_entry

pytestmark = pytest.mark.nightly

MIB = 1 << 20
GIB = 1 << 30
VOLUME = "vol-0123456789abcdef0"


@pytest.fixture
def agent(guest: Guest) -> GuestAgent:
    """Give the shared guest's agent, stopped, with no policy and no state."""
    return GuestAgent(guest).install()


@pytest.fixture
def fresh_agent(fresh_guest: Guest) -> GuestAgent:
    """Give the agent of a guest that the test may kill."""
    return GuestAgent(fresh_guest).install()


@pytest.fixture
def ebs(guest: Guest) -> Iterator[EbsTarget]:
    """Give volumes whose reads can be made to fail."""
    with EbsTarget(guest) as target:
        yield target


def hash_device(guest: Guest, device: str) -> str:
    """Return the SHA-256 of all that is on a device."""
    return guest.shell(f"sync; dd if={device} iflag=direct bs=1M status=none | sha256sum")


CONTENTS = {
    "data at 40 MiB": "head -c 1M /dev/urandom | dd of=$1 bs=1M seek=40 oflag=direct status=none",
    "one byte at the end": "printf x | dd of=$1 bs=1 seek=$(($(blockdev --getsize64 $1) - 1)) status=none",
    "ext4, wiped by wipefs": "mkfs.ext4 -q $1; wipefs -q -a $1",
    "ext4, first MiB gone": "mkfs.ext4 -q $1; dd if=/dev/zero of=$1 bs=1M count=1 status=none",
    "gpt, backup only": "echo start=1MiB | sfdisk -q --label gpt $1; udevadm settle;"
    " dd if=/dev/zero of=$1 bs=1M count=1 conv=fsync status=none; partx -d $1 2>/dev/null || :",
    "another filesystem": "mkfs.ext4 -q -t ext2 $1",
    "swap": "mkswap -q $1",
}


def test_sharpest_contents_are_refused_on_nvme(agent: GuestAgent) -> None:
    """Each content is refused with a reason, and reads the same afterwards."""
    volumes = {f"vol-0{number:016x}": words for number, words in enumerate(CONTENTS)}
    agent.write_policy(*(make_entry(volume, "ext4", f"/data/{volume[-3:]}") for volume in volumes))
    hashes = {}
    for volume, words in volumes.items():
        device = agent.guest.nvmet.attach(volume, 64 * MIB)
        agent.guest.shell(f"{CONTENTS[words]}; sync", device)
        hashes[volume] = device, hash_device(agent.guest, device)
    agent.start()
    for volume, words in volumes.items():
        status = agent.wait_condition(volume, "Refused")
        assert status["reason"] in {"NotBlank", "FilesystemMismatch"}, words
    agent.stop()
    for volume, (device, before) in hashes.items():
        assert hash_device(agent.guest, device) == before, volumes[volume]
    assert agent.read_events("volume.formatted") == []


def test_read_errors_on_nvme_are_no_proof(agent: GuestAgent, ebs: EbsTarget) -> None:
    """A medium error at head, backup superblock or tail: refused, not written to, formatted once healed."""
    size_bytes = 2 * GIB
    agent.write_policy(make_entry(VOLUME))
    for first in (0, 128 * MIB, size_bytes - 64 * 1024):
        agent.stop()
        ebs.attach(VOLUME, size_bytes)
        ebs.call("fail", volume=VOLUME, operations=["read"], first=first, end=first + 4096, status=0x281)
        agent.start()
        agent.wait_condition(VOLUME, "Refused", "ProbeFailed")
        assert ebs.call("show", volume=VOLUME)[0]["statistics"]["write"]["ops"] == 0
        ebs.call("heal", volume=VOLUME)
    agent.wait_condition(VOLUME, "Ready")


def test_held_volume_is_refused_on_nvme(agent: GuestAgent) -> None:
    """A blank volume that device-mapper stands on is not formatted, and is when it is let go."""
    device = agent.guest.nvmet.attach(VOLUME, GIB)
    agent.guest.shell('modprobe dm-mod; dmsetup create held --table "0 2048 linear $1 0"', device)
    agent.write_policy(make_entry(VOLUME))
    agent.start()
    agent.wait_condition(VOLUME, "Refused", "DeviceBusy")
    agent.guest.run(["dmsetup", "remove", "held"])
    agent.wait_condition(VOLUME, "Ready")


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_power_loss_while_formatting_converges(fresh_agent: GuestAgent, fs_type: str) -> None:
    """The machine loses power in the midst of mkfs: after the next boot there is one filesystem, mounted."""
    agent, guest = fresh_agent, fresh_agent.guest
    options = ["-E", "lazy_itable_init=0"] if fs_type == "ext4" else []
    filesystem = {"type": fs_type, "format": "if-blank", "mkfs_options": options}
    agent.write_policy(make_entry(VOLUME, filesystem=filesystem))
    guest.run(["systemctl", "enable", UNIT])
    guest.shell("sync")
    agent.start()
    guest.nvmet.attach(VOLUME, 20 * GIB)
    guest.wait_until(["test", "-e", f"{STATE}/formats/{VOLUME}.json"], timeout_s=120, every_s=0.05)
    guest.kill()
    guest.start()
    guest.nvmet.connect(VOLUME)
    agent.wait_condition(VOLUME, "Ready")
    guest.shell("echo usable > /data/ckpt/file; sync -f /data/ckpt/file")


def test_power_loss_while_growing_loses_nothing(fresh_agent: GuestAgent) -> None:
    """The machine loses power while a filesystem grows: it is checked, has its file, and grows to its end."""
    agent, guest = fresh_agent, fresh_agent.guest
    agent.write_policy(make_entry(VOLUME, "xfs", grow=True))
    guest.run(["systemctl", "enable", UNIT])
    agent.start()
    guest.nvmet.attach(VOLUME, GIB)
    agent.wait_condition(VOLUME, "Ready")
    guest.shell("head -c 20M /dev/urandom > /data/ckpt/file; sha256sum /data/ckpt/file > /root/sum; sync")
    guest.nvmet.grow(VOLUME, 10 * GIB)
    guest.kill()
    guest.start()
    guest.nvmet.connect(VOLUME)
    agent.wait_condition(VOLUME, "Ready")
    guest.shell("sha256sum --check --quiet /root/sum")
    guest.wait_until(
        ["sh", "-c", "test $(df --output=size -B1 /data/ckpt | tail -n 1) -gt 9000000000"], timeout_s=120
    )
