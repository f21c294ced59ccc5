"""Someone else writes to a volume while it is checked, or before it is mounted: it is not mounted then."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core.model import FsType, Reason
from agent.core.replace import replace
from agent.node.isolate import programs
from agent.node.isolate.programs import Completed
from agent.node.volume_session.recheck import Unchanged
from tests.corpus.tools import run
from tests.loop.devices import write_device
from tests.loop.moments import Outcome, Stage, WatchedWorkers, staged

pytestmark = pytest.mark.anyio

BLKBSZSET = 0x40081271
"""linux/fs.h; for as long as the device is held."""

LUKS = b"LUKS\xba\xbe\x00\x01" + b"aes\0".ljust(32, b"\0") + b"xts-plain64\0".ljust(32, b"\0")
"""In the boot block, which ext4 leaves alone: two signatures on one device from then on."""


def sign(stage: Stage) -> None:
    """Put a second signature on the device; the filesystem stays whole."""
    write_device(stage.device, 0, LUKS.ljust(512, b"\0"))


def sign_in_cache(stage: Stage) -> None:
    """Put it where only the kernel has it so far: nothing is written to the disk."""
    fd = os.open(stage.device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(fd, LUKS.ljust(512, b"\0"), 0)
    finally:
        os.close(fd)


def set_counting(stage: Stage, word: str) -> None:
    """Have the kernel count what is written to the device, or not."""
    Path(f"/sys/class/block/{Path(stage.device).name}/queue/iostats").write_text(word, encoding="ascii")


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
    return calls[: calls.index("verify_and_mount") + 1]


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
        ("read_checked_state", sign, Reason.NOT_BLANK),
        ("read_checked_state", sign_in_cache, Reason.NOT_BLANK),
        ("look_at", sign, Reason.NOT_BLANK),
        ("verify_and_mount", sign, Reason.NOT_BLANK),
        ("verify_and_mount", sign_in_cache, Reason.NOT_BLANK),
        ("verify_and_mount", remake, Reason.NOT_BLANK),
        ("look_at", scribble, Reason.DEVICE_BUSY),
        ("verify_and_mount", scribble, Reason.DEVICE_BUSY),
        ("verify_and_mount", grow, Reason.PROBE_FAILED),
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


@pytest.mark.parametrize("act", [sign, sign_in_cache])
async def test_volume_that_is_another_s_before_its_check_is_not_checked(
    tmp_path: Path, act: Callable[[Stage], None]
) -> None:
    """A check repairs, so what it is made on is what was looked at, or is recognised again before it."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        calls = await list_calls(stage)
        outcome = await run_pass(stage, calls.index("verify_unchanged"), act)
        assert (outcome.steps, outcome.reason) == (["check"], str(Reason.NOT_BLANK))
        assert "read_checked_state" not in outcome.calls


async def test_volume_that_was_written_to_is_checked_and_mounted_then(tmp_path: Path) -> None:
    """Once they are done with it, it is what it is: the next pass checks and mounts that."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        calls = await list_calls(stage)
        outcome = await run_pass(stage, find_last(calls, "verify_and_mount"), scribble)
        assert not outcome.is_done
        outcome = await stage.run_pass()
        assert (outcome.is_done, outcome.steps) == (True, ["check", "mount", *outcome.steps[2:]])


def find_expected(stage: Stage) -> Unchanged:
    """Return what was to be found by the last call that mounted."""
    _, expected, _ = stage.workers.arguments["verify_and_mount"]
    assert isinstance(expected, Unchanged)
    return expected


async def test_what_was_recognised_holds_after_a_check_that_wrote_alone(tmp_path: Path) -> None:
    """What e2fsck writes to a clean filesystem is known to be all that was written: nobody else has."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        outcome = await stage.run_pass()
        assert outcome.is_done, outcome
        expected = find_expected(stage)
        assert expected.recognized is not None
        assert expected.recognized == expected.checked


