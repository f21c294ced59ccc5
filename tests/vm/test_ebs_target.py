"""The emulated EBS against programs that are not ours: Linux's driver, nvme-cli, udev, mkfs, fio and fsck."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence

import pytest

from tests.vm.ebs import PORT, EbsTarget
from tests.vm.guest import Guest, GuestProcess

MIB = 1 << 20
GIB = 1 << 30
VOLUME = "vol-0123456789abcdef0"
OTHER = "vol-0fedcba9876543210"
MOUNT = "/mnt/ebs-target"
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
GROW = {"ext4": 'resize2fs "$1"', "xfs": 'xfs_growfs "$2" > /dev/null'}
FSCK = {"ext4": ["fsck.ext4", "-f", "-n"], "xfs": ["xfs_repair", "-n"]}
FIO = (
    *("fio", "--name=verify", "--ioengine=libaio", "--direct=1", "--iodepth=8"),
    *("--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--group_reporting"),
)
LINUX_IO_TIMEOUT_S = 30  # the driver's default, which a stall must be able to outlast


def mount(guest: Guest, device: str, filesystem: str) -> None:
    guest.run([*MKFS[filesystem], device])
    guest.shell('mkdir -p "$1"; mount "$2" "$1"', MOUNT, device)


def start_fio(guest: Guest, path: str, *options: str, timeout_s: float = 300) -> GuestProcess:
    return guest.start_command([*FIO, f"--filename={path}", *options], timeout_s=timeout_s)


def subtract(after: Sequence[int], before: Sequence[int]) -> list[int]:
    return [now - then for now, then in zip(after, before, strict=True)]


def read_kernel_log(guest: Guest) -> str:
    return guest.shell("dmesg | grep -i nvme || :")


def test_identity_is_ebss_to_nvme_cli_and_to_udev(guest: Guest, ebs: EbsTarget) -> None:
    """What AWS documents to tell EBS volumes by is there, found by tools that know nothing of us."""
    device = ebs.attach(VOLUME, GIB, device_name="/dev/sdf")
    controller = json.loads(guest.shell('nvme id-ctrl "$1" --output-format=json', device))
    assert controller["vid"] == 0x1D0F
    assert controller["sn"].strip() == "vol0123456789abcdef0"
    assert controller["mn"].strip() == "Amazon Elastic Block Store"
    assert "bdev      : /dev/sdf" in guest.shell('nvme amzn id-ctrl "$1"', device)
    guest.run(["udevadm", "settle"])
    properties = dict(
        line.split("=", 1) for line in guest.shell('udevadm info --query=property "$1"', device).splitlines()
    )
    assert properties["ID_MODEL"] == "Amazon Elastic Block Store"
    # With the namespace, as newer systemd has it; the link without it stays.
    assert properties["ID_SERIAL"] == "Amazon_Elastic_Block_Store_vol0123456789abcdef0_1"
    assert properties["ID_SERIAL_SHORT"] == "vol0123456789abcdef0"
    assert properties["ID_WWN"].startswith("nvme.1d0f-766f6c30")
    link = "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
    assert guest.shell('readlink -f "$1" "$1"_1', link).split() == [device, device]
    assert guest.shell('cat "/sys/class/block/$(basename "$1")/device/model"', device).strip() == (
        "Amazon Elastic Block Store"
    )
    # As on Nitro, and unlike nvmet: one controller a volume and no hidden paths.
    assert guest.shell("ls /sys/block | grep -c 'nvme.*c' || :").strip() == "0"


def test_nvme_cli_connects_and_disconnects(guest: Guest, ebs: EbsTarget) -> None:
    """`nvme connect -t tcp` is all that a host needs."""
    device = ebs.attach(VOLUME, GIB)
    (volume,) = ebs.call("show", volume=VOLUME)
    guest.run(["nvme", "disconnect", f"--nqn={volume['nqn']}"])
    assert ebs.find_device(VOLUME) is None
    guest.run(["nvme", "connect", "-t", "tcp", "-a", "127.0.0.1", "-s", str(PORT), "-n", volume["nqn"]])
    guest.wait_until(lambda: ebs.find_device(VOLUME) == device, timeout_s=60)


def test_instance_store_is_not_ebs(guest: Guest, ebs: EbsTarget) -> None:
    """A drive of the instance itself has another model, which is how it is left alone."""
    device = ebs.attach("AWS0123456789ABCDEF0", GIB)
    controller = json.loads(guest.shell('nvme id-ctrl "$1" --output-format=json', device))
    assert controller["mn"].strip() == "Amazon EC2 NVMe Instance Storage"
    assert controller["sn"].strip() == "AWS0123456789ABCDEF0"


def test_multi_path_volume_has_hidden_devices_and_is_found_beside_them(guest: Guest, ebs: EbsTarget) -> None:
    """The kernel's multi-path naming is there for tests that need it, and attach still finds the disk."""
    ebs.call("create", volume=VOLUME, size_bytes=GIB, is_multi_attach=True, has_paths=True)
    device = ebs.attach(VOLUME)
    assert guest.shell("ls /sys/block | grep -c 'nvme.*c'").strip() == "1"
    assert "c" not in device.rpartition("/nvme")[2]
    assert guest.shell('blockdev --getsize64 "$1"', device).strip() == str(GIB)


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_filesystem_lives_through_writing_growing_and_unmounting(
    guest: Guest, ebs: EbsTarget, filesystem: str
) -> None:
    """mkfs, mount, verified fio with small and large blocks, online growth, unmount and a clean check."""
    device = ebs.attach(VOLUME, GIB)
    mount(guest, device, filesystem)
    small = start_fio(guest, f"{MOUNT}/small", "--rw=randwrite", "--bs=4k-32k", "--size=8M")
    small.wait(check=True)
    start_fio(guest, f"{MOUNT}/large", "--rw=write", "--bs=1M", "--size=48M").wait(check=True)
    monitor = guest.start_command(
        ["timeout", "60", "udevadm", "monitor", "--kernel", "--property", "--subsystem-match=block"]
    )
    guest.wait_until(["pgrep", "-x", "udevadm"], timeout_s=20)
    guest.wait_until(["sh", "-c", "grep -q udevadm /proc/$(pgrep -x udevadm)/comm"], timeout_s=20)
    ebs.call("grow", volume=VOLUME, size_bytes=2 * GIB)
    guest.wait_until(["sh", "-c", f"test $(blockdev --getsize64 {device}) = {2 * GIB}"], timeout_s=30)
    guest.run(["pkill", "-x", "udevadm"])
    assert b"RESIZE=1" in monitor.wait(30).stdout
    guest.shell(GROW[filesystem], device, MOUNT)
    assert int(guest.shell('stat -f -c "%b * %S" "$1" | xargs expr', MOUNT)) > 1.8 * GIB
    start_fio(guest, f"{MOUNT}/after", "--rw=write", "--bs=64k", "--size=8M").wait(check=True)
    guest.run(["umount", MOUNT])
    guest.run([*FSCK[filesystem], device])
    ebs.call("detach", volume=VOLUME)
    assert ebs.find_device(VOLUME) is None
    assert ebs.attach(VOLUME) is not None
    guest.run([*FSCK[filesystem], device])


