"""Health on stand-in volumes: what a real filesystem can be brought to, and what the agent says of it."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.agent_process import MIB, AgentProcess, Scratch
from tests.loop.test_daemon import entry, find_mount
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef0"
HEALTH = {"interval": "1s"}


def start(scratch: Scratch, agent: AgentProcess, fs_type: str, **health: Any) -> Path:
    """Start an agent over one formatted and mounted volume; return where it is mounted."""
    scratch.write_policy(entry(scratch, fs_type), health={**HEALTH, **health})
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    return scratch.data / "ckpt"


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_use_is_sampled(scratch: Scratch, agent: AgentProcess, fs_type: str) -> None:
    """A mounted volume's size and use are what statvfs says, and follow what is written to it."""
    path = start(scratch, agent, fs_type)
    filesystem: dict[str, Any] = wait_until(lambda: agent.status(VOLUME).get("filesystem"), "it was sampled")
    usage = os.statvfs(path)
    assert filesystem["size_bytes"] == usage.f_blocks * usage.f_frsize
    (path / "big").write_bytes(bytes(64 * MIB))
    subprocess.run(["sync", "--file-system", str(path)], check=True)
    wait_until(
        lambda: agent.status(VOLUME)["filesystem"]["avail_bytes"] < filesystem["avail_bytes"] - 32 * MIB,
        "the new file showed in its use",
    )


def test_xfs_that_shut_itself_down(scratch: Scratch, agent: AgentProcess) -> None:
    """An XFS that is shut down is Failed, though statvfs calls it well; unmounted, it comes back."""
    path = start(scratch, agent, "xfs")
    subprocess.run(["xfs_io", "-x", "-c", "shutdown", str(path)], check=True)
    status = agent.wait_condition(VOLUME, "Failed", "ShutDown")
    assert str(path) in status["hint"]
    subprocess.run(["umount", str(path)], check=True)
    agent.wait_condition(VOLUME, "Ready")
    assert find_mount(path) is not None


def test_ext4_after_an_error(scratch: Scratch, agent: AgentProcess) -> None:
    """An ext4 that met an error is not Ready, and its errors are counted."""
    path = start(scratch, agent, "ext4", write_probe=True)
    trigger = Path("/sys/fs/ext4") / Path(find_mount(path).source).name / "trigger_fs_error"
    trigger.write_text("for the test")
    wait_until(lambda: agent.status(VOLUME)["condition"] != "Ready", "the error was noticed")
    status = agent.status(VOLUME)
    assert status["reason"] in {"ReadOnly", "FilesystemErrors"}, status
    reasons = {verdict["reason"] for verdict in status["verdicts"]}
    assert "FilesystemErrors" in reasons


def test_made_read_only_behind_the_agents_back(scratch: Scratch, agent: AgentProcess) -> None:
    """A filesystem that somebody made read-only is not left so, or is not called Ready."""
    path = start(scratch, agent, "ext4")
    subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
    wait_until(
        lambda: agent.status(VOLUME)["condition"] != "Ready" or not find_mount(path).is_read_only,
        "it was noticed",
    )


def test_device_that_is_smaller_than_its_filesystem(scratch: Scratch, agent: AgentProcess) -> None:
    """A filesystem whose device lost its end is Failed, with how much of it is not there."""
    start(scratch, agent, "ext4")
    os.truncate(scratch.image(VOLUME), 256 * MIB)

    def find_verdict() -> dict[str, Any] | None:
        # Not the worst one, where the kernel has by then tried to write to the journal, which is gone.
        verdicts = agent.status(VOLUME).get("verdicts", [])
        return next((one for one in verdicts if one["reason"] == "FilesystemErrors"), None)

    verdict = wait_until(find_verdict, "it was told")
    assert verdict["condition"] == "Failed"
    assert "spans 512 MiB and its device has 256 MiB" in verdict["message"]
    assert agent.status(VOLUME)["condition"] == "Failed"


def test_nearly_full(scratch: Scratch, agent: AgentProcess) -> None:
    """A filling filesystem is Degraded as NearlyFull, with how much is left."""
    path = start(scratch, agent, "ext4")
    usage = os.statvfs(path)
    leave = usage.f_blocks * usage.f_frsize // 50
    with (path / "big").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, usage.f_bavail * usage.f_frsize - leave)
    status = agent.wait_condition(VOLUME, "Degraded", "NearlyFull")
    assert "left" in status["message"]
    assert agent.read_events("volume.degraded")[-1]["reason"] == "NearlyFull"


def test_no_more_files(scratch: Scratch, agent: AgentProcess) -> None:
    """A filesystem with space and hardly a file left is Degraded as FilesFull."""
    fields = {"filesystem": {"type": "ext4", "format": "if-blank", "mkfs_options": ["-N", "128"]}}
    scratch.write_policy({**entry(scratch), **fields}, health=HEALTH)
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    path = scratch.data / "ckpt"
    for number in range(os.statvfs(path).f_ffree - 2):
        (path / str(number)).touch()
    agent.wait_condition(VOLUME, "Degraded", "FilesFull")


