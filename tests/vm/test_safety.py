"""Never lose a byte, on real NVMe: the sharpest contents, other devices, failing reads, power lost."""

from __future__ import annotations

from tests.vm.ebs import VOLUMES, EbsTarget
from tests.vm.guest import Guest
from tests.vm.guest_agent import EBS_AGENT, UNIT, GuestAgent
from tests.vm.volumes import choose_path, claim, name_volume, name_volumes

MIB = 1 << 20
NOT_READY = 3
UNRECOVERED_READ_ERROR = 0x281
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
"""What each mkfs takes; all of so small a volume is read before it is formatted."""

CONTENT_BYTES = 20 * MIB
"""Room for the largest of them: LUKS keeps 16 MiB for itself."""
CONTENTS = {
    "data in the midst": "head -c 64K /dev/urandom | dd of=$1 bs=64K seek=150 oflag=direct status=none",
    "one byte at the end": "printf x | dd of=$1 bs=1 seek=$(($(blockdev --getsize64 $1) - 1)) status=none",
    "ext4, wiped by wipefs": "mkfs.ext4 -q $1; wipefs -q -a $1",
    "ext4, first MiB gone": "mkfs.ext4 -q $1; dd if=/dev/zero of=$1 bs=1M count=1 status=none",
    "gpt, backup only": "echo start=1MiB | sfdisk -q --label gpt $1; udevadm settle;"
    " dd if=/dev/zero of=$1 bs=1M count=1 conv=fsync status=none; partx -d $1 2>/dev/null || :",
    "another filesystem": "mkfs.ext4 -q -t ext2 $1",
    "swap": "mkswap -q $1",
    "luks": "echo key | cryptsetup --batch-mode luksFormat --pbkdf=pbkdf2 --pbkdf-force-iterations=1000 $1",
    "lvm, a physical volume": "pvcreate -q -y $1 > /dev/null",
}

HOLD = {
    "device-mapper": 'dmsetup create held-dm --table "0 2048 linear $1 0"',
    "lvm": "vgcreate -q -y held-vg $1 > /dev/null; lvcreate -q -y -n lv -l 1 -W n -Z n held-vg > /dev/null",
    "luks": f"{CONTENTS['luks']}; echo key | cryptsetup open $1 held-luks",
    "md": "mdadm --create /dev/md/held --quiet --run --force --level=1 --raid-devices=1 --metadata=1.2 $1",
}
LET_GO = {
    "device-mapper": "dmsetup remove held-dm",
    "lvm": "vgchange -q -a n held-vg > /dev/null",
    "luks": "cryptsetup close held-luks",
    "md": "mdadm --stop --quiet /dev/md/held",
}


def hash_volumes(guest: Guest, volumes: list[str]) -> dict[str, str]:
    """Return the SHA-256 of what the target's disk has of each volume, written back by the guest before."""
    images = [f"{VOLUMES}/{volume}.img" for volume in volumes]
    lines = guest.shell('sync; sha256sum "$@"', *images, timeout_s=300).splitlines()
    return {volume: line.split()[0] for volume, line in zip(volumes, lines, strict=True)}


def test_sharpest_contents_are_refused_on_nvme(agent: GuestAgent, ebs: EbsTarget) -> None:
    """Each content is refused with a reason; no write reaches the volume, and its bytes are the same."""
    volumes = dict(zip(name_volumes(len(CONTENTS)), CONTENTS, strict=True))
    for volume, words in volumes.items():
        agent.guest.shell(CONTENTS[words], ebs.attach(volume, CONTENT_BYTES))
    before = hash_volumes(agent.guest, list(volumes))
    writes = ebs.count_all_writes()
    agent.write_policy(*map(claim, volumes))
    agent.reload()
    for volume, status in agent.wait_conditions(volumes, "Refused").items():
        assert status["reason"] in {"NotBlank", "FilesystemMismatch"}, (volumes[volume], status)
    assert ebs.count_all_writes() == writes
    assert hash_volumes(agent.guest, list(volumes)) == before
    assert agent.read_events("volume.formatted") == []


