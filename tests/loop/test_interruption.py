"""Killed at every boundary and at random instants, torn notes, half-made filesystems: all converge.

CI tries 50 random instants, ``EBS_AGENT_NIGHTLY=1`` 500, and a developer's ``make test``, which is to end in
minutes, 10.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from agent.core.model import FormatRecord, FormatStage, FsType
from agent.node.kernel.mountinfo import read_mounts
from agent.node.standins import loop_device
from tests.corpus.case import MIB
from tests.corpus.filesystems import WEIGHTS, make_ext4_with_file
from tests.corpus.tools import digest, noise, run
from tests.loop.devices import flush, write_device
from tests.loop.moments import VOLUME, Outcome, Stage, WatchedWorkers, staged
from tests.summary import SUMMARY
from tests.tiers import SBIN_PATH

IS_NIGHTLY = os.environ.get("EBS_AGENT_NIGHTLY") == "1"
IS_CI = bool(os.environ.get("CI"))
TRIALS = 500 if IS_NIGHTLY else 50 if IS_CI else 10
UUID = str(uuid.uuid4())
"""Another one in each process: the kernel takes two filesystems with one UUID for the same."""
CONVERGE_S = 60.0
FORK = multiprocessing.get_context("fork")


async def converge(stage: Stage) -> Outcome:
    """Run passes until one is done, as the agent's loop does after its pauses; mkfs may be at work still."""
    with anyio.fail_after(CONVERGE_S):
        while True:
            outcome = await stage.run_pass()
            if outcome.is_done:
                return outcome
            await anyio.sleep(0.1)


def run_until_killed(stage_at: Path, fs_type: FsType, number: int | None) -> None:
    """Run one pass over the volume in a process of its own, which dies before call ``number``."""

    async def main() -> None:
        async with WatchedWorkers() as workers:
            stage = Stage.find(stage_at, workers, fs_type)
            if number is not None:
                workers.before[number] = lambda: os.kill(os.getpid(), signal.SIGKILL)
            await stage.run_pass()

    anyio.run(main)


def count_format_calls(fs_type: FsType, base: Path) -> int:
    """Return how many calls a pass over a blank volume makes."""

    async def main() -> int:
        async with WatchedWorkers() as workers, staged(base, workers, fs_type) as stage:
            outcome = await stage.run_pass()
            assert outcome.is_done, outcome
            return len(outcome.calls)

    return anyio.run(main)


def check_converged(base: Path, fs_type: FsType, kept: bytes | None = None) -> None:
    """Hold that the volume comes to rest as one mounted filesystem, with its file if it had one."""

    async def main() -> None:
        async with WatchedWorkers() as workers:
            stage = Stage.find(base, workers, fs_type)
            try:
                await converge(stage)
                mounts = [mount for mount in read_mounts() if mount.path == str(stage.data / "ckpt")]
                assert [mount.fs_type for mount in mounts] == [fs_type.value]
                record = stage.node.records.formats.read(VOLUME)
                if kept is None:
                    assert record is not None
                    assert record.stage is FormatStage.DONE
                    held = run("blkid", "-p", "-o", "value", "-s", "UUID", stage.device).strip()
                    assert held == record.uuid
                else:
                    assert record is None
                    assert (stage.data / "ckpt" / "weights").read_bytes() == kept
            finally:
                stage.clean()

    anyio.run(main)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fs_type", FsType)
def test_killed_before_every_call_it_converges(tmp_path: Path, fs_type: FsType) -> None:
    """SIGKILL at each boundary of a format and first mount: the next start ends with one filesystem."""
    # The boundaries are the same for every type; ext4 shows them all, the others every third.
    step = 1 if IS_NIGHTLY or (IS_CI and fs_type is FsType.EXT4) else 3
    for number in range(0, count_format_calls(fs_type, tmp_path / "undisturbed"), step):
        base = tmp_path / str(number)
        Stage.prepare(base, fs_type)
        process = FORK.Process(target=run_until_killed, args=(base, fs_type, number))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        check_converged(base, fs_type)
        shutil.rmtree(base)
        SUMMARY["trials of interruption"] += 1


