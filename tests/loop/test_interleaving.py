"""Someone else acts on a blank volume at every boundary between two steps; nothing of theirs is lost."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.core.model import FsType
from agent.node.standins import loop_device
from tests.corpus.case import MIB
from tests.corpus.tools import digest, noise, run
from tests.loop.devices import flush
from tests.loop.moments import (
    FORMAT,
    OTHER,
    SIZE_BYTES,
    VOLUME,
    Outcome,
    Stage,
    WatchedWorkers,
    staged,
)
from tests.summary import SUMMARY

LOOP_SET_CAPACITY = 0x4C07


@dataclass(frozen=True)
class Actor:
    """What someone else does to the device, and undoes at the end of the test."""

    act: Callable[[Stage, ExitStack], None]
    is_lasting: bool = True
    """It is there still at the next pass, which is to refuse as well."""


def write_data(offset: int, content: bytes, *, is_flushed: bool = True) -> Actor:
    def act(stage: Stage, _: ExitStack) -> None:
        with Path(stage.device).open("r+b", buffering=0) as device:
            device.seek(offset)
            device.write(content)
            if is_flushed:
                os.fsync(device.fileno())

    return Actor(act)


def claim(stage: Stage, ending: ExitStack) -> None:
    """Open the device for oneself alone, as mount, md and every mkfs do."""
    ending.callback(os.close, os.open(stage.device, os.O_RDWR | os.O_EXCL))


def add_table(stage: Stage, _: ExitStack) -> None:
    subprocess.run(
        ["/usr/sbin/sfdisk", "-q", "--no-reread", "--force", stage.device],
        input="label: gpt\nstart=2048\n", text=True, check=True, capture_output=True,
    )  # fmt: skip


def add_partition(stage: Stage, ending: ExitStack) -> None:
    """Give the device a partition in the kernel alone: nothing is written."""
    run("addpart", stage.device, "1", "2048", "2048")
    ending.callback(run, "delpart", stage.device, "1")


def build_on_it(stage: Stage, ending: ExitStack) -> None:
    """Stand another device on this one."""
    upper = run("losetup", "--find", "--show", stage.device).strip()
    ending.callback(run, "losetup", "--detach", upper)


def make_and_mount(stage: Stage, ending: ExitStack) -> None:
    """Make a filesystem on the device, mount it, and put a file on it."""
    run("mkfs.ext4", "-q", "-F", stage.device)
    place = stage.data / "theirs"
    place.mkdir()
    run("mount", stage.device, place)
    ending.callback(run, "umount", place)
    (place / "file").write_text("theirs")
    run("sync", "-f", place / "file")


def make_filesystem(stage: Stage, _: ExitStack) -> None:
    run("mkfs.ext4", "-q", "-F", stage.device)


def lock(stage: Stage, ending: ExitStack) -> None:
    """Take udev's lock; too late where the agent has it."""
    fd = os.open(stage.device, os.O_RDONLY)
    ending.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with Path(stage.device).open("r+b", buffering=0) as device:
            device.write(b"without the lock")


def rename(stage: Stage, _: ExitStack) -> None:
    """Let the device say that it is another volume."""
    stage.image = stage.image.rename(stage.directory / f"{OTHER}.img")


def resize(stage: Stage, _: ExitStack) -> None:
    os.truncate(stage.image, 2 * SIZE_BYTES)
    with Path(stage.device).open("rb") as device:
        fcntl.ioctl(device, LOOP_SET_CAPACITY)


def stop_reading(stage: Stage, _: ExitStack) -> None:
    """Let every read fail: the file behind the device is cut to nothing."""
    os.truncate(stage.image, 0)


