"""From attached to mounted, on NVMe devices of the guest's kernel, by the unit as it is installed.

On both targets: the kernel's own, and the emulated EBS with its vendor bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.ebs import EbsTarget
from tests.vm.guest import Guest
from tests.vm.guest_agent import POLICY, UNIT, WAIT_S, GuestAgent
from tests.vm.volumes import Volumes, choose_name, choose_path, claim, name_volume, name_volumes

MIB = 1 << 20
SMALL = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
"""Sizes that mkfs takes: all of a blank volume this small is read before it is formatted."""
GROWN_BYTES = 1024 * MIB
GROWN_FS_BYTES = 880 * MIB
"""What a filesystem of that size has at least, by its own account."""


@pytest.fixture
def volumes(request: pytest.FixtureRequest, agent: GuestAgent) -> Volumes:
    """Give the target that the test asks for by name."""
    if request.param == "nvmet":
        return agent.guest.nvmet
    found: Volumes = request.getfixturevalue("ebs")
    return found


@pytest.fixture
def enabled_agent(agent: GuestAgent) -> Iterator[GuestAgent]:
    """Give an agent that the guest starts when it boots."""
    agent.guest.shell(f"systemctl enable --quiet {UNIT}; sync")
    yield agent
    agent.guest.run(["systemctl", "disable", "--quiet", UNIT])


def find_mount(guest: Guest, path: str) -> dict[str, str]:
    """Return source, type, options and UUID of what is mounted at ``path``; empty where nothing is."""
    argv = ["findmnt", "--json", "--output", "SOURCE,FSTYPE,OPTIONS,UUID", "--mountpoint", path]
    done = guest.run(argv, check=False)
    found: list[dict[str, str]] = json.loads(done.stdout)["filesystems"] if done.returncode == 0 else [{}]
    return found[0]


def wait_size(guest: Guest, path: str, size_bytes: int) -> None:
    """Wait until the filesystem at ``path`` has at least this size."""
    script = 'until test "$(df --output=size -B1 "$1" | tail -n 1)" -ge "$2"; do sleep 0.2; done'
    guest.shell(script, path, str(size_bytes), timeout_s=WAIT_S)


@pytest.mark.parametrize(
    ("fs_type", "volumes"), [("xfs", "nvmet"), ("btrfs", "nvmet"), ("ext4", "ebs")], indirect=["volumes"]
)
def test_blank_volume_attached_hot(agent: GuestAgent, volumes: Volumes, fs_type: str) -> None:
    """A blank volume attached while the agent runs is formatted and mounted, with nobody logging in."""
    volume = name_volume()
    agent.write_policy(claim(volume, fs_type))
    agent.reload()
    device = volumes.attach(volume, SMALL[fs_type])
    status = agent.wait_condition(volume, "Ready")
    mount = find_mount(agent.guest, choose_path(volume))
    assert (status["device"], mount["source"], mount["fstype"]) == (device, device, fs_type)
    assert {"nosuid", "nodev"} <= set(mount["options"].split(","))
    agent.guest.shell('echo written > "$1/file"; sync -f "$1/file"', choose_path(volume))


def test_volume_matched_by_its_device_name(agent: GuestAgent, ebs: EbsTarget) -> None:
    """The name that was chosen at attach, in the vendor's bytes of the device, finds the volume its entry."""
    volume, other = name_volumes(2)
    entry = {**claim(volume), "match": {"device_name": "/dev/sdf"}}
    agent.write_policy(entry)
    agent.reload()
    ebs.attach(other, SMALL["ext4"], device_name="/dev/sdg")
    device = ebs.attach(volume, SMALL["ext4"], device_name="/dev/sdf")
    assert agent.wait_condition(volume, "Ready")["device"] == device
    assert agent.read_status(other)["condition"] == "Unmanaged"
    assert ebs.count_writes(other) == 0


def test_existing_filesystem_is_kept(agent: GuestAgent) -> None:
    """A volume with data on it, attached before it is in the policy, is mounted as it is."""
    volume = name_volume()
    device = agent.guest.nvmet.attach(volume, SMALL["ext4"])
    agent.guest.shell("mkfs.ext4 -q $1; mount $1 /mnt; echo kept > /mnt/file; umount /mnt", device)
    agent.write_policy(claim(volume))
    agent.reload()
    agent.wait_condition(volume, "Ready")
    assert agent.guest.get(f"{choose_path(volume)}/file") == b"kept\n"
    assert agent.read_events("volume.formatted") == []


