"""From attached to mounted, on NVMe devices of the guest's kernel, by the unit as it is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.vm.guest import Guest
from tests.vm.guest_agent import EBS_AGENT, POLICY, UNIT, WAIT_S, GuestAgent, make_entry

GIB = 1 << 30
MIB = 1 << 20
VOLUME = "vol-0123456789abcdef0"
OTHER = "vol-0fedcba9876543210"


@pytest.fixture
def agent(guest: Guest) -> GuestAgent:
    """Give the shared guest's agent, stopped, with no policy and no state."""
    return GuestAgent(guest).install()


@pytest.fixture
def fresh_agent(fresh_guest: Guest) -> GuestAgent:
    """Give the agent of a guest that the test may reboot and kill."""
    return GuestAgent(fresh_guest).install()


def name_volume(number: int) -> str:
    """Return the ID of one of many volumes."""
    return f"vol-0{number:016x}"


def find_mount(guest: Guest, path: str) -> dict[str, str]:
    """Return source, type and options of what is mounted at ``path``; empty where nothing is."""
    argv = ["findmnt", "--json", "--output", "SOURCE,FSTYPE,OPTIONS,PROPAGATION", "--mountpoint", path]
    done = guest.run(argv, check=False)
    found: list[dict[str, str]] = json.loads(done.stdout)["filesystems"] if done.returncode == 0 else [{}]
    return found[0]


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_blank_volume_attached_hot(agent: GuestAgent, fs_type: str) -> None:
    """A blank volume attached while the agent runs is formatted and mounted, with nobody logging in."""
    agent.write_policy(make_entry(VOLUME, fs_type))
    agent.start()
    device = agent.guest.nvmet.attach(VOLUME, GIB)
    status = agent.wait_condition(VOLUME, "Ready")
    mount = find_mount(agent.guest, "/data/ckpt")
    assert (status["device"], mount["source"], mount["fstype"]) == (device, device, fs_type)
    assert {"nosuid", "nodev"} <= set(mount["options"].split(","))
    agent.guest.shell("echo written > /data/ckpt/file; sync -f /data/ckpt/file")


def test_existing_filesystem_is_kept(agent: GuestAgent) -> None:
    """A volume with data on it, attached before the agent started, is mounted as it is."""
    device = agent.guest.nvmet.attach(VOLUME, GIB)
    agent.guest.shell("mkfs.ext4 -q $1; mount $1 /mnt; echo kept > /mnt/file; umount /mnt", device)
    agent.write_policy(make_entry(VOLUME))
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    assert agent.guest.shell("cat /data/ckpt/file") == "kept\n"
    assert agent.read_events("volume.formatted") == []


@pytest.mark.nightly
def test_twenty_volumes_at_once(agent: GuestAgent) -> None:
    """Twenty blank volumes attached together are each mounted at their own path."""
    volumes = [name_volume(number) for number in range(1, 21)]
    agent.write_policy(*(make_entry(volume, "xfs", f"/data/v{i}") for i, volume in enumerate(volumes)))
    agent.start()
    for volume in volumes:
        agent.guest.nvmet.attach(volume, GIB)
    agent.guest.run([EBS_AGENT, "wait", *(f"v{i}" for i in range(20)), "--timeout", "240"], timeout_s=260)
    devices = {find_mount(agent.guest, f"/data/v{i}").get("source") for i in range(20)}
    assert len(devices - {None}) == 20