def test_read_errors_on_nvme_are_no_proof(agent: GuestAgent, ebs: EbsTarget) -> None:
    """A medium error at head, backup superblock or tail: refused, not written to, formatted once healed."""
    size_bytes = 256 * MIB
    volumes = dict(zip(name_volumes(3), (0, 128 * MIB, size_bytes - 64 * 1024), strict=True))
    failure = {"do": "fail", "operations": ["read"], "status": UNRECOVERED_READ_ERROR}
    for volume, first in volumes.items():
        ebs.call_all(
            [
                {"do": "create", "volume": volume, "size_bytes": size_bytes},
                {**failure, "volume": volume, "first": first, "end": first + 4096},
                {"do": "attach", "volume": volume},
            ]
        )
    agent.write_policy(*map(claim, volumes))
    agent.reload()
    agent.wait_conditions(volumes, "Refused", "ProbeFailed")
    assert ebs.count_all_writes() == dict.fromkeys(volumes, 0)
    ebs.call_all([{"do": "heal", "volume": volume} for volume in volumes])
    agent.wait_conditions(volumes, "Ready")


def test_held_volume_is_refused_on_nvme(agent: GuestAgent) -> None:
    """A volume that others stand on is not touched; let go, only the one that is blank then is formatted."""
    guest = agent.guest
    volumes = dict(zip(name_volumes(len(HOLD)), HOLD, strict=True))
    devices = dict(zip(volumes, guest.nvmet.attach_all(dict.fromkeys(volumes, SIZES["ext4"])), strict=True))
    for volume, holder in volumes.items():
        guest.shell(HOLD[holder], devices[volume])
    try:
        agent.write_policy(*map(claim, volumes))
        agent.reload()
        statuses = agent.wait_conditions(volumes, "Refused", "DeviceBusy")
        assert {volume: status["device"] for volume, status in statuses.items()} == devices
    finally:
        for holder in volumes.values():
            guest.shell(LET_GO[holder])
    for volume, holder in volumes.items():
        if holder == "device-mapper":
            agent.wait_condition(volume, "Ready")
        else:
            agent.wait_condition(volume, "Refused", "NotBlank")


def test_shared_and_local_disks_are_left_alone_on_nvme(agent: GuestAgent, ebs: EbsTarget) -> None:
    """A volume whose namespace may be shared is refused; an instance store is none, whatever would fit it."""
    shared, local, wanted = name_volume(), "AWS0123456789ABCDEF0", name_volume()
    ebs.call("create", volume=shared, size_bytes=SIZES["ext4"], is_multi_attach=True)
    ebs.attach(shared)
    ebs.attach(local, 1024 * MIB)
    fitting = {**claim(wanted), "match": {"size": "1GiB"}}
    agent.write_policy(claim(shared), fitting)
    agent.reload()
    agent.wait_condition(shared, "Refused", "MultiAttach")
    assert any("nstance" in event["why"] for event in agent.read_events("device.ignored"))
    assert {volume for volume, status in agent.read_statuses().items() if status["device"]} == {shared}
    assert (ebs.count_writes(shared), ebs.count_writes(local)) == (0, 0)


def test_two_devices_with_one_serial_on_nvme(agent: GuestAgent, ebs: EbsTarget) -> None:
    """Two devices that say they are the same volume: neither is touched until one is gone."""
    volume = name_volume()
    device = agent.guest.nvmet.attach(volume, SIZES["ext4"])
    ebs.attach(volume, SIZES["ext4"])
    agent.write_policy(claim(volume))
    agent.reload()
    agent.wait_condition(volume, "Refused", "DuplicateDevice")
    ebs.pull(volume)
    assert ebs.count_writes(volume) == 0
    assert agent.wait_condition(volume, "Ready")["device"] == device