def test_twenty_volumes_at_once(agent: GuestAgent) -> None:
    """Twenty blank volumes attached together are each mounted at their own path.

    For their announcements alone, all of which the agent finds at once when it has its turn again.
    """
    volumes = name_volumes(20)
    agent.write_policy(*(claim(volume) for volume in volumes), resync="1h")
    agent.reload()
    signal = f"systemctl kill --kill-who=main --signal=SIG$1 {UNIT}"
    agent.guest.shell(signal, "STOP")
    try:
        devices = agent.guest.nvmet.attach_all(dict.fromkeys(volumes, SMALL["ext4"]))
    finally:
        agent.guest.shell(signal, "CONT")
    agent.wait_conditions(volumes, "Ready")
    mounted = agent.guest.shell("findmnt --raw --noheadings --types ext4 --output TARGET,SOURCE")
    assert {f"{choose_path(volume)} {device}" for volume, device in zip(volumes, devices, strict=True)} <= (
        set(mounted.splitlines())
    )


WRITE_UNTIL_GROWN = """
verify="--ioengine=psync --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/dev/null"
fio --name=before --filename="$1/before" --rw=randwrite --bs=64k --size=8m $verify
touch "$1/started"
until [ -e "$1/grown" ]; do
    fio --name=during --filename="$1/during" --rw=randwrite --bs=16k --size=8m --fsync=16 $verify
done
fio --name=before --filename="$1/before" --rw=randwrite --bs=64k --size=8m $verify --verify_only
"""


@pytest.mark.parametrize(
    ("fs_type", "volumes"),
    [
        ("ext4", "ebs"),
        ("xfs", "nvmet"),
        ("btrfs", "nvmet"),
    ],
    indirect=["volumes"],
)
def test_grows_under_verified_writes(agent: GuestAgent, volumes: Volumes, fs_type: str) -> None:
    """A volume grown while fio writes and verifies is bigger at the end, and every block reads back right."""
    volume = name_volume()
    path = choose_path(volume)
    agent.write_policy(claim(volume, fs_type, grow=True))
    agent.reload()
    volumes.attach(volume, SMALL[fs_type])
    agent.wait_condition(volume, "Ready")
    writer = agent.guest.start_command(["sh", "-euc", WRITE_UNTIL_GROWN, "sh", path], timeout_s=2 * WAIT_S)
    agent.guest.wait_until(["test", "-e", f"{path}/started"], timeout_s=WAIT_S)
    volumes.grow(volume, GROWN_BYTES)
    wait_size(agent.guest, path, GROWN_FS_BYTES)
    assert writer.is_running()
    agent.guest.run(["touch", f"{path}/grown"])
    writer.wait(timeout_s=2 * WAIT_S, check=True)


def test_partition_grows_first(agent: GuestAgent) -> None:
    """A filesystem on the only partition is mounted from there; partition and filesystem both grow."""
    volume = name_volume()
    path = choose_path(volume)
    device = agent.guest.nvmet.attach(volume, SMALL["ext4"])
    agent.guest.shell(
        "echo start=1MiB | sfdisk -q --label gpt $1; udevadm settle; mkfs.ext4 -q ${1}p1", device
    )
    agent.write_policy(claim(volume, grow=True))
    agent.reload()
    agent.wait_condition(volume, "Ready")
    assert find_mount(agent.guest, path)["source"] == f"{device}p1"
    agent.guest.shell('echo kept > "$1/file"', path)
    agent.guest.nvmet.grow(volume, GROWN_BYTES)
    wait_size(agent.guest, path, GROWN_FS_BYTES)
    agent.guest.shell('sfdisk --verify "$1"; test "$(cat "$2/file")" = kept', device, path)


def test_raw_volume_comes_and_goes(agent: GuestAgent) -> None:
    """A raw volume has its links and its mode, keeps both when udev sets it up anew, and goes."""
    volume = name_volume()
    name = choose_name(volume)
    block = {"group": "disk", "mode": "0600"}
    agent.write_policy({"name": name, "match": {"volume_id": volume}, "block": block})
    agent.reload()
    device = agent.guest.nvmet.attach(volume, SMALL["ext4"])
    agent.wait_condition(volume, "Ready")
    links = agent.guest.shell(f"readlink /dev/ebs/{name} /dev/ebs/by-id/{volume}").split()
    assert links == [device, device]
    agent.guest.shell("udevadm trigger --action=change --settle $1; chmod 0660 $1", device)
    agent.guest.shell("udevadm trigger --action=change --settle $1", device)
    agent.guest.wait_until(["sh", "-c", f"test $(stat -c %a {device}) = 600"], timeout_s=WAIT_S)
    agent.guest.nvmet.disconnect(volume)
    agent.wait_condition(volume, "Pending", "NotAttached")
    agent.guest.wait_until(
        ["sh", "-c", f"! test -L /dev/ebs/{name} && ! test -L /dev/ebs/by-id/{volume}"], timeout_s=WAIT_S
    )


