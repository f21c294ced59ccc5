"""Filesystems that must not be written to as they are, on real NVMe: parts elsewhere, or never checked."""

from __future__ import annotations

from tests.vm.ebs import EbsTarget
from tests.vm.guest_agent import GuestAgent
from tests.vm.test_safety import hash_volumes
from tests.vm.volumes import choose_path, claim, name_volume, name_volumes

MIB = 1 << 20

LEAVE_A_DIRTY_JOURNAL = """
mke2fs -qF -O journal_dev -b 4096 $2
mkfs.ext4 -qF -b 4096 -J device=$2 $1
mkdir -p /scratch/made
mount $1 /scratch/made
dd if=/dev/urandom of=/scratch/made/file bs=1M count=1 conv=fsync status=none
xfs_io -x -c 'shutdown -f' /scratch/made
umount /scratch/made
"""
DAMAGE = """
mkfs.ext4 -qF $1
debugfs -w -R 'mkdir dir' $1 2> /dev/null
debugfs -w -R 'freei <12>' $1 2> /dev/null
debugfs -w -R 'ssv state 2' $1 2> /dev/null
sync
"""


def test_journal_on_another_volume_is_left_alone_on_nvme(agent: GuestAgent, ebs: EbsTarget) -> None:
    """Checked or mounted, it would have the kernel write to a volume that no entry names."""
    volume, journal = name_volumes(2)
    devices = [ebs.attach(one, 64 * MIB) for one in (volume, journal)]
    agent.guest.shell(LEAVE_A_DIRTY_JOURNAL, *devices)
    before = hash_volumes(agent.guest, [volume, journal])
    writes = ebs.count_all_writes()
    agent.write_policy(claim(volume))
    agent.reload()
    status = agent.wait_condition(volume, "Refused", "NotBlank")
    assert "journal is on another device" in status["message"]
    assert ebs.count_all_writes() == writes
    assert hash_volumes(agent.guest, [volume, journal]) == before


def test_damaged_filesystem_is_not_made_writable_unchecked_on_nvme(agent: GuestAgent, ebs: EbsTarget) -> None:
    """Mounted with ro it was not checked: it is when ro goes, before anything is written to it."""
    volume = name_volume()
    path = choose_path(volume)
    agent.guest.shell(DAMAGE, ebs.attach(volume, 64 * MIB))
    entry = claim(volume)
    agent.write_policy({**entry, "mount": {**entry["mount"], "options": ["ro"]}})
    agent.reload()
    agent.guest.wait_until(["mountpoint", "-q", path], timeout_s=60)
    agent.write_policy(entry)
    agent.reload()
    # It was ready before as well.
    agent.guest.wait_until(["findmnt", "--noheadings", "-O", "rw", "--mountpoint", path], timeout_s=60)
    agent.wait_condition(volume, "Ready")
    assert len([event for event in agent.read_events("volume.checked") if event["volume_id"] == volume]) == 1
    agent.guest.shell("echo new > $1/new; test -d $1/dir", path)
