"""A claim's whole way: staged, published to pods, measured, grown, taken back."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from grpclib.const import Status

from tests.agent_process import MIB, AgentProcess, Scratch
from tests.corpus.filesystems import WEIGHTS, make_ext4_with_file
from tests.corpus.tools import digest
from tests.csi.kubelet import Kubelet
from tests.csi.places import Claim
from tests.loop.csi.refusals import refuse
from tests.loop.csi.views import find_mount, find_mounts
from tests.loop.test_growth import needs_resource
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef0"
PODS = [f"pod-{number}" for number in range(50)]


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_blank_volume_becomes_a_pods_directory_and_keeps_its_data(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet, fs_type: str
) -> None:
    """It is formatted once; what a pod wrote is there for the next one, after a detach between them."""
    image = scratch.add_volume(VOLUME)
    claim = Claim(VOLUME, fs_type=fs_type)
    staging = kubelet.stage(claim)
    target = kubelet.publish(claim)
    assert find_mount(target).fs_type == find_mount(staging).fs_type == fs_type
    (target / "weights").write_bytes(WEIGHTS)
    kubelet.unpublish(claim)
    kubelet.unstage(claim)
    assert find_mounts(staging) == []
    away = image.rename(scratch.base / "away")
    wait_until(lambda: not agent.status(VOLUME).get("attached", False), "it is detached")
    away.rename(image)
    kubelet.stage(claim)
    assert (kubelet.publish(claim, "another") / "weights").read_bytes() == WEIGHTS
    assert len(agent.read_events("volume.formatted")) == 1


def test_calls_of_what_is_done_change_nothing(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """It is asked again at any time: each answer is the first one's, and so is each mount."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    staging, target = kubelet.stage(claim), kubelet.publish(claim)
    before = find_mount(staging).mount_id, find_mount(target).mount_id
    kubelet.stage(claim)
    kubelet.publish(claim)
    agent.kill()
    agent.start()
    kubelet.wait_registered()
    kubelet.publish(claim)
    kubelet.stage(claim)
    assert (find_mount(staging).mount_id, find_mount(target).mount_id) == before
    for _ in range(2):
        kubelet.unpublish(claim)
    for _ in range(2):
        kubelet.unstage(claim)
    assert len(agent.read_events("volume.formatted")) == 0


def test_fifty_pods_at_once(scratch: Scratch, kubelet: Kubelet) -> None:
    """Fifty publications at once are fifty views; fifty of one are one; and all go at once too."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME, access="SINGLE_NODE_MULTI_WRITER")
    kubelet.stage(claim)
    calls = [kubelet.begin(kubelet.node.publish, claim, pod) for pod in PODS]
    calls += [kubelet.begin(kubelet.node.publish, claim, PODS[0]) for _ in PODS]
    targets = {call.result() for call in calls}
    assert len(targets) == len(PODS)
    assert [len(find_mounts(target)) for target in targets] == [1] * len(PODS)
    for call in [kubelet.begin(kubelet.node.unpublish, claim, pod) for pod in PODS]:
        call.result()
    kubelet.unstage(claim)


def test_staged_twice_at_once(scratch: Scratch, agent: AgentProcess, kubelet: Kubelet) -> None:
    """A second call for the same joins the one under way, and one that hung up took nothing with it."""
    claim = Claim(VOLUME)
    calls = [kubelet.begin(kubelet.node.stage, claim) for _ in range(3)]
    calls.pop().cancel()
    scratch.add_volume(VOLUME)
    for call in calls:
        call.result()
    assert len(find_mounts(kubelet.places.staging(claim))) == 1
    assert len(agent.read_events("volume.formatted")) == 1


def test_read_only_view_beside_a_writable_one(scratch: Scratch, kubelet: Kubelet) -> None:
    """A pod that may only read gets a view of its own; nobody else's changes by it."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    reader = Claim(VOLUME, is_read_only=True)
    kubelet.stage(claim)
    writable, readable = kubelet.publish(claim, "writer"), kubelet.publish(reader, "reader")
    (writable / "file").write_text("written")
    assert (readable / "file").read_text() == "written"
    with pytest.raises(OSError, match="Read-only"):
        (readable / "other").write_text("written")
    assert refuse(kubelet.publish, claim, "reader").is_final
    kubelet.publish(reader, "reader")


