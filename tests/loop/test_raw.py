"""Raw volumes: handed out only where nobody has them mounted, and taken back only where nobody uses them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.agent_process import AgentProcess, Scratch
from tests.corpus.tools import run
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef0"
MATCH = {"match": {"volume_id": VOLUME}}
RAW = {"name": "raw", **MATCH, "block": {"mode": "0660"}}


def make_entry(scratch: Scratch) -> dict[str, Any]:
    mount = {"path": str(scratch.data / "ckpt")}
    return {
        "name": "ckpt",
        **MATCH,
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": mount,
        "required": True,
    }


def switch(scratch: Scratch, agent: AgentProcess, entry: dict[str, Any]) -> None:
    scratch.write_policy(entry, resync="1s")
    agent.reload()


def is_mounted(path: Path) -> bool:
    return os.path.ismount(path)


@contextmanager
def namespace_of_its_own() -> Iterator[int]:
    """Have a process keep all that is mounted now, whatever is unmounted here; give its number."""
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_mounted_volume_that_becomes_raw(scratch: Scratch, agent: AgentProcess) -> None:
    """Refused while it is used where it was mounted, here or in a container; then unmounted, and raw."""
    scratch.write_policy(make_entry(scratch), resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    device = agent.wait_condition(VOLUME, "Ready")["device"]
    before = Path(device).stat()
    link = scratch.paths.dev_ebs / "raw"
    path = scratch.data / "ckpt"
    with namespace_of_its_own() as keeper:
        switch(scratch, agent, RAW)
        status = agent.wait_condition(VOLUME, "Refused", "DeviceBusy")
        assert f"sleep ({keeper})" in status["message"]
        assert not link.is_symlink()
        assert Path(device).stat().st_mode == before.st_mode
        run("umount", path)
        wait_until(lambda: "namespace" in agent.status(VOLUME)["message"], "the other mount is told")
        assert agent.status(VOLUME)["condition"] == "Refused"
        run("mount", device, path)
    agent.wait_condition(VOLUME, "Ready")
    assert not is_mounted(path)
    assert link.readlink() == Path(device)


def test_raw_volume_mounted_by_hand_is_not_exposed(scratch: Scratch, agent: AgentProcess) -> None:
    """Its link by name goes for as long as its own user has it mounted."""
    scratch.write_policy(RAW, resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    device = agent.wait_condition(VOLUME, "Ready")["device"]
    link = scratch.paths.dev_ebs / "raw"
    assert link.is_symlink()
    run("mkfs.ext4", "-q", "-F", device)
    by_hand = scratch.data / "by-hand"
    by_hand.mkdir()
    run("mount", device, by_hand)
    status = agent.wait_condition(VOLUME, "Refused", "DeviceBusy")
    assert str(by_hand) in status["message"]
    wait_until(lambda: not link.is_symlink(), "the link is gone")
    assert is_mounted(by_hand)
    run("umount", by_hand)
    agent.wait_condition(VOLUME, "Ready")
    assert link.is_symlink()


def test_raw_volume_that_becomes_a_filesystem_is_let_go_first(scratch: Scratch, agent: AgentProcess) -> None:
    """Nothing is made or mounted below a process that has the raw device open."""
    scratch.write_policy(RAW, resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    device = agent.wait_condition(VOLUME, "Ready")["device"]
    with open(device, "r+b", buffering=0) as opened:  # noqa: PTH123 -- a device
        user = subprocess.Popen(["sleep", "600"], stdin=opened)
    with user:
        switch(scratch, agent, make_entry(scratch))
        wait_until(lambda: agent.status(VOLUME)["reason"] == "DeviceBusy", "its user is in the way")
        status = agent.status(VOLUME)
        assert f"sleep (pid {user.pid}" in status["message"]
        assert status["condition"] not in {"Ready", "Degraded"}
        assert not is_mounted(scratch.data / "ckpt")
        assert agent.read_events("volume.formatted") == []
        user.kill()
    agent.wait_condition(VOLUME, "Ready")
    assert is_mounted(scratch.data / "ckpt")
