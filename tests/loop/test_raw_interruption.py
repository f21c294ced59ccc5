"""Killed at any boundary while a volume is handed out raw or taken back: who has it open is never missed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from agent.core.model import FsType, Wanted, WantedBlock
from tests.corpus.tools import digest
from tests.loop.moments import VOLUME, Outcome, Stage, WatchedWorkers
from tests.summary import SUMMARY

RAW = Wanted(VOLUME, "raw", block=WantedBlock(mode=0o666))
STEP = 1 if os.environ.get("CI") else 4
"""Every boundary where there is time, else every fourth."""
FORK = multiprocessing.get_context("fork")


async def run_pass(base: Path, *, is_raw: bool, dies_before: int | None = None) -> Outcome:
    """Run one pass, as an agent that has just started; it may die before a call."""
    async with WatchedWorkers() as workers:
        stage = Stage.find(base, workers, FsType.EXT4)
        if is_raw:
            stage.wanted = RAW
        if dies_before is not None:
            workers.before[dies_before] = lambda: os.kill(os.getpid(), signal.SIGKILL)
        return await stage.run_pass()


def live_and_die(base: Path, number: int, *, is_raw: bool) -> None:
    """Run one pass in a process of its own, which is killed before call ``number`` if it gets there."""

    async def main() -> None:
        await run_pass(base, is_raw=is_raw, dies_before=number)

    process = FORK.Process(target=anyio.run, args=(main,))
    process.start()
    process.join(60)
    assert process.exitcode in {0, -signal.SIGKILL}


@contextmanager
def staged(base: Path) -> Iterator[str]:
    """Attach a blank volume; take everything down again."""
    device = Stage.prepare(base, FsType.EXT4)
    mode = stat.S_IMODE(Path(device).stat().st_mode)
    try:
        yield device
    finally:
        Stage(base, WatchedWorkers(), FsType.EXT4, device).clean()
        Path(device).chmod(mode)
        shutil.rmtree(base)


def count_calls(base: Path) -> tuple[int, int]:
    """Return how many calls it takes to hand a volume out, and then to find who has it open."""
    with staged(base) as device:
        handed = anyio.run(lambda: run_pass(base, is_raw=True))
        assert handed.is_done, handed
        with opened(device):
            refused = anyio.run(lambda: run_pass(base, is_raw=False))
        assert refused.reason == "DeviceBusy", refused
    return len(handed.calls), len(refused.calls)


@contextmanager
def opened(device: str) -> Iterator[None]:
    """Have a process keep the device open, unclaimed."""
    with open(device, "r+b", buffering=0) as file:  # noqa: PTH123 -- a device
        user = subprocess.Popen(["sleep", "600"], stdin=file)
    with user:
        try:
            yield
        finally:
            user.kill()


@pytest.mark.timeout(300)
def test_raw_user_is_found_wherever_the_agent_was_killed(tmp_path: Path) -> None:
    """Once it could be opened, who did so stops the format, and its node is as it was; then it is mounted."""
    to_hand_out, to_find = count_calls(tmp_path / "undisturbed")
    trials = [(number, 0) for number in range(0, to_hand_out + 1, STEP)]
    trials += [(to_hand_out, number) for number in range(0, to_find + 1, STEP)]
    for first, second in trials:
        base = tmp_path / f"{first}-{second}"
        with staged(base) as device:
            before = stat.S_IMODE(Path(device).stat().st_mode)
            live_and_die(base, first, is_raw=True)
            link = base / "root/dev/ebs/raw"
            if link.is_symlink() or stat.S_IMODE(Path(device).stat().st_mode) != before:
                blank = digest(base / "devices" / f"{VOLUME}.img")
                with opened(device):
                    live_and_die(base, second, is_raw=False)
                    outcome = anyio.run(lambda: run_pass(base, is_raw=False))  # noqa: B023 -- run at once
                    assert outcome.reason == "DeviceBusy", (first, second, outcome)
                    assert not link.is_symlink()
                    assert stat.S_IMODE(Path(device).stat().st_mode) == before
                    assert digest(base / "devices" / f"{VOLUME}.img") == blank
            outcome = anyio.run(lambda: run_pass(base, is_raw=False))  # noqa: B023
            assert outcome.is_done, (first, second, outcome)
            assert os.path.ismount(base / "data/ckpt")
        SUMMARY["trials of interruption"] += 1