@pytest.mark.timeout(7200 if IS_NIGHTLY else 600)
def test_killed_at_random_instants_it_converges(tmp_path: Path) -> None:
    """SIGKILL at any instant, over blank volumes and some that hold data: one filesystem, nothing lost."""
    dice = random.Random(os.environ.get("CI", time.time()))  # noqa: S311 -- any instants will do
    for trial in range(TRIALS):
        base = tmp_path / str(trial)
        fs_type = dice.choice(tuple(FsType))
        holds_data = trial % 5 == 0
        fs_type = FsType.EXT4 if holds_data else fs_type
        Stage.prepare(base, fs_type, make_ext4_with_file if holds_data else None)
        process = FORK.Process(target=run_until_killed, args=(base, fs_type, None))
        process.start()
        process.join(dice.uniform(0.05, 0.6))
        process.kill()
        process.join(60)
        check_converged(base, fs_type, WEIGHTS if holds_data else None)
        shutil.rmtree(base)
        SUMMARY["trials of interruption"] += 1


# -- Half-made filesystems ---------------------------------------------------------------------------------


def intend(stage: Stage, fs_type: FsType) -> None:
    """Leave the note of an interrupted format."""
    size_bytes = stage.image.stat().st_size
    stage.node.records.formats.write(
        FormatRecord(VOLUME, UUID, fs_type, size_bytes, FormatStage.INTENDED, "2026-01-01T00:00:00+00:00")
    )


MKFS: dict[FsType, list[str]] = {
    FsType.EXT4: [
        *("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", "-U", UUID),
    ],
    FsType.XFS: ["mkfs.xfs", "-q", "-f", "-K", "-m", f"uuid={UUID}"],
    FsType.BTRFS: ["mkfs.btrfs", "-q", "-f", "-K", "-U", UUID],
}


def run_mkfs_to_write(stage: Stage, fs_type: FsType, number: int) -> bool:
    """Run mkfs on the device until its write ``number``, which kills it; return whether it was killed."""
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64"]
    kill = ["-e", f"inject=pwrite64:signal=SIGKILL:when={number}"]
    done = subprocess.run(
        [*strace, *kill, *MKFS[fs_type], stage.device],
        check=False, capture_output=True, env={"PATH": SBIN_PATH}, timeout=60,
    )  # fmt: skip
    flush(stage.device)
    return done.returncode != 0


@pytest.mark.thorough
@pytest.mark.timeout(400)
@pytest.mark.needs("strace")
@pytest.mark.parametrize("fs_type", FsType)
async def test_mkfs_that_died_at_any_write_is_finished(tmp_path: Path, fs_type: FsType) -> None:
    """What mkfs leaves when it dies at a write of its own is known as its own, and the format is finished."""
    number, is_killed = 1, True
    async with WatchedWorkers() as workers:
        while is_killed:
            async with staged(tmp_path / str(number), workers, fs_type) as stage:
                is_killed = run_mkfs_to_write(stage, fs_type, number)
                intend(stage, fs_type)
                outcome = await stage.run_pass()
                assert outcome.is_done, f"{fs_type} killed at write {number}: {outcome}"
            SUMMARY["trials of interruption"] += 1
            number = number + 1 if number < 12 else number * 5 // 4
    assert number > 4


WRITINGS: dict[str, tuple[int, bytes]] = {
    "text at the head": (0, b"application data"),
    "a page where mkfs writes": (4096, noise("page", 4096)),
    "a page where mkfs writes nothing": (40 * MIB, noise("page", 4096)),
    "a sector over the superblock": (1024, noise("sector", 512)),
    "data at the tail": (-8192, noise("tail", 4096)),
}