def test_device_that_is_another_one_by_the_time_of_mkfs(agent: GuestAgent, ebs: EbsTarget) -> None:
    """Pulled in the midst of its proof, with another one in its place: only the one meant is made."""
    volume, other = name_volumes(2)
    agent.write_policy(claim(volume))
    agent.reload()
    ebs.attach_stalling(volume, SIZES["ext4"], "read", after=100)
    ebs.wait_stalled(volume)
    ebs.pull(volume)
    ebs.attach(other, SIZES["ext4"])
    agent.wait_condition(volume, "Pending", "NotAttached")
    agent.wait_condition(other, "Unmanaged")
    ebs.call("heal", volume=volume)
    device = ebs.connect(volume)
    assert agent.wait_condition(volume, "Ready")["device"] == device
    assert ebs.count_writes(other) == 0


def test_permission_withdrawn_in_the_midst_of_the_proof(agent: GuestAgent, ebs: EbsTarget) -> None:
    """A policy that comes to say ``format: never`` while blankness is proven: no write reaches the volume."""
    volume = name_volume()
    agent.write_policy(claim(volume))
    agent.reload()
    ebs.attach_stalling(volume, SIZES["ext4"], "read", after=100)
    ebs.wait_stalled(volume)
    agent.write_policy({**claim(volume), "filesystem": {"type": "ext4", "format": "never"}})
    agent.reload()
    ebs.call("heal", volume=volume)
    agent.wait_condition(volume, "Refused", "FormatNotAllowed")
    assert ebs.count_writes(volume) == 0
    assert agent.read_events("volume.formatted") == []


def test_volume_that_says_another_serial_by_the_time_of_mkfs(agent: GuestAgent, ebs: EbsTarget) -> None:
    """Gone in the midst of its proof and back under its device name as another volume: it is not touched."""
    volume, other = name_volumes(2)
    agent.write_policy(claim(volume))
    agent.reload()
    ebs.attach_stalling(volume, SIZES["ext4"], "read", after=100)
    ebs.wait_stalled(volume)
    ebs.pull(volume)
    ebs.call("heal", volume=volume)
    ebs.call("return", volume=volume, serial=other.replace("-", ""))
    agent.wait_condition(volume, "Pending", "NotAttached")
    agent.wait_condition(other, "Unmanaged")
    assert ebs.count_writes(volume) == 0


def test_power_loss_in_the_midst_of_mkfs_and_growth(agent: GuestAgent, ebs: EbsTarget) -> None:
    """The power goes while volumes stand at a write of mkfs and others at one of their growth.

    After the next boot each that was being formatted is one filesystem, the one that was intended, and each
    that grew has what was synced to it and grows to its end.
    """
    guest = agent.guest
    made = dict(zip(name_volumes(3), SIZES, strict=True))
    grown = dict(zip(name_volumes(2), ("ext4", "xfs"), strict=True))
    entries = [claim(volume, fs_type, grow=True) for volume, fs_type in {**made, **grown}.items()]
    agent.write_policy(*entries)
    agent.reload()
    guest.run(["systemctl", "enable", "--quiet", UNIT])
    for volume, fs_type in grown.items():
        ebs.attach(volume, SIZES[fs_type])
    agent.wait_conditions(grown, "Ready")
    for volume in grown:
        guest.shell(
            'head -c 4M /dev/urandom > "$1/file"; sha256sum "$1/file" >> /root/sums; sync -f "$1/file"',
            choose_path(volume),
        )
    for volume, fs_type in made.items():
        ebs.attach_stalling(volume, SIZES[fs_type], "write", after=2)
    for volume in grown:
        ebs.call("stall", volume=volume, operations=["write"])
        ebs.grow(volume, 1024 * MIB)
    ebs.wait_stalled(*made, *grown)
    intents = {volume: agent.read_intent(volume)["uuid"] for volume in made}
    guest.shell("sync -f /root/sums")
    guest.kill()
    guest.start()
    ebs.start()
    for volume in (*made, *grown):
        ebs.connect(volume)
    agent.wait_conditions([*made, *grown], "Ready")
    for volume, uuid in intents.items():
        path = choose_path(volume)
        assert guest.shell('findmnt --noheadings --output UUID --mountpoint "$1"', path).strip() == uuid
        guest.shell('echo usable > "$1/file"; sync -f "$1/file"', path)
    guest.shell("sha256sum --check --quiet /root/sums; rm /root/sums")
    for volume in grown:
        guest.wait_until(
            ["sh", "-c", f"test $(df --output=size -B1 {choose_path(volume)} | tail -n 1) -gt {880 * MIB}"],
            timeout_s=120,
        )
    guest.run(["systemctl", "disable", "--quiet", UNIT])


