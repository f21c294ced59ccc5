"""Devices that do not answer: what waits for them, and what must not."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agent.node.kernel.mountinfo import read_mounts
from agent.node.standins.files import release_directory
from tests.agent_process import MIB, AgentProcess, Scratch
from tests.corpus.tools import run
from tests.csi.kubelet import Kubelet
from tests.csi.places import Claim
from tests.loop.csi.conftest import DRIVER
from tests.loop.csi.views import find_mount, find_mounts
from tests.loop.test_frozen import frozen
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef0"


@pytest.fixture
def disk(scratch: Scratch) -> Iterator[None]:
    """Have the stand-in volumes on a disk of their own: frozen, it takes no write of any of them."""
    image = scratch.base / "disk"
    with image.open("wb") as file:
        file.truncate(1024 * MIB)
    run("mkfs.ext4", "-q", image)
    run("mount", "-o", "loop", image, scratch.devices)
    shutil.rmtree(scratch.devices / "lost+found")
    yield
    # While its files still have their names, by which the loop devices on them are known.
    subprocess.run(["fsfreeze", "--unfreeze", scratch.devices], check=False, capture_output=True)
    for mount in reversed(read_mounts()):
        if mount.path.startswith(f"{scratch.kubelet}/"):
            run("umount", "--lazy", mount.path)
    release_directory(str(scratch.devices))
    wait_until(lambda: unmount(scratch.devices), "nobody has the disk")


def unmount(path: Path) -> bool:
    return subprocess.run(["umount", path], check=False, capture_output=True).returncode == 0


def attach(scratch: Scratch) -> None:
    """Attach a volume of zeros that lies on the disk."""
    with scratch.image(VOLUME).open("wb") as file:
        file.truncate(128 * MIB)


def find_mkfs(agent: AgentProcess) -> psutil.Process | None:
    """Return the agent's mkfs that is at work."""
    children = psutil.Process(agent.pid).children(recursive=True)
    return next((child for child in children if child.name().startswith("mkfs")), None)


@contextmanager
def stopped_workers(agent: AgentProcess) -> Iterator[None]:
    """Have no worker of the agent do anything, as if the devices of all of them hung."""
    children = psutil.Process(agent.pid).children(recursive=True)
    for child in children:
        child.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for child in children:
            if child.is_running():
                child.send_signal(signal.SIGCONT)


@pytest.mark.usefixtures("disk")
def test_unstaged_while_mkfs_runs(scratch: Scratch, agent: AgentProcess, kubelet: Kubelet) -> None:
    """A volume is not called free while mkfs writes to it; afterwards it is, and its filesystem is whole."""
    attach(scratch)
    claim = Claim(VOLUME)
    with frozen(scratch.devices):
        staged = kubelet.begin(kubelet.node.stage, claim)
        wait_until(lambda: find_mkfs(agent), "mkfs is at work")
        unstaged = kubelet.begin(kubelet.node.unstage, claim)
        assert not unstaged.done() or unstaged.exception() is not None
    staged.exception()
    unstaged.exception()
    kubelet.unstage(claim)
    assert find_mounts(kubelet.places.staging(claim)) == []
    kubelet.stage(claim)
    assert len(agent.read_events("volume.formatted")) == 1


@pytest.mark.usefixtures("disk")
def test_killed_while_mkfs_runs(scratch: Scratch, agent: AgentProcess, kubelet: Kubelet) -> None:
    """The next agent waits for the mkfs that outlived the last one, and ends with one filesystem."""
    attach(scratch)
    claim = Claim(VOLUME)
    with frozen(scratch.devices):
        staged = kubelet.begin(kubelet.node.stage, claim)
        wait_until(lambda: find_mkfs(agent), "mkfs is at work")
        agent.kill()
        assert staged.exception() is not None
        agent.start(wait=False)
    wait_until(lambda: kubelet.history.count(f"registered {DRIVER}") == 2, "it registers again")
    kubelet.stage(claim)
    target = kubelet.publish(claim)
    (target / "file").write_text("written")
    assert find_mount(target).fs_type == "ext4"


@pytest.mark.usefixtures("disk")
def test_hung_volume_holds_up_nobody(scratch: Scratch, agent: AgentProcess, kubelet: Kubelet) -> None:
    """While a mkfs hangs the node answers all the same, and a second call gets the result of the first."""
    attach(scratch)
    with frozen(scratch.devices):
        staged = kubelet.begin(kubelet.node.stage, Claim(VOLUME))
        wait_until(lambda: find_mkfs(agent), "mkfs is at work")
        assert kubelet.begin(kubelet.node.get_info).result().node_id
        again = kubelet.begin(kubelet.node.stage, Claim(VOLUME))
    assert again.result() == staged.result()


def test_use_of_a_volume_that_hangs_is_told_at_once(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet
) -> None:
    """What is known of it is told while nothing can be asked of any device."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    kubelet.stage(claim)
    kubelet.publish(claim)
    before = kubelet.measure(claim)
    wait_until(lambda: agent.status(VOLUME)["health"], "it is sampled for its health")
    with stopped_workers(agent):
        now = kubelet.measure(claim)
    assert now["BYTES"].total == before["BYTES"].total