@pytest.mark.parametrize("fs_type", FsType)
@pytest.mark.parametrize("name", WRITINGS)
@pytest.mark.needs("strace")
async def test_data_written_after_an_interrupted_format_is_kept(
    tmp_path: Path, fs_type: FsType, name: str
) -> None:
    """Someone's data on a half-made volume is refused with the way out, though the agent's note is there."""
    offset, content = WRITINGS[name]
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers, fs_type) as stage:
        run_mkfs_to_write(stage, fs_type, 6)
        intend(stage, fs_type)
        write_device(stage.device, offset, content)
        before = digest(stage.image)
        outcome = await stage.run_pass()
        assert outcome.reason == "NotBlank", outcome
        assert digest(stage.image) == before
    SUMMARY["trials of interruption"] += 1


@pytest.mark.thorough
@pytest.mark.parametrize("fs_type", [FsType.EXT4, FsType.XFS])
async def test_pages_that_a_power_loss_took_are_made_again(tmp_path: Path, fs_type: FsType) -> None:
    """Any part of what mkfs wrote may have reached the disk: the format is finished from there."""
    async with WatchedWorkers() as workers:
        for seed in range(6):
            dice = random.Random(seed)  # noqa: S311 -- any pages will do
            async with staged(tmp_path / str(seed), workers, fs_type) as stage:
                run(*MKFS[fs_type], stage.device)
                flush(stage.device)
                drop_pages(stage.image, dice)
                await remake_device(stage)
                intend(stage, fs_type)
                outcome = await stage.run_pass()
                assert outcome.is_done, f"{fs_type}, seed {seed}: {outcome}"
            SUMMARY["trials of interruption"] += 1


def drop_pages(image: Path, dice: random.Random) -> None:
    """Zero about half of the pages that hold anything, and the superblock: the signature comes last."""
    with image.open("r+b") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            for offset in range(start // 4096 * 4096, end, 4096):
                if offset == 0 or dice.random() < 0.5:
                    os.pwrite(file.fileno(), bytes(4096), offset)
        os.fsync(file.fileno())


async def remake_device(stage: Stage) -> None:
    """Attach the file anew, so that the kernel remembers nothing of what the device held."""
    loop_device.detach(stage.device, str(stage.image))
    stage.device = loop_device.attach_file(stage.image)
    stage.node.place({VOLUME: (stage.device,)})


# -- Notes that are not as they were written -----------------------------------------------------------------


def tear(text: str) -> str:
    return text[: len(text) // 2]


def edit(**fields: object) -> Callable[[str], str]:
    def change(text: str) -> str:
        note = json.loads(text)
        note["record"].update(fields)
        return json.dumps(note)

    return change


SPOILINGS: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "torn": tear,
    "zeros": lambda text: "\0" * len(text),
    "another UUID": edit(uuid="11111111-1111-4111-8111-111111111111"),
    "another stage": edit(stage="done"),
    "another size": edit(size_bytes=1),
    "another machine": lambda text: text.replace('"machine_id": "', '"machine_id": "f'),
    "not text": lambda _: "\xff\xfe\x00",
    "nested": lambda _: "[" * 30000,
}


@pytest.mark.parametrize("name", SPOILINGS)
async def test_spoilt_note_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """A note that is torn, changed or another machine's allows nothing, is named, and is left as it is."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        intend(stage, FsType.EXT4)
        (note,) = (tmp_path / "stage" / "root").rglob(f"formats/{VOLUME}.json")
        note.write_text(SPOILINGS[name](note.read_text()))
        spoilt, before = note.read_bytes(), digest(stage.image)
        outcome = await stage.run_pass()
        assert outcome.reason == "ProbeFailed"
        assert str(note) in outcome.message
        assert (note.read_bytes(), digest(stage.image)) == (spoilt, before)


async def test_lost_notes_lose_no_data(tmp_path: Path) -> None:
    """Without any note the filesystem that the agent made is one it knows, and keeps its files."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        await stage.run_pass()
        (stage.data / "ckpt" / "weights").write_bytes(WEIGHTS)
        run("umount", stage.data / "ckpt")
        shutil.rmtree(stage.node.paths.state)
        outcome = await stage.run_pass()
        assert outcome.is_done
        assert "format" not in outcome.steps
        assert (stage.data / "ckpt" / "weights").read_bytes() == WEIGHTS