@pytest.mark.parametrize(
    ("fs_type", "volumes"), [("xfs", "nvmet"), ("btrfs", "nvmet"), ("ext4", "ebs")], indirect=["volumes"]
)
def test_unplugged_while_mounted_and_back(agent: GuestAgent, volumes: Volumes, fs_type: str) -> None:
    """A volume pulled while mounted is Lost; put back, it is checked and mounted with its data."""
    volume = name_volume()
    path = choose_path(volume)
    agent.write_policy(claim(volume, fs_type))
    agent.reload()
    volumes.attach(volume, SMALL[fs_type])
    agent.wait_condition(volume, "Ready")
    agent.guest.shell('echo kept > "$1/file"; sync -f "$1/file"', path)
    volumes.pull(volume)
    agent.wait_condition(volume, "Lost", "DeviceGone")
    agent.guest.wait_until(["sh", "-c", f"! findmnt --mountpoint {path}"], timeout_s=WAIT_S)
    volumes.connect(volume)
    agent.wait_condition(volume, "Ready")
    assert agent.guest.get(f"{path}/file") == b"kept\n"
    assert len(agent.read_events("volume.lost")) == 1
    assert len(agent.read_events("volume.checked")) == 1


def test_volume_mounted_by_hand_where_it_was_noted_stays(agent: GuestAgent) -> None:
    """Taken out of the policy, attached anew under its old number and mounted by hand, it is left alone."""
    volume = name_volume()
    path, nvmet = choose_path(volume), agent.guest.nvmet
    tell = 'cd "/sys/class/block/${1#/dev/}"; cat dev diskseq'
    agent.write_policy(claim(volume))
    agent.reload()
    device = nvmet.attach(volume, SMALL["ext4"])
    agent.wait_condition(volume, "Ready")
    number, diskseq = agent.guest.shell(tell, device).split()
    agent.write_policy()
    agent.reload()
    agent.guest.shell('umount "$1"', path)
    nvmet.disconnect(volume)
    device = nvmet.connect(volume)
    number_now, diskseq_now = agent.guest.shell(tell, device).split()
    assert (number_now, int(diskseq_now) > int(diskseq)) == (number, True)
    agent.guest.shell('mount "$1" "$2"; echo kept > "$2/file"', device, path)
    assert "stale mount" not in agent.explain(volume)
    assert find_mount(agent.guest, path)["source"] == device
    assert agent.read_events("volume.unmounted") == []


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_unplugged_while_being_formatted(agent: GuestAgent, ebs: EbsTarget, fs_type: str) -> None:
    """A volume pulled at a write of mkfs is finished when it returns, under the intent written before."""
    volume = name_volume()
    agent.write_policy(claim(volume, fs_type))
    agent.reload()
    ebs.attach_stalling(volume, SMALL[fs_type], "write", after=2)
    ebs.wait_stalled(volume)
    intended = agent.read_intent(volume)
    ebs.pull(volume)
    agent.wait_condition(volume, "Pending", "NotAttached")
    ebs.call("heal", volume=volume)
    ebs.connect(volume)
    agent.wait_condition(volume, "Ready")
    assert find_mount(agent.guest, choose_path(volume))["uuid"] == intended["uuid"]


def test_killed_agent_is_restarted_and_finds_its_mounts(agent: GuestAgent) -> None:
    """Killed, the agent is started again by systemd, and what was mounted and open stays so."""
    volume = name_volume()
    path = choose_path(volume)
    agent.write_policy(claim(volume))
    agent.reload()
    agent.guest.nvmet.attach(volume, SMALL["ext4"])
    agent.wait_condition(volume, "Ready")
    before = find_mount(agent.guest, path)
    holder = agent.guest.start_command(["sh", "-c", f"exec 3> {path}/open; read -r _ < /dev/zero"])
    agent.kill()
    agent.wait_condition(volume, "Ready")
    assert holder.is_running()
    holder.send_signal(15)
    assert find_mount(agent.guest, path) == before


def test_mount_is_visible_to_other_services(agent: GuestAgent) -> None:
    """A service with a mount namespace of its own, running since before, sees the mount."""
    volume = name_volume()
    path = choose_path(volume)
    agent.guest.shell(
        "systemd-run --quiet --unit=witness --property=PrivateTmp=yes sleep infinity; mkdir -p $1", path
    )
    agent.write_policy(claim(volume))
    agent.reload()
    agent.guest.nvmet.attach(volume, SMALL["ext4"])
    agent.wait_condition(volume, "Ready")
    agent.guest.shell('echo seen > "$1/file"', path)
    pid = agent.guest.shell("systemctl show --property=MainPID --value witness").strip()
    assert agent.guest.get(f"/proc/{pid}/root{path}/file") == b"seen\n"
    agent.guest.shell("systemctl stop witness")


