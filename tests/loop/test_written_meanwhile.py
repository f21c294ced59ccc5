"""Someone else writes to a volume while it is checked, or before it is mounted: it is not mounted then."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.model import Reason
from tests.corpus.tools import run
from tests.loop.devices import write_device
from tests.loop.moments import Outcome, Stage, WatchedWorkers, staged

pytestmark = pytest.mark.anyio

LUKS = b"LUKS\xba\xbe\x00\x01" + b"aes\0".ljust(32, b"\0") + b"xts-plain64\0".ljust(32, b"\0")
"""In the boot block, which ext4 leaves alone: two signatures on one device from then on."""


def sign(stage: Stage) -> None:
    """Put a second signature on the device; the filesystem stays whole."""
    write_device(stage.device, 0, LUKS.ljust(512, b"\0"))


def remake(stage: Stage) -> None:
    """Make another filesystem of the same type on the device."""
    run("mkfs.ext4", "-q", "-F", stage.device)


def scribble(stage: Stage) -> None:
    """Write to the middle of the device, where nothing tells what it is."""
    write_device(stage.device, 40 << 20, os.urandom(4096))


def grow(stage: Stage) -> None:
    os.truncate(stage.image, 2 * stage.image.stat().st_size)
    run("losetup", "--set-capacity", stage.device)


async def list_calls(stage: Stage) -> list[str]:
    """Return the calls of a pass that nobody disturbs, but for the notes that are read once."""
    calls: list[str] = []
    for _ in range(2):
        outcome = await stage.run_pass()
        assert outcome.is_done, outcome
        calls = outcome.calls
        run("umount", stage.data / "ckpt")
        await stage.node.forget_mount(stage.wanted.volume_id)
    return calls[: calls.index("mount_filesystem")]


async def run_pass(stage: Stage, number: int, act: Callable[[Stage], None]) -> Outcome:
    """Run a pass in which someone acts right before a call."""
    stage.workers.before[number] = lambda: act(stage)
    outcome = await stage.run_pass()
    stage.workers.before.clear()
    return outcome


def find_last(calls: list[str], name: str) -> int:
    return max(number for number, call in enumerate(calls) if call == name)


def make(stage: Stage) -> None:
    run("mkfs.ext4", "-q", "-F", stage.device)


@pytest.mark.parametrize(
    ("instant", "act", "reason"),
    [
        # The state is read right after the check.
        ("read_state", sign, Reason.NOT_BLANK),
        ("look_at", sign, Reason.NOT_BLANK),
        ("verify_unchanged", sign, Reason.NOT_BLANK),
        ("verify_unchanged", remake, Reason.NOT_BLANK),
        ("look_at", scribble, Reason.DEVICE_BUSY),
        ("verify_unchanged", scribble, Reason.DEVICE_BUSY),
        ("verify_unchanged", grow, Reason.PROBE_FAILED),
    ],
)
async def test_volume_that_was_written_to_meanwhile_is_not_mounted(
    tmp_path: Path, instant: str, act: Callable[[Stage], None], reason: Reason
) -> None:
    """What is mounted is what was checked, recognised again as it is right before."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        calls = await list_calls(stage)
        outcome = await run_pass(stage, find_last(calls, instant), act)
        assert (outcome.is_done, outcome.reason) == (False, str(reason))
        assert not (stage.data / "ckpt").is_mount()


async def test_volume_that_is_another_s_before_its_check_is_not_checked(tmp_path: Path) -> None:
    """A check repairs, so what it is made on is recognised again before it."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        calls = await list_calls(stage)
        outcome = await run_pass(stage, calls.index("verify_unchanged"), sign)
        assert (outcome.steps, outcome.reason) == (["check"], str(Reason.NOT_BLANK))
        assert "read_state" not in outcome.calls


async def test_volume_that_was_written_to_is_checked_and_mounted_then(tmp_path: Path) -> None:
    """Once they are done with it, it is what it is: the next pass checks and mounts that."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        calls = await list_calls(stage)
        outcome = await run_pass(stage, find_last(calls, "verify_unchanged"), scribble)
        assert not outcome.is_done
        outcome = await stage.run_pass()
        assert (outcome.is_done, outcome.steps) == (True, ["check", "mount", *outcome.steps[2:]])