ACTORS = {
    "writes at the head": write_data(0, b"application data"),
    "writes in the middle": write_data(SIZE_BYTES // 2, noise("middle", MIB)),
    "writes at the tail, not flushed": write_data(SIZE_BYTES - 4096, b"journal", is_flushed=False),
    "claims it": Actor(claim),
    "writes a partition table": Actor(add_table),
    "adds a partition": Actor(add_partition),
    "builds on it": Actor(build_on_it),
    "makes a filesystem and mounts it": Actor(make_and_mount),
    "makes a filesystem": Actor(make_filesystem),
    "locks it, or writes without": Actor(lock),
    "exchanges its identity": Actor(rename),
    "resizes it": Actor(resize, is_lasting=False),
    "makes reads fail": Actor(stop_reading),
}


@contextmanager
def acting(stage: Stage, actor: Actor, seen: list[str]) -> Iterator[Callable[[], None]]:
    """Give what is to be called at the moment; notes the contents that the actor left."""
    with ExitStack() as ending:

        def act() -> None:
            actor.act(stage, ending)
            flush(stage.device)
            seen.append(digest(stage.image))

        yield act


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ACTORS)
@pytest.mark.needs("addpart", "delpart", "sfdisk")
async def test_nothing_of_others_is_formatted(tmp_path: Path, name: str) -> None:
    """Whatever is done before any call up to mkfs, the pass ends with a reason and changes not a byte."""
    actor = ACTORS[name]
    async with WatchedWorkers() as workers:
        async with staged(tmp_path / "undisturbed", workers) as stage:
            undisturbed = await stage.run_pass()
        assert undisturbed.is_done, undisturbed
        assert FORMAT in undisturbed.steps
        for number in range(undisturbed.last_call_before_mkfs() + 1):
            moment = f"{name} before {undisturbed.calls[number]} ({number})"
            left: list[str] = []
            async with staged(tmp_path / str(number), workers) as stage:
                with acting(stage, actor, left) as act:
                    workers.before[number] = act
                    outcome = await stage.run_pass()
                    assert len(left) == 1, moment
                    is_unseen = number <= undisturbed.calls.index("open_and_look")
                    is_blank_as_proven = name == "resizes it" and is_unseen
                    if not is_blank_as_proven and not _is_adopted(outcome.steps, name):
                        assert outcome.reason, f"{moment}: {outcome}"
                        assert digest(stage.image) == left[0], f"{moment}: {outcome}"
                        assert stage.node.records.formats.read(VOLUME) is None, moment
                    workers.before.clear()
                    if actor.is_lasting and not _is_adopted(outcome.steps, name):
                        again = await stage.run_pass()
                        assert FORMAT not in again.steps or again.reason, f"{moment}, next pass: {again}"
                        if not _is_adopted(again.steps, name):
                            assert digest(stage.image) == left[0], f"{moment}, next pass: {again}"
            SUMMARY["moments someone else acted at"] += 1


def _is_adopted(steps: list[str], name: str) -> bool:
    """Whether the filesystem that someone made, of the wanted type, was mounted as it is."""
    return name == "makes a filesystem" and "mount" in steps and FORMAT not in steps


@pytest.mark.parametrize("name", ["claims it", "makes a filesystem and mounts it"])
async def test_claim_after_the_last_question_is_mkfs_s_to_refuse(tmp_path: Path, name: str) -> None:
    """Between the agent's last question and mkfs, the kernel keeps a claimed device from mkfs."""
    left: list[str] = []
    async with WatchedWorkers() as workers:
        async with staged(tmp_path / "undisturbed", workers) as stage:
            undisturbed = await stage.run_pass()
        async with staged(tmp_path / "disturbed", workers) as stage:
            with acting(stage, ACTORS[name], left) as act:
                workers.after[undisturbed.last_call_before_mkfs()] = act
                outcome = await stage.run_pass()
                assert outcome.reason
                assert digest(stage.image) == left[0]


async def run_renumbered(base: Path, workers: WatchedWorkers, number: int) -> tuple[Outcome, bool]:
    """Run a pass with the device's number given to another volume before a call, and whether it could be."""
    given: list[bool] = []
    async with staged(base, workers) as stage:
        other = stage.directory / f"{OTHER}.img"
        other.write_bytes(noise("other", MIB))

        def give_away() -> None:
            loop_device.detach(stage.device, str(stage.image))
            done = subprocess.run(["losetup", stage.device, str(other)], check=False, capture_output=True)
            given.append(done.returncode == 0)

        workers.before[number] = give_away
        outcome = await stage.run_pass()
        assert other.read_bytes() == noise("other", MIB)
        loop_device.detach(stage.device, str(other))
    return outcome, given[0]


async def test_device_number_that_was_given_away_is_noticed(tmp_path: Path) -> None:
    """A name and number that another volume has by the time they are opened are not used."""
    async with WatchedWorkers() as workers:
        for attempt in itertools.count():
            outcome, is_given = await run_renumbered(tmp_path / str(attempt), workers, 0)
            assert FORMAT not in outcome.steps
            assert not outcome.is_done
            if is_given:  # and not to a quicker program on this machine
                break


async def test_pinned_device_number_is_not_given_away(tmp_path: Path) -> None:
    """While a pass holds the device, the kernel gives its number to no other file."""
    async with WatchedWorkers() as workers:
        _, is_given = await run_renumbered(tmp_path / "stage", workers, 2)
        assert not is_given


async def test_two_devices_with_one_serial_are_both_left_alone(tmp_path: Path) -> None:
    """Which of two devices is meant cannot be known, so neither is."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers, FsType.EXT4) as stage:
        before = digest(stage.image)
        stage.node.place({VOLUME: (stage.device, "/dev/loop-other")})
        outcome = await stage.run_pass()
        assert outcome.reason == "DuplicateDevice"
        assert digest(stage.image) == before
