"""What a killed run of these tests leaves is taken away by the next, and a live one's is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.node.kernel.mountinfo import read_mounts
from agent.node.standins import loop_device
from tests.agent_process import MIB, Scratch
from tests.leftovers import is_over, sweep


def find_ended_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    return child.pid


@pytest.mark.parametrize("is_alive", [True, False])
def test_only_what_dead_runs_left_is_taken_away(tmp_path: Path, *, is_alive: bool) -> None:
    """Mounts and loop devices, those on mounts too."""
    run = tmp_path / "pytest-7"
    scratch = Scratch(run / "popen-gw0/s0").prepare()
    (run / ".lock").write_text(str(os.getpid() if is_alive else find_ended_pid()))
    image = scratch.add_volume("vol-0123456789abcdef0", 4 * MIB)
    loop_device.attach_file(image)
    subprocess.run(["mount", "-t", "tmpfs", "none", scratch.data], check=True)
    inner = scratch.data / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", inner], check=True)
    try:
        sweep(tmp_path)
        mounts = [mount.path for mount in read_mounts() if mount.path.startswith(f"{run}/")]
        loops = [loop for loop in loop_device.list_loops() if loop.backing_file == str(image)]
        assert (len(mounts), len(loops)) == ((2, 1) if is_alive else (0, 0))
    finally:
        scratch.clean()


def test_run_is_over_once_its_process_is(tmp_path: Path) -> None:
    """One that has ended by itself has no lock; a live one has, from its first byte on."""
    lock = tmp_path / ".lock"
    assert is_over(tmp_path)
    for content, answer in (("", False), (str(os.getpid()), False), (str(find_ended_pid()), True)):
        lock.write_text(content)
        assert is_over(tmp_path) is answer
