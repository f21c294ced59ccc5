"""A volume that somebody has mounted elsewhere too, whole or in part, is not unmounted at its path."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.corpus.tools import run
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef0"
MATCH = {"match": {"volume_id": VOLUME}}
RAW = {"name": "raw", **MATCH, "block": {}}


def make_entry(path: Path, *options: str) -> dict[str, Any]:
    return {
        "name": "ckpt",
        **MATCH,
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": str(path), "options": list(options)},
    }


def set_entry(scratch: Scratch, agent: AgentProcess, entry: dict[str, Any]) -> None:
    scratch.write_policy(entry, resync="1s")
    agent.reload()


@pytest.fixture
def path(scratch: Scratch, agent: AgentProcess) -> Path:
    """Have a volume mounted, with a directory on it."""
    path = scratch.data / "ckpt"
    scratch.write_policy(make_entry(path), resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    (path / "sub").mkdir()
    return path


@pytest.fixture(params=["", "sub"], ids=["whole", "part"])
def bound(path: Path, scratch: Scratch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Have somebody mount it, or its directory, elsewhere."""
    bound = scratch.data / "bound"
    bound.mkdir()
    run("mount", "--bind", str(path / request.param), str(bound))
    yield bound
    if os.path.ismount(bound):
        run("umount", str(bound))


def test_filesystem_that_is_to_be_writable(
    scratch: Scratch, agent: AgentProcess, path: Path, bound: Path
) -> None:
    """It stays mounted read-only, and is checked once it is mounted nowhere else."""
    set_entry(scratch, agent, make_entry(path, "ro"))
    wait_until(lambda: os.statvfs(path).f_flag & os.ST_RDONLY, "it is read-only")
    agent.wait_condition(VOLUME, "Ready")
    set_entry(scratch, agent, make_entry(path))
    status = agent.wait_condition(VOLUME, "Degraded", "ReadOnly")
    assert str(bound) in status["message"]
    assert os.path.ismount(path)
    run("umount", str(bound))
    agent.wait_condition(VOLUME, "Ready")
    (path / "file").write_text("writable")


def test_path_that_lies_in_the_old_one(
    scratch: Scratch, agent: AgentProcess, path: Path, bound: Path
) -> None:
    """It stays at the old path, and moves once it is mounted nowhere else."""
    set_entry(scratch, agent, make_entry(path / "in"))
    status = agent.wait_condition(VOLUME, "Degraded", "PathInUse")
    assert str(bound) in status["message"]
    assert os.path.ismount(path)
    run("umount", str(bound))
    agent.wait_condition(VOLUME, "Ready")
    assert os.path.ismount(path / "in")


def test_volume_that_is_to_be_raw(scratch: Scratch, agent: AgentProcess, path: Path, bound: Path) -> None:
    """It stays mounted, and is handed out once it is mounted nowhere else."""
    set_entry(scratch, agent, RAW)
    status = agent.wait_condition(VOLUME, "Refused", "DeviceBusy")
    assert str(bound) in status["message"]
    assert os.path.ismount(path)
    run("umount", str(bound))
    agent.wait_condition(VOLUME, "Ready")
    assert not os.path.ismount(path)


# -- What goes with it keeps nothing -------------------------------------------------------------------------


@pytest.fixture(params=["shared", "slave"])
def exported(scratch: Scratch, request: pytest.FixtureRequest) -> Path:
    """Have the directory that volumes are mounted in bound elsewhere, and what is mounted there with it."""
    exported = scratch.base / "exported"
    exported.mkdir()
    run("mount", "--bind", str(scratch.data), str(scratch.data))
    run("mount", "--make-shared", str(scratch.data))
    run("mount", "--bind", str(scratch.data), str(exported))
    run("mount", f"--make-{request.param}", str(exported))
    return exported


def test_filesystem_that_is_to_be_writable_where_its_directory_is_bound(
    exported: Path, scratch: Scratch, agent: AgentProcess, path: Path
) -> None:
    """It is checked: nothing of it is mounted meanwhile. It is seen at both places again."""
    set_entry(scratch, agent, make_entry(path, "ro"))
    wait_until(lambda: os.statvfs(path).f_flag & os.ST_RDONLY, "it is read-only")
    set_entry(scratch, agent, make_entry(path))
    wait_until(lambda: not os.statvfs(path).f_flag & os.ST_RDONLY, "it is writable")
    agent.wait_condition(VOLUME, "Ready")
    (path / "file").write_text("writable")
    assert (exported / "ckpt/file").read_text() == "writable"


def test_path_that_lies_in_the_old_one_where_its_directory_is_bound(
    exported: Path, scratch: Scratch, agent: AgentProcess, path: Path
) -> None:
    """It moves, with what is seen of it at the other place."""
    assert os.path.ismount(exported / "ckpt")
    set_entry(scratch, agent, make_entry(path / "in"))
    wait_until(lambda: os.path.ismount(path / "in"), "it is at its new path")
    agent.wait_condition(VOLUME, "Ready")
    assert not os.path.ismount(exported / "ckpt")


def test_volume_that_is_to_be_raw_where_its_directory_is_bound(
    exported: Path, scratch: Scratch, agent: AgentProcess, path: Path
) -> None:
    """It is handed out, and mounted nowhere."""
    set_entry(scratch, agent, RAW)
    wait_until(lambda: not os.path.ismount(path), "it is unmounted")
    agent.wait_condition(VOLUME, "Ready")
    assert not os.path.ismount(exported / "ckpt")


def test_who_uses_it_at_the_other_place_is_named(
    exported: Path, scratch: Scratch, agent: AgentProcess, path: Path
) -> None:
    """The kernel would not unmount it here either."""
    with subprocess.Popen(["sleep", "600"], cwd=exported / "ckpt") as sleeper:
        try:
            set_entry(scratch, agent, RAW)
            status = agent.wait_condition(VOLUME, "Refused", "DeviceBusy")
            assert f"sleep ({sleeper.pid})" in status["message"]
            assert os.path.ismount(path)
        finally:
            sleeper.kill()
    agent.wait_condition(VOLUME, "Ready")


def test_what_is_mounted_within_at_the_other_place_keeps_it(
    exported: Path, scratch: Scratch, agent: AgentProcess, path: Path
) -> None:
    """An unmount here would leave that there."""
    within = exported / "ckpt/sub"
    run("mount", "--make-private", str(exported / "ckpt"))
    run("mount", "-t", "tmpfs", "within", str(within))
    set_entry(scratch, agent, RAW)
    status = agent.wait_condition(VOLUME, "Refused", "DeviceBusy")
    assert f"{exported}/ckpt" in status["message"]
    assert os.path.ismount(path)
    run("umount", str(within))
    agent.wait_condition(VOLUME, "Ready")