def test_statistics_are_those_of_the_io_the_kernel_did(guest: Guest, ebs: EbsTarget) -> None:
    """Log page 0xD0 agrees with the kernel's own counters for the disk, operation by operation."""
    device = ebs.attach(VOLUME, GIB)

    def read_kernel() -> list[int]:
        return [int(word) for word in guest.shell('cat "/sys/block/${1#/dev/}/stat"', device).split()]

    def read_both() -> tuple[list[int], bytes]:
        """Read both while nothing happens: udev looks at a disk whenever somebody closes it."""
        argv = ["nvme", "get-log", device, "--namespace-id=1", "--log-id=0xd0", "--log-len=4096"]
        while True:
            before = read_kernel()
            page = guest.run([*argv, "--raw-binary"]).stdout
            if read_kernel() == before:
                return before, page

    kernel, page = read_both()
    start_fio(guest, device, "--rw=randrw", "--bs=4k", "--size=2M", "--verify=0").wait(check=True)
    kernel_after, page_after = read_both()
    assert struct.unpack_from("<I", page_after)[0] == 0x3C23B510
    counters = subtract(struct.unpack_from("<4Q", page_after, 8), struct.unpack_from("<4Q", page, 8))
    did = subtract(kernel_after, kernel)
    assert counters == [did[0], did[4], did[2] * 512, did[6] * 512]
    assert counters[0] + counters[1] >= 512
    for offset, direction in ((512, 0), (2056, 1)):
        (bins,) = struct.unpack_from("<I", page_after, offset)
        counts = [struct.unpack_from("<I", page_after, offset + 24 + 24 * index)[0] for index in range(bins)]
        assert sum(counts) == struct.unpack_from("<2Q", page_after, 8)[direction]


def test_stall_outlasts_the_drivers_default_timeout(guest: Guest, ebs: EbsTarget) -> None:
    """With EBS's recommended timeout the kernel waits, fails nothing and never resets the controller."""
    device = ebs.attach(VOLUME, GIB)
    before = read_kernel_log(guest)
    ebs.call("stall", volume=VOLUME)
    write = guest.start_command(["dd", "if=/dev/zero", f"of={device}", "bs=4k", "count=1", "oflag=direct"])
    guest.shell('sleep "$1"', str(LINUX_IO_TIMEOUT_S + 5))
    assert write.is_running()
    (volume,) = ebs.call("show", volume=VOLUME)
    assert volume["statistics"]["queue_length"] == 1
    # The device can still be asked who it is: what stalls is its I/O.
    assert "Amazon Elastic Block Store" in guest.shell('nvme id-ctrl "$1"', device)
    ebs.call("resume", volume=VOLUME)
    write.wait(30, check=True)
    assert read_kernel_log(guest) == before