@pytest.mark.parametrize(
    "fs_type", ["ext4", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("xfs", "btrfs"))]
)
def test_grows_under_verified_writes(agent: GuestAgent, fs_type: str) -> None:
    """A volume grown while fio writes and verifies is bigger at the end, and every block reads back right."""
    agent.write_policy(make_entry(VOLUME, fs_type, grow=True))
    agent.guest.nvmet.attach(VOLUME, GIB)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    writer = agent.guest.start_command(
        [
            "fio", "--name=load", "--filename=/data/ckpt/load", "--rw=randwrite", "--bs=64k", "--size=192m",
            "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--ioengine=psync", "--fsync=16",
        ],
        timeout_s=300,
    )  # fmt: skip
    agent.guest.nvmet.grow(VOLUME, 3 * GIB)
    agent.guest.wait_until(
        ["sh", "-c", "test $(df --output=size -B1 /data/ckpt | tail -n 1) -gt 2600000000"], timeout_s=120
    )
    done = writer.wait(timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_partition_grows_first(agent: GuestAgent) -> None:
    """A filesystem on the only partition is mounted from there; partition and filesystem both grow."""
    device = agent.guest.nvmet.attach(VOLUME, GIB)
    agent.guest.shell(
        "echo start=1MiB | sfdisk -q --label gpt $1; udevadm settle; mkfs.ext4 -q ${1}p1", device
    )
    agent.write_policy(make_entry(VOLUME, grow=True))
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    assert find_mount(agent.guest, "/data/ckpt")["source"] == f"{device}p1"
    agent.guest.shell("echo kept > /data/ckpt/file")
    agent.guest.nvmet.grow(VOLUME, 3 * GIB)
    agent.guest.wait_until(
        ["sh", "-c", "test $(df --output=size -B1 /data/ckpt | tail -n 1) -gt 2600000000"], timeout_s=120
    )
    agent.guest.shell("sfdisk --verify $1; test $(cat /data/ckpt/file) = kept", device)


def test_raw_volume(agent: GuestAgent) -> None:
    """A raw volume has its links and its mode, and keeps them when udev sets the node up anew."""
    agent.write_policy(
        {"name": "rawdb", "match": {"volume_id": VOLUME}, "block": {"group": "disk", "mode": "0600"}}
    )
    agent.start()
    device = agent.guest.nvmet.attach(VOLUME, GIB)
    agent.wait_condition(VOLUME, "Ready")
    links = agent.guest.shell(f"readlink /dev/ebs/rawdb /dev/ebs/by-id/{VOLUME}").split()
    assert links == [device, device]
    agent.guest.shell("udevadm trigger --action=change --settle $1; chmod 0660 $1", device)
    agent.guest.shell("udevadm trigger --action=change --settle $1", device)
    agent.guest.wait_until(["sh", "-c", f"test $(stat -c %a {device}) = 600"], timeout_s=60)


def test_unplugged_while_idle(agent: GuestAgent) -> None:
    """A volume that was not mounted and goes away is Pending again, and its links are gone."""
    agent.write_policy({"name": "rawdb", "match": {"volume_id": VOLUME}, "block": {}})
    agent.start()
    agent.guest.nvmet.attach(VOLUME, GIB)
    agent.wait_condition(VOLUME, "Ready")
    agent.guest.nvmet.disconnect(VOLUME)
    agent.wait_condition(VOLUME, "Pending", "NotAttached")
    agent.guest.wait_until(["sh", "-c", "! test -L /dev/ebs/rawdb"], timeout_s=60)


def test_unplugged_while_mounted_and_back(agent: GuestAgent) -> None:
    """A volume pulled while mounted is Lost; put back, it is checked and mounted with its data."""
    agent.write_policy(make_entry(VOLUME, "xfs"))
    agent.start()
    agent.guest.nvmet.attach(VOLUME, GIB)
    agent.wait_condition(VOLUME, "Ready")
    agent.guest.shell("echo kept > /data/ckpt/file; sync -f /data/ckpt/file")
    agent.guest.nvmet.pull(VOLUME)
    agent.wait_condition(VOLUME, "Lost", "DeviceGone")
    agent.guest.wait_until(["sh", "-c", "! findmnt --mountpoint /data/ckpt"], timeout_s=60)
    agent.guest.nvmet.connect(VOLUME)
    agent.wait_condition(VOLUME, "Ready")
    assert agent.guest.shell("cat /data/ckpt/file") == "kept\n"
    assert len(agent.read_events("volume.checked")) == 1


@pytest.mark.nightly
def test_unplugged_while_being_formatted(agent: GuestAgent) -> None:
    """A volume pulled in the middle of mkfs is finished when it returns, under the intent written before."""
    slow = {"type": "ext4", "format": "if-blank", "mkfs_options": ["-E", "lazy_itable_init=0"]}
    agent.write_policy(make_entry(VOLUME, filesystem=slow))
    agent.start()
    agent.guest.nvmet.attach(VOLUME, 20 * GIB)
    agent.guest.wait_until(
        ["sh", "-c", "pgrep -x mkfs.ext4 || pgrep -x mke2fs"], timeout_s=WAIT_S, every_s=0.05
    )
    agent.guest.nvmet.pull(VOLUME)
    agent.guest.wait_until(lambda: agent.read_status(VOLUME).get("device") is None, timeout_s=120)
    agent.guest.nvmet.connect(VOLUME)
    agent.wait_condition(VOLUME, "Ready")


def test_killed_agent_is_restarted_and_finds_its_mounts(agent: GuestAgent) -> None:
    """Killed, the agent is started again by systemd, and what was mounted and open stays so."""
    agent.write_policy(make_entry(VOLUME))
    agent.start()
    agent.guest.nvmet.attach(VOLUME, GIB)
    agent.wait_condition(VOLUME, "Ready")
    before = find_mount(agent.guest, "/data/ckpt")
    holder = agent.guest.start_command(["sh", "-c", "exec 3> /data/ckpt/open; read -r _ < /dev/zero"])
    agent.kill()
    agent.wait_condition(VOLUME, "Ready")
    assert holder.is_running()
    holder.send_signal(15)
    assert find_mount(agent.guest, "/data/ckpt") == before


def test_mount_is_visible_to_other_services(agent: GuestAgent) -> None:
    """A service with a mount namespace of its own, running since before, sees the mount."""
    agent.write_policy(make_entry(VOLUME))
    agent.start()
    agent.guest.shell(
        "systemd-run --quiet --unit=witness --property=PrivateTmp=yes sleep infinity; mkdir -p /data/ckpt"
    )
    agent.guest.nvmet.attach(VOLUME, GIB)
    agent.wait_condition(VOLUME, "Ready")
    agent.guest.shell("echo seen > /data/ckpt/file")
    pid = agent.guest.shell("systemctl show --property=MainPID --value witness").strip()
    assert agent.guest.shell(f"cat /proc/{pid}/root/data/ckpt/file") == "seen\n"
    agent.guest.shell("systemctl stop witness")


def test_unit_stops_cleanly(agent: GuestAgent) -> None:
    """The unit stops within its time, without failing, and unmounts nothing."""
    agent.write_policy(make_entry(VOLUME))
    agent.start()
    agent.guest.nvmet.attach(VOLUME, GIB)
    agent.wait_condition(VOLUME, "Ready")
    agent.stop()
    shown = agent.guest.shell(f"systemctl show --property=Result,ExecMainStatus,ActiveState {UNIT}")
    assert set(shown.split()) == {"Result=success", "ExecMainStatus=0", "ActiveState=inactive"}
    assert find_mount(agent.guest, "/data/ckpt")


def test_copy_of_a_mounted_xfs_is_mounted_beside_it(agent: GuestAgent) -> None:
    """A volume restored from a snapshot of one that is mounted, and so with its UUID, is mounted as well."""
    agent.write_policy(make_entry(VOLUME, "xfs", "/data/a"), make_entry(OTHER, "xfs", "/data/b"))
    device = agent.guest.nvmet.attach(VOLUME, GIB)
    agent.guest.shell(
        "mkfs.xfs -q $1; mount $1 /mnt; echo both > /mnt/file; umount /mnt;"
        " cp --sparse=always /scratch/volumes/$2.img /scratch/volumes/$3.img",
        *(device, VOLUME, OTHER),
    )
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    agent.guest.nvmet.connect(OTHER)
    agent.wait_condition(OTHER, "Ready")
    assert "nouuid" in find_mount(agent.guest, "/data/b")["options"].split(",")
    assert agent.guest.shell("cat /data/a/file /data/b/file") == "both\nboth\n"
    assert agent.read_events("volume.formatted") == []


def test_refused_policy_fails_the_reload_and_changes_nothing(agent: GuestAgent) -> None:
    """``systemctl reload`` with a policy that is refused fails, and the volume stays as the old one says."""
    agent.write_policy(make_entry(VOLUME))
    agent.start()
    agent.guest.nvmet.attach(VOLUME, GIB)
    agent.wait_condition(VOLUME, "Ready")
    agent.guest.put(POLICY, b"version: 1\nvolumes: nothing\n", mode=0o600)
    done = agent.guest.run(["systemctl", "reload", UNIT], check=False, timeout_s=120)
    assert done.returncode != 0
    assert len(agent.read_events("policy.rejected")) == 1
    agent.wait_condition(VOLUME, "Ready")
    agent.write_policy(make_entry(VOLUME), make_entry(OTHER, "xfs", "/data/other"))
    agent.reload()
    agent.wait_condition(OTHER, "Pending", "NotAttached")


def test_disk_of_another_model_is_left_alone(agent: GuestAgent, tmp_path: Path) -> None:
    """An NVMe disk that bears a volume's serial but is no EBS volume is neither mounted nor written."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(GIB)
    agent.write_policy(make_entry(VOLUME))
    agent.start()
    agent.guest.plug_nvme(VOLUME, image)
    agent.guest.wait_until(lambda: agent.read_events("device.ignored"), timeout_s=60)
    assert agent.read_status(VOLUME)["condition"] == "Pending"
    agent.guest.unplug_nvme(VOLUME)
    with image.open("rb") as file:
        assert not any(file.read(16 * MIB))


@pytest.mark.nightly
def test_reboot_with_volumes_in_another_order(fresh_agent: GuestAgent) -> None:
    """After a reboot that gives the devices each other's names, every volume is where it belongs."""
    agent, guest = fresh_agent, fresh_agent.guest
    agent.write_policy(make_entry(VOLUME, "ext4", "/data/a"), make_entry(OTHER, "xfs", "/data/b"))
    guest.run(["systemctl", "enable", UNIT])
    agent.start()
    first = [guest.nvmet.attach(VOLUME, GIB), guest.nvmet.attach(OTHER, GIB)]
    for volume in (VOLUME, OTHER):
        agent.wait_condition(volume, "Ready")
    guest.shell("echo a > /data/a/file; echo b > /data/b/file; sync")
    guest.reboot()
    second = [guest.nvmet.connect(OTHER), guest.nvmet.connect(VOLUME)]
    assert second == first
    for volume in (VOLUME, OTHER):
        agent.wait_condition(volume, "Ready")
    assert guest.shell("cat /data/a/file /data/b/file") == "a\nb\n"
    assert agent.read_events("volume.formatted") == []