def test_covered_volume_is_not_ready_on_nvme(agent: GuestAgent, ebs: EbsTarget) -> None:
    """Hidden at its path or below its parent: refused as that, by the exit code too, and seen again ready."""
    volume = name_volume()
    path = choose_path(volume)
    ebs.attach(volume, SIZES["ext4"])
    agent.write_policy(claim(volume))
    agent.reload()
    agent.wait_condition(volume, "Ready")
    for where in (path, path.rpartition("/")[0]):
        agent.guest.shell('mount -t tmpfs none "$1"; touch "$1/mark"', where)
        agent.wait_condition(volume, "Refused", "PathInUse")
        waited = agent.guest.run([EBS_AGENT, "wait", volume, "--timeout", "1"], check=False)
        assert waited.returncode == NOT_READY
        assert agent.guest.shell('ls -A "$1"', where).split() == ["mark"]
        agent.guest.run(["umount", where])
        agent.wait_condition(volume, "Ready")


def test_mounted_volume_is_not_handed_out_raw_on_nvme(agent: GuestAgent, ebs: EbsTarget) -> None:
    """What becomes raw while it is in use stays as it is, without a link, and is raw once nobody uses it."""
    volume = name_volume()
    path = choose_path(volume)
    ebs.attach(volume, SIZES["ext4"])
    agent.write_policy(claim(volume))
    agent.reload()
    agent.wait_condition(volume, "Ready")
    agent.guest.shell('systemd-run --quiet --unit=user-of-it --working-directory="$1" sleep infinity', path)
    try:
        agent.write_policy({"name": "raw", "match": {"volume_id": volume}, "block": {"mode": "0666"}})
        agent.reload()
        agent.wait_condition(volume, "Refused", "DeviceBusy")
        agent.guest.shell('mountpoint -q "$1"; ! test -e /dev/ebs/raw', path)
    finally:
        agent.guest.run(["systemctl", "stop", "user-of-it"])
    agent.wait_condition(volume, "Ready")
    agent.guest.shell('! mountpoint -q "$1"; test -b /dev/ebs/raw', path)


def test_raw_volume_of_a_moved_kubelet_is_left_alone_on_nvme(agent: GuestAgent, ebs: EbsTarget) -> None:
    """Kubelet's root behind a link to the system's directories: its raw block volume is the CSI driver's."""
    volume = name_volume()
    device = ebs.attach(volume, SIZES["ext4"])
    place = "plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/pod-1"
    agent.guest.shell(
        "mkdir -p /opt/sagemaker/kubelet; ln -sfn /opt/sagemaker/kubelet /var/lib/kubelet;"
        ' cd /var/lib/kubelet; mkdir -p "${2%/*}"; touch "$2"; mount --bind "$1" "$2"',
        device,
        place,
    )
    writes = ebs.count_writes(volume)
    try:
        raw = {"name": "raw", "match": {"volume_id": volume}, "block": {"mode": "0666"}}
        for entry in (claim(volume), raw):
            agent.write_policy(entry)
            agent.reload()
            agent.wait_condition(volume, "Refused", "ManagedByCsi")
        agent.guest.shell("! test -e /dev/ebs/raw")
        assert ebs.count_writes(volume) == writes
    finally:
        agent.guest.shell(
            'umount "/opt/sagemaker/kubelet/$1"; rm -r /opt/sagemaker/kubelet /var/lib/kubelet', place
        )
