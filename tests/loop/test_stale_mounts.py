"""What is mounted where the agent once noted a mount of its own, and is not that mount any more."""

from __future__ import annotations

import subprocess

import pytest

from agent.core.model import MountRecord, VolumeId
from agent.core.replace import replace
from agent.node.state.volume_records import Records, read_boot_id
from tests.agent_process import AgentProcess, Scratch
from tests.loop.test_daemon import VOLUME, entry, find_mount


@pytest.mark.parametrize("is_attached", [False, True], ids=["absent", "attached"])
def test_filesystem_with_the_number_of_a_noted_btrfs_stays(
    scratch: Scratch, agent: AgentProcess, *, is_attached: bool
) -> None:
    """Numbers of no device are given out again at once: what has one is whoever's mounted it."""
    path = scratch.data / "ckpt"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "theirs", str(path)], check=True)
    theirs = find_mount(path)
    note = MountRecord(VolumeId(VOLUME), str(path), theirs.device_number, read_boot_id(), 1)
    Records(scratch.paths.state).mounts.write(note)
    if is_attached:
        scratch.add_volume(VOLUME)
    scratch.write_policy()
    agent.start()
    assert find_mount(path) == theirs
    assert not agent.read_events("volume.unmounted")


def test_volume_that_came_back_and_was_mounted_by_hand_stays(scratch: Scratch, agent: AgentProcess) -> None:
    """Under the number that was noted, at the path that was noted, and no longer in the policy."""
    path = scratch.data / "ckpt"
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    agent.stop()
    device = find_mount(path).source
    subprocess.run(["umount", str(path)], check=True)
    notes = Records(scratch.paths.state).mounts
    note = notes.read(VolumeId(VOLUME))
    assert note is not None
    notes.write(replace(note, diskseq=(note.diskseq or 1) + 1))
    subprocess.run(["mount", device, str(path)], check=True)
    theirs = find_mount(path)
    scratch.write_policy()
    agent.start()
    assert find_mount(path) == theirs
    assert not agent.read_events("volume.unmounted")
