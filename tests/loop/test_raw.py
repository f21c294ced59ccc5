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
from tests.mount_namespaces import keep_mounts
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


def hand_out(scratch: Scratch, agent: AgentProcess) -> str:
    """Start an agent that hands a volume out raw, and return the volume's device."""
    scratch.write_policy(RAW, resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    device: str = agent.wait_condition(VOLUME, "Ready")["device"]
    return device


def switch(scratch: Scratch, agent: AgentProcess, entry: dict[str, Any]) -> None:
    scratch.write_policy(entry, resync="1s")
    agent.reload()


def is_mounted(path: Path) -> bool:
    return os.path.ismount(path)


@contextmanager
def open_raw(device: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Have a process keep a device open for writing, unclaimed; it ends with the block."""
    with open(device, "r+b", buffering=0) as opened:  # noqa: PTH123 -- a device
        user = subprocess.Popen(["sleep", "600"], stdin=opened)
    with user:
        try:
            yield user
        finally:
            user.kill()


def wait_named(agent: AgentProcess, user: subprocess.Popen[bytes]) -> None:
    """Wait until a process that has the volume open is told to be in the way; then nothing was done to it."""

    def is_named() -> bool:
        status = agent.status(VOLUME)
        return status.get("reason") == "DeviceBusy" and f"sleep (pid {user.pid}" in status["message"]

    wait_until(is_named, "its user is in the way")
    assert agent.status(VOLUME)["condition"] not in {"Ready", "Degraded"}
    assert agent.read_events("volume.formatted") == []


def test_mounted_volume_that_becomes_raw(scratch: Scratch, agent: AgentProcess) -> None:
    """Refused while it is used where it was mounted, here or in a container; then unmounted, and raw."""
    scratch.write_policy(make_entry(scratch), resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    device = agent.wait_condition(VOLUME, "Ready")["device"]
    before = Path(device).stat()
    link = scratch.paths.dev_ebs / "raw"
    path = scratch.data / "ckpt"
    with keep_mounts(scratch.base) as keeper:
        switch(scratch, agent, RAW)
        status = agent.wait_condition(VOLUME, "Refused", "DeviceBusy")
        assert f"({keeper})" in status["message"]
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
    device = hand_out(scratch, agent)
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
    device = hand_out(scratch, agent)
    with open_raw(device) as user:
        switch(scratch, agent, make_entry(scratch))
        wait_named(agent, user)
        assert not is_mounted(scratch.data / "ckpt")
    agent.wait_condition(VOLUME, "Ready")
    assert is_mounted(scratch.data / "ckpt")


def test_raw_user_survives_restart(scratch: Scratch, agent: AgentProcess) -> None:
    """That a volume was handed out raw outlasts the agent: nothing is made below who has it open since."""
    device = hand_out(scratch, agent)
    with open_raw(device) as user:
        switch(scratch, agent, make_entry(scratch))
        for end in (agent.stop, agent.kill):
            wait_named(agent, user)
            end()
            agent.start()
        wait_named(agent, user)
        assert not is_mounted(scratch.data / "ckpt")
    agent.wait_condition(VOLUME, "Ready")
    assert is_mounted(scratch.data / "ckpt")


def test_raw_user_is_found_without_a_note(scratch: Scratch, agent: AgentProcess) -> None:
    """Handed out by an agent that kept no notes, or with a note that is spoilt: it counts all the same."""
    device = hand_out(scratch, agent)
    (note,) = scratch.root.rglob(f"raw/{VOLUME}.json")
    with open_raw(device) as user:
        agent.kill()
        note.unlink()
        scratch.write_policy(make_entry(scratch), resync="1s")
        agent.start()
        wait_named(agent, user)
        agent.kill()
        note.write_text(note.read_text()[:100])
        agent.start()
        wait_named(agent, user)
        assert not is_mounted(scratch.data / "ckpt")
    agent.wait_condition(VOLUME, "Ready")
    assert not note.exists()


def test_node_of_a_raw_volume_goes_back_to_what_it_was(scratch: Scratch, agent: AgentProcess) -> None:
    """Owner and mode are the policy's as long as the entry says so; who has it open has it on."""

    def read_owner(device: str) -> tuple[int, int, int]:
        status = Path(device).stat()
        return status.st_uid, status.st_gid, status.st_mode & 0o7777

    scratch.write_policy(resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    device = agent.wait_device(VOLUME)
    before = read_owner(device)
    given = {**RAW, "block": {"owner": "4711", "group": "4712", "mode": "0666"}}
    for entry in (None, make_entry(scratch)):
        switch(scratch, agent, given)
        agent.wait_condition(VOLUME, "Ready")
        assert read_owner(device) == (4711, 4712, 0o666)
        switch(scratch, agent, {**RAW, "block": {"mode": "0666"}})
        wait_until(lambda: read_owner(device) == (*before[:2], 0o666), "what is not named goes back")
        agent.kill()
        scratch.write_policy(*(() if entry is None else (entry,)), resync="1s")
        with open_raw(device):
            agent.start()
            wait_until(lambda: read_owner(device) == before, "the node is as it was")
    agent.wait_condition(VOLUME, "Ready")
    assert read_owner(device) == before