def test_pulled_volume_vanishes_and_leaves_its_mount_behind(guest: Guest, ebs: EbsTarget) -> None:
    """A forced detach: the device is gone, the mount table still lists it, and every access is EIO."""
    device = ebs.attach(VOLUME, GIB)
    mount(guest, device, "ext4")
    guest.shell('echo kept > "$1/file"; sync', MOUNT)
    ebs.call("pull", volume=VOLUME)
    assert guest.run(["test", "-e", device], check=False).returncode == 1
    assert MOUNT in guest.shell("cat /proc/self/mountinfo")
    touched = guest.run(
        ["dd", "if=/dev/zero", f"of={MOUNT}/new", "bs=4k", "count=1", "conv=fsync"], check=False
    )
    assert touched.returncode != 0
    guest.run(["umount", "--lazy", MOUNT])
    returned = ebs.call("return", volume=VOLUME)["device"]
    guest.shell('mount "$1" "$2"', returned, MOUNT)
    assert guest.shell('cat "$1/file"', MOUNT) == "kept\n"
    guest.run(["umount", MOUNT])


def test_volume_that_returns_with_another_serial_is_another_disk(guest: Guest, ebs: EbsTarget) -> None:
    """Udev's links follow the new identity, and the old one's are gone."""
    ebs.attach(VOLUME, GIB)
    ebs.call("pull", volume=VOLUME)
    device = ebs.call("return", volume=VOLUME, serial="vol0badc0ffee0ddf00d")["device"]
    guest.run(["udevadm", "settle"])
    links = guest.shell("ls /dev/disk/by-id")
    assert "nvme-Amazon_Elastic_Block_Store_vol0badc0ffee0ddf00d" in links
    assert "vol0123456789abcdef0" not in links
    assert device.startswith("/dev/nvme")


@pytest.mark.parametrize("how", ["kill", "sever"])
def test_io_goes_on_where_it_stood_when_the_target_is_reached_again(
    guest: Guest, ebs: EbsTarget, how: str
) -> None:
    """Killed in the midst of verified writing, or cut off: the kernel reconnects, and no byte is wrong."""
    device = ebs.attach(VOLUME, GIB)
    writing = start_fio(guest, device, "--rw=randwrite", "--bs=16k", "--size=24M", "--fsync=16")
    guest.wait_until(
        lambda: ebs.call("show", volume=VOLUME)[0]["statistics"]["write"]["ops"] > 100, timeout_s=60
    )
    assert writing.is_running()
    if how == "kill":
        ebs.kill()
        ebs.start()
    else:
        ebs.call("sever", volume=VOLUME)
    done = writing.wait(300, check=True)
    assert b"err= 0" in done.stdout
    assert "Successfully reconnected" in read_kernel_log(guest)


def test_bad_range_is_bad_to_the_kernel_and_the_rest_is_not(guest: Guest, ebs: EbsTarget) -> None:
    """An unrecovered read error is what the kernel says of it; other sectors read."""
    device = ebs.attach(VOLUME, GIB)
    ebs.call("fail", volume=VOLUME, operations=["read"], first=MIB, end=2 * MIB, status=0x281)
    read = ["dd", f"if={device}", "of=/dev/null", "iflag=direct", "bs=4k", "count=1"]
    assert guest.run([*read, "skip=256"], check=False).returncode != 0
    assert "critical medium error" in guest.shell("dmesg | tail -n 20")
    guest.run([*read, "skip=255"])
    guest.run([*read, "skip=512"])
    ebs.call("heal", volume=VOLUME)
    guest.run([*read, "skip=256"])


def test_twenty_volumes_work_at_once(guest: Guest, ebs: EbsTarget) -> None:
    """Each is formatted, written and verified while all the others are."""
    attached = ebs.call_all(
        [{"do": "attach", "volume": f"vol-{index:017x}", "size_bytes": 256 * MIB} for index in range(20)]
    )
    devices = [volume["device"] for volume in attached]
    assert len(set(devices)) == 20
    script = """
try_one() {
    at=/mnt/each/${1#/dev/}
    mkfs.ext4 -q -F "$1"
    mkdir -p "$at"
    mount "$1" "$at"
    head -c 2000000 /dev/urandom > "$at/file"
    sum=$(md5sum < "$at/file")
    umount "$at"
    mount "$1" "$at"
    test "$(md5sum < "$at/file")" = "$sum"
    umount "$at"
}
for device in "$@"; do
    try_one "$device" &
    started="$started $!"
done
for each in $started; do
    wait "$each"
done
"""
    guest.run(["sh", "-euc", f"started=; {script}", "sh", *devices], timeout_s=450)
    volumes = ebs.call("show")
    assert all(volume["statistics"]["write"]["total_bytes"] >= 2_000_000 for volume in volumes)
