"""A directory of stand-in volumes that is not there, or goes away: a sentence at the start, no end later."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.loop.test_daemon import OTHER, VOLUME, entry
from tests.waiting import wait_until


def leave_away(path: Path) -> None:
    assert not path.exists()


def put_file(path: Path) -> None:
    path.touch()


def put_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("put", [leave_away, put_file, put_dangling_link])
def test_devices_that_are_no_directory_are_wrong_usage(scratch: Scratch, put: Callable[[Path], None]) -> None:
    """The daemon does not start: one sentence names the directory, and the code is that of wrong usage."""
    scratch.write_policy(entry(scratch))
    devices = scratch.base / "elsewhere"
    put(devices)
    argv = [sys.executable, "-m", "agent", "--root", str(scratch.root), "run", "--devices", str(devices)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"The stand-in volumes in {devices} cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_directory_renamed_meanwhile_takes_nothing_away(scratch: Scratch, agent: AgentProcess) -> None:
    """While the directory is away its volumes stay in use; it is back, and another one is found there."""
    scratch.write_policy(entry(scratch), entry(scratch, volume=OTHER, name="other"), resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    away = scratch.base / "away"
    scratch.devices.rename(away)
    wait_until(lambda: agent.read_events("devices.unreadable"), "the agent saw that it is away")
    wait_until(lambda: agent.read_events("devices.unlisted"), "the agent looked for volumes meanwhile")
    wait_until(
        lambda: agent.status(VOLUME).get("reason") == "Unreachable", "the volume was looked at in vain"
    )
    assert (scratch.data / "ckpt").is_mount()
    assert agent.read_events("volume.lost") == agent.read_events("volume.detached") == []
    away.rename(scratch.devices)
    scratch.add_volume(OTHER)
    agent.wait_condition(VOLUME, "Ready")
    agent.wait_condition(OTHER, "Ready")
    assert len(agent.read_events("devices.unreadable")) == 1