def test_one_pod_at_a_time(scratch: Scratch, kubelet: Kubelet) -> None:
    """A ReadWriteOncePod volume has one pod, until that is gone."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME, access="SINGLE_NODE_SINGLE_WRITER")
    kubelet.stage(claim)
    kubelet.publish(claim, "first")
    assert refuse(kubelet.publish, claim, "second").status is Status.FAILED_PRECONDITION
    kubelet.publish(claim, "first")
    kubelet.unpublish(claim, "first")
    kubelet.publish(claim, "second")


def test_raw_volume_is_a_device_at_the_pods_file(scratch: Scratch, kubelet: Kubelet) -> None:
    """A pod gets the device itself; nobody else writes to it, and kubelet's own hold on it is no bar."""
    image = scratch.add_volume(VOLUME)
    before = digest(image)
    claim = Claim(VOLUME, is_block=True)
    kubelet.stage(claim)
    target = kubelet.publish(claim)
    assert stat.S_ISBLK(target.stat().st_mode)
    assert digest(image) == before
    # kubelet keeps a loop device on it for as long as the pod has it.
    lock = subprocess.run(
        ["losetup", "--find", "--show", target], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        kubelet.publish(claim)
        target.write_bytes(b"a pod's own")
    finally:
        subprocess.run(["losetup", "--detach", lock], check=True)
    kubelet.unpublish(claim)
    kubelet.unstage(claim)
    assert image.read_bytes()[:11] == b"a pod's own"


@pytest.mark.parametrize("fs_type", [pytest.param("ext4", marks=needs_resource), "xfs"])
def test_volume_grows_when_its_device_has(scratch: Scratch, kubelet: Kubelet, fs_type: str) -> None:
    """Asked before the device has grown, the call waits for it, and answers once the filesystem fills it."""
    image = scratch.add_volume(VOLUME, 320 * MIB)
    claim = Claim(VOLUME, fs_type=fs_type)
    kubelet.stage(claim)
    target = kubelet.publish(claim)
    asked = kubelet.begin(kubelet.node.expand, claim, 640 * MIB)
    os.truncate(image, 640 * MIB)
    assert asked.result() == 640 * MIB
    assert shutil.disk_usage(target).total > 500 * MIB
    assert kubelet.expand(claim, 640 * MIB) == 640 * MIB


@pytest.mark.thorough
@pytest.mark.timeout(240)
def test_device_that_does_not_grow_is_asked_for_again(scratch: Scratch, kubelet: Kubelet) -> None:
    """The answer is none that ends kubelet's asking."""
    scratch.add_volume(VOLUME, 128 * MIB)
    claim = Claim(VOLUME)
    kubelet.stage(claim)
    assert not refuse(kubelet.expand, claim, 256 * MIB).is_final


def test_use_is_told(scratch: Scratch, kubelet: Kubelet) -> None:
    """It is bytes and inodes as statvfs has them, and of a raw volume its size."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    kubelet.stage(claim)
    target = kubelet.publish(claim)
    (target / "file").write_bytes(bytes(MIB))
    os.sync()
    usage, now = kubelet.measure(claim), os.statvfs(target)
    assert usage["BYTES"].total == now.f_blocks * now.f_frsize
    assert usage["INODES"].total == now.f_files
    assert 0 < usage["BYTES"].available < usage["BYTES"].total
    target.with_name("nothing").mkdir()
    assert refuse(kubelet.measure, claim, "no such pod").status is Status.NOT_FOUND


def test_existing_filesystem_is_staged_as_it_is(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """A volume with data is never formatted, whatever the StorageClass would have made of it."""

    def fill(image: Path) -> None:
        os.truncate(image, 128 * MIB)
        make_ext4_with_file(image)

    scratch.put_volume(VOLUME, fill)
    claim = Claim(VOLUME, attributes={"blocksize": "1024", "ext4bigalloc": "true"})
    kubelet.stage(claim)
    assert (kubelet.publish(claim) / "weights").read_bytes() == WEIGHTS
    assert agent.read_events("volume.formatted") == []


def test_options_of_the_mount_and_of_the_view(scratch: Scratch, kubelet: Kubelet) -> None:
    """What a PersistentVolume says of its mount is in force where pods see it."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME, mount_options=("noatime", "nodev", "commit=30"))
    staging = find_mount(kubelet.stage(claim))
    target = find_mount(kubelet.publish(claim))
    assert "commit=30" in staging.super_options
    assert {"noatime", "nodev"} <= target.options