def test_device_node_that_is_away(scratch: Scratch, agent: AgentProcess) -> None:
    """A mounted volume whose device node is gone is not taken for detached, and keeps its links."""
    path = start(scratch, agent, "ext4")
    node = Path(find_mount(path).source)
    link, number = scratch.paths.dev_ebs / "by-id" / VOLUME, node.stat().st_rdev
    node.unlink()
    try:
        status = agent.wait_condition(VOLUME, "Degraded", "Unreachable")
        assert (status["path"], status["device"]) == (str(path), str(node))
        assert link.is_symlink()
        (path / "file").write_text("still in use")
    finally:
        os.mknod(node, stat.S_IFBLK | 0o660, number)
    agent.wait_condition(VOLUME, "Ready")
    assert not agent.read_events("volume.detached")


@pytest.mark.thorough
def test_look_that_gets_no_processor(scratch: Scratch, agent: AgentProcess) -> None:
    """A volume is not called stalled because the agent's own worker was given no time; it stays Ready."""
    start(scratch, agent, "ext4", interval="1h")
    (zygote,) = psutil.Process(agent.pid).children()
    wait_until(lambda: len(zygote.children()) == 1, "those that only the start wanted have ended")
    (worker,) = zygote.children()
    worker.suspend()
    agent.client.reconcile()
    wait_until(lambda: not worker.is_running(), "its call was given up")
    agent.wait_condition(VOLUME, "Ready")
    assert not agent.read_events("volume.failed")


def test_events_outlive_the_agent(scratch: Scratch, agent: AgentProcess) -> None:
    """What happened before a restart is told after it, numbers go on counting, and so do strips."""
    scratch.write_policy(entry(scratch))
    agent.start()
    assert agent.stop() == 0
    agent.start()
    written = json.loads((scratch.paths.state / "past.json").read_text())
    assert agent.stop() == 0
    gone_on = json.loads((scratch.paths.state / "past.json").read_text())
    ((key, before),), ((same, after),) = written["volumes"].items(), gone_on["volumes"].items()
    assert key == same
    assert [after[0], after[-1][1]] == [before[0], "Pending"]
    agent.start()
    events = list(agent.client.events(follow=False))
    names = [event["event"] for event in events]
    assert names.count("agent.started") == 3
    assert names.count("agent.stopped") == 2
    numbers = [event["number"] for event in events]
    assert numbers == sorted(set(numbers))


@contextmanager
def on_terminal(scratch: Scratch, *arguments: str) -> Iterator[Callable[[], str]]:
    """Run a command of the agent on a terminal; give what it has shown so far, and end it as Ctrl-C does."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    shown = bytearray()

    def read_shown() -> str:
        with suppress(BlockingIOError):
            shown.extend(os.read(ours, 1 << 16))
        return shown.decode(errors="replace")

    argv = [sys.executable, "-m", "agent", "--root", str(scratch.root), *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            yield read_shown
            process.send_signal(signal.SIGINT)
            wait_until(lambda: process.poll() is not None, "it ended")
            assert process.returncode == 0
        finally:
            process.kill()
            os.close(ours)


def test_live_views_follow_what_happens(scratch: Scratch, agent: AgentProcess) -> None:
    """``status --watch`` and ``events --follow`` show on a terminal what happens while they run."""
    scratch.write_policy(entry(scratch), health=HEALTH)
    agent.start()
    with (
        on_terminal(scratch, "status", "--watch") as watched,
        on_terminal(scratch, "events", "--follow") as followed,
    ):
        wait_until(lambda: "Pending" in watched(), "the status showed")
        wait_until(lambda: "agent.started" in followed(), "what was there before showed")
        scratch.add_volume(VOLUME)
        wait_until(lambda: "Ready" in watched(), "the volume showed")
        wait_until(lambda: "volume.ready" in followed(), "the event showed")


def test_hook_is_told_of_a_volume(scratch: Scratch, agent: AgentProcess) -> None:
    """A program in hooks.d runs when a volume is ready, and finds its facts in its environment."""
    hooks, told = scratch.paths.hooks, scratch.base / "told"
    hooks.mkdir(parents=True, mode=0o755)
    hook = hooks / "10-tell"
    hook.write_text(f'#!/bin/sh\necho "$1 $EBS_AGENT_NAME $EBS_AGENT_PATH" >> {told}\n')
    hook.chmod(0o755)
    path = start(scratch, agent, "ext4")
    wait_until(told.exists, "the hook ran")
    assert wait_until(told.read_text, "the hook wrote") == f"ready ckpt {path}\n"