@pytest.mark.parametrize(
    ("act", "counted_pages", "is_mounted"),
    [
        (scribble, 0, True),
        (sign, 0, False),
        (sign_in_cache, 0, False),
        (sign_in_cache, 1, False),
        (scribble, 1, True),
        (None, -1, True),
        (None, None, True),
    ],
    ids=[
        "data",
        "signature",
        "signature in the cache",
        "signature, counted with the check's",
        "data, counted with the check's",
        "less than counted",
        "not counted",
    ],
)
async def test_it_is_recognised_afresh_where_others_wrote_during_the_check(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Stage], None] | None,
    counted_pages: int | None,
    is_mounted: bool,  # noqa: FBT001
) -> None:
    """What is beyond what e2fsck wrote is someone else's, and so may be what comes to the same by chance."""
    check = programs.run
    counts: list[int | None] = []

    async def run_and_act(*args: Any, **settings: Any) -> Completed:
        completed = await check(*args, **settings)
        counts.append(completed.written_bytes)
        if act is not None:
            act(stage)
        if counted_pages is None or completed.written_bytes is None:
            return replace(completed, written_bytes=None)
        return replace(completed, written_bytes=completed.written_bytes + 4096 * counted_pages)

    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        monkeypatch.setattr("agent.node.volume_session.content_actions.run", run_and_act)
        outcome = await stage.run_pass()
        assert counts == [8192]
        expected = find_expected(stage)
        assert expected.recognized != expected.checked
        assert outcome.is_done is is_mounted


def count_written(stage: Stage) -> int:
    """Return how many bytes have been written to the device (Documentation/block/stat.rst)."""
    return 512 * int(Path(f"/sys/class/block/{Path(stage.device).name}/stat").read_text("ascii").split()[6])


async def test_it_is_recognised_afresh_where_less_than_a_page_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With smaller blocks what is made dirty is more than what is written, and here others' is the rest."""
    check = programs.run

    async def run_and_fill_up(*args: Any, **settings: Any) -> Completed:
        before_bytes = count_written(stage)
        completed = await check(*args, **settings)
        os.fsync(held)
        assert completed.written_bytes is not None
        rest_bytes = completed.written_bytes - (count_written(stage) - before_bytes)
        assert rest_bytes > 0
        write_device(stage.device, 40 << 20, os.urandom(rest_bytes))
        assert count_written(stage) - before_bytes == completed.written_bytes
        return completed

    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        held = os.open(stage.device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(held, BLKBSZSET, struct.pack("Q", 1024))
            monkeypatch.setattr("agent.node.volume_session.content_actions.run", run_and_fill_up)
            outcome = await stage.run_pass()
        finally:
            os.close(held)
        assert outcome.is_done
        expected = find_expected(stage)
        assert expected.recognized != expected.checked


@pytest.mark.parametrize(("act", "is_found"), [(sign_in_cache, True), (scribble, False)])
async def test_page_of_signatures_is_compared_where_the_counts_are_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Stage], None],
    is_found: bool,  # noqa: FBT001
) -> None:
    """A page that others wrote with the check is counted once; in the first one a signature is seen."""
    check = programs.run

    async def run_and_act(*args: Any, **settings: Any) -> Completed:
        completed = await check(*args, **settings)
        act(stage)
        assert completed.written_bytes == 0
        return replace(completed, written_bytes=4096)

    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers, FsType.BTRFS) as stage:
        run("mkfs.btrfs", "-q", "-f", stage.device)
        monkeypatch.setattr("agent.node.volume_session.content_actions.run", run_and_act)
        outcome = await stage.run_pass()
        expected = find_expected(stage)
        assert (expected.recognized != expected.checked) is is_found
        assert outcome.is_done is not is_found


@pytest.mark.parametrize("act", [sign, sign_in_cache, scribble])
async def test_check_that_writes_nothing_does_not_make_up_for_others(
    tmp_path: Path, act: Callable[[Stage], None]
) -> None:
    """Where not even the check has written, what was looked at first holds until somebody does."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers, FsType.BTRFS) as stage:
        run("mkfs.btrfs", "-q", "-f", stage.device)
        calls = await list_calls(stage)
        outcome = await run_pass(stage, find_last(calls, "verify_and_mount"), act)
        reason = Reason.DEVICE_BUSY if act is scribble else Reason.NOT_BLANK
        assert (outcome.is_done, outcome.reason) == (False, str(reason))
        assert not (stage.data / "ckpt").is_mount()


async def test_volume_whose_writes_are_not_counted_is_recognised_afresh(tmp_path: Path) -> None:
    """Without the kernel's count nothing tells that nobody wrote, so it is looked for each time."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        make(stage)
        set_counting(stage, "0")
        try:
            calls = await list_calls(stage)
            for name in ("verify_unchanged", "verify_and_mount"):
                outcome = await run_pass(stage, find_last(calls, name), sign)
                assert outcome.reason == str(Reason.NOT_BLANK)
                write_device(stage.device, 0, bytes(512))
        finally:
            set_counting(stage, "1")