def test_unit_stops_cleanly(agent: GuestAgent) -> None:
    """The unit stops within its time, without failing, and unmounts nothing."""
    volume = name_volume()
    agent.write_policy(claim(volume))
    agent.reload()
    agent.guest.nvmet.attach(volume, SMALL["ext4"])
    agent.wait_condition(volume, "Ready")
    agent.stop()
    shown = agent.guest.shell(f"systemctl show --property=Result,ExecMainStatus,ActiveState {UNIT}")
    assert set(shown.split()) == {"Result=success", "ExecMainStatus=0", "ActiveState=inactive"}
    assert find_mount(agent.guest, choose_path(volume))


def test_refused_policy_fails_the_reload_and_changes_nothing(agent: GuestAgent) -> None:
    """``systemctl reload`` does what the policy says now; a refused policy fails it and changes nothing."""
    volume = name_volume()
    path = choose_path(volume)
    agent.write_policy(claim(volume))
    agent.reload()
    agent.guest.nvmet.attach(volume, SMALL["ext4"])
    agent.wait_condition(volume, "Ready")
    agent.write_policy(claim(volume, mount={"path": path, "options": ["noexec"]}))
    agent.guest.run(["systemctl", "reload", UNIT], timeout_s=WAIT_S)
    agent.guest.wait_until(
        lambda: "noexec" in find_mount(agent.guest, path)["options"].split(","), timeout_s=WAIT_S
    )
    agent.guest.put(POLICY, b"version: 1\nvolumes: nothing\n", mode=0o600)
    assert agent.guest.run(["systemctl", "reload", UNIT], check=False, timeout_s=WAIT_S).returncode != 0
    assert len(agent.read_events("policy.rejected")) == 1
    assert agent.wait_condition(volume, "Ready")["path"] == path


def test_copy_of_a_mounted_xfs_is_mounted_beside_it(agent: GuestAgent) -> None:
    """A volume restored from a snapshot of one that is mounted, and so with its UUID, is mounted as well."""
    volume, copy = name_volumes(2)
    device = agent.guest.nvmet.attach(volume, SMALL["xfs"])
    agent.guest.shell(
        "mkfs.xfs -q $1; mount $1 /mnt; echo both > /mnt/file; umount /mnt;"
        " cp --sparse=always /scratch/volumes/$2.img /scratch/volumes/$3.img",
        *(device, volume, copy),
    )
    agent.write_policy(claim(volume, "xfs"), claim(copy, "xfs"))
    agent.reload()
    agent.wait_condition(volume, "Ready")
    agent.guest.nvmet.connect(copy)
    agent.wait_condition(copy, "Ready")
    assert "nouuid" in find_mount(agent.guest, choose_path(copy))["options"].split(",")
    for each in (volume, copy):
        assert agent.guest.get(f"{choose_path(each)}/file") == b"both\n"
    assert agent.read_events("volume.formatted") == []


def test_disk_of_another_model_is_left_alone(agent: GuestAgent, tmp_path: Path) -> None:
    """A PCI NVMe disk, plugged in hot, that bears a volume's serial but is no EBS volume is not written."""
    volume = name_volume()
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    agent.write_policy(claim(volume))
    agent.reload()
    agent.guest.plug_nvme(volume, image)
    agent.guest.wait_until(lambda: agent.read_events("device.ignored"), timeout_s=WAIT_S)
    assert agent.read_status(volume)["condition"] == "Pending"
    agent.guest.unplug_nvme(volume)
    with image.open("rb") as file:
        assert not any(file.read(16 * MIB))


def test_reboot_with_volumes_in_another_order(enabled_agent: GuestAgent) -> None:
    """After a reboot that gives the devices each other's names, every volume is where it belongs."""
    agent, guest = enabled_agent, enabled_agent.guest
    volume, other = name_volumes(2)
    agent.write_policy(claim(volume, "ext4"), claim(other, "xfs"))
    agent.reload()
    first = [guest.nvmet.attach(volume, SMALL["ext4"]), guest.nvmet.attach(other, SMALL["xfs"])]
    agent.wait_conditions([volume, other], "Ready")
    for each in (volume, other):
        guest.shell('echo "$1" > "$2/file"; sync', each, choose_path(each))
    guest.reboot()
    second = [guest.nvmet.connect(other), guest.nvmet.connect(volume)]
    assert second == first
    agent.wait_conditions([volume, other], "Ready")
    for each in (volume, other):
        assert guest.get(f"{choose_path(each)}/file").decode() == f"{each}\n"
    assert agent.read_events("volume.formatted") == []
