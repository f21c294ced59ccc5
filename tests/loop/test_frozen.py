"""Filesystems that somebody freezes: told as that, left as they are, and gone on with after the thaw."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import psutil
import pytest
from typing_extensions import TypeVarTuple, Unpack

from agent.core.errors import AgentError, FrozenError, ShortageError
from agent.core.model import FsType, Mount, VolumeId
from agent.node.filesystem.frozen_filesystems import Freezes
from agent.node.filesystem.hold_frozen import FrozenNotes, hold_frozen
from agent.node.filesystem.try_write import begin_write
from agent.node.isolate.workers import Workers
from agent.node.sampling.trial_write import try_writing
from agent.node.sampling.values import MountSample
from tests.agent_process import MIB, AgentProcess, Scratch
from tests.loop.disks import Bench
from tests.loop.test_daemon import VOLUME, entry, find_mount
from tests.loop.test_growth import mount_new, needs_resource
from tests.waiting import until, wait_until

GUARDIAN = "agent.node.filesystem.thaw_guardian"
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@contextmanager
def frozen(path: Path | str) -> Iterator[None]:
    """Keep a filesystem frozen while the context lasts, as a person does."""
    subprocess.run(["fsfreeze", "--freeze", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(path)], check=True)


def list_stuck(agent: AgentProcess) -> list[psutil.Process]:
    """Return the agent's processes that wait in the kernel where no signal reaches them."""
    children = psutil.Process(agent.pid).children(recursive=True)
    return [child for child in children if child.status() == psutil.STATUS_DISK_SLEEP]


def read_reasons(agent: AgentProcess) -> set[str]:
    """Return all that any volume has been called Failed for so far."""
    return {event["reason"] for event in agent.read_events("volume.failed")}


def test_freeze_of_a_person_is_told_as_that(scratch: Scratch, agent: AgentProcess) -> None:
    """Found where writes are tried; everything else is known all the while, and nothing lingers."""
    path = scratch.data / "ckpt"
    scratch.write_policy(entry(scratch), health={"interval": "1s", "write_probe": True})
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    with frozen(path):
        status = agent.wait_condition(VOLUME, "Failed", "Frozen")
        assert f"fsfreeze -u {path}" in status["hint"]
        assert "reboot" not in status["hint"]
        assert status["filesystem"]["size_bytes"] > 0
        # Whoever looks at it is not held up, and says the same.
        wait_until(lambda: agent.client.explain(VOLUME)["reason"] == "Frozen", "it was looked at")
        assert list_stuck(agent)
    agent.wait_condition(VOLUME, "Ready")
    assert not list_stuck(agent)
    assert read_reasons(agent) == {"Frozen"}


@pytest.mark.parametrize("fs_type", [pytest.param("ext4", marks=needs_resource), "xfs"])
def test_what_is_due_waits_for_the_thaw(scratch: Scratch, agent: AgentProcess, fs_type: str) -> None:
    """Growth, options and a new path hang in nothing while it is frozen, and come after it."""
    old, new = scratch.data / "ckpt", scratch.data / "moved"
    scratch.write_policy(entry(scratch, fs_type, grow=True))
    image = scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    with frozen(old):
        os.truncate(image, 768 * MIB)
        agent.wait_condition(VOLUME, "Failed", "Frozen")
        options = {"options": ["noatime"]}
        scratch.write_policy(entry(scratch, fs_type, grow=True, name="moved", mount=options))
        agent.reload()
        wait_until(lambda: agent.read_events("policy.reloaded"), "the policy was read")
        status = agent.wait_condition(VOLUME, "Failed", "Frozen")
        assert f"fsfreeze -u {old}" in status["hint"]
        assert find_mount(new) is None
    agent.wait_condition(VOLUME, "Ready")
    wait_until(lambda: os.statvfs(new).f_blocks * os.statvfs(new).f_frsize > 600 * MIB, "it grew")
    assert "noatime" in find_mount(new).options
    assert find_mount(old) is None
    assert not list_stuck(agent)
    assert read_reasons(agent) == {"Frozen"}


@pytest.mark.anyio
async def test_own_freeze_is_nobody_elses(bench: Bench) -> None:
    """While the agent itself keeps a filesystem frozen nothing is said of that, nor does anyone wait."""
    _, request, number = mount_new(bench, FsType.EXT4)
    volume, path = VolumeId(VOLUME), request.path
    mount = find_mount(Path(path))
    sample = MountSample(path, "ext4", is_read_only=False, device_number=number, mount_id=mount.mount_id)
    async with Workers() as workers:
        freezes = Freezes(workers)
        with freezes.holding(volume):
            async with hold_frozen(workers, path, number, limit_s=60):
                assert await try_writing(freezes, volume, sample, timeout_s=60) == sample
                # One that had begun when the freeze came is held up by it.
                with pytest.raises(FrozenError):
                    await workers.call(begin_write, path, number, timeout_s=1, subject=f"writes to {volume}")
                assert not freezes.is_frozen(volume)
                assert not await freezes.is_stuck(volume, 0.1)
        await until(lambda: not workers._pool.dying)
        assert await try_writing(freezes, volume, sample, timeout_s=60) == sample


@pytest.mark.anyio
async def test_what_somebody_else_froze_stays_so(bench: Bench) -> None:
    """The agent's own freeze says that there is one already, notes nothing and thaws nothing."""
    _, request, _ = mount_new(bench, FsType.XFS)
    mount = find_mount(Path(request.path))
    async with Workers() as workers:
        notes = FrozenNotes(workers, bench.directory / "frozen")
        with frozen(request.path):
            with pytest.raises(AgentError, match="somebody else froze it") as caught:
                async with notes.hold(VolumeId(VOLUME), mount, 60):
                    pytest.fail("it was frozen twice")
            assert f"fsfreeze -u {request.path}" in (caught.value.hint or "")
            assert not list((bench.directory / "frozen").iterdir())
            await notes.thaw_left()
            # Thawed by anyone, the person's own thaw would fail.


async def lose_guardian(notes: FrozenNotes, mount: Mount) -> None:
    """Freeze a mount and kill the process that is to thaw it."""
    async with notes.hold(VolumeId(VOLUME), mount, 60):
        guardians = [child for child in psutil.Process().children() if GUARDIAN in child.cmdline()]
        for guardian in guardians:
            guardian.kill()


@pytest.mark.anyio
async def test_freeze_whose_guardian_was_killed_is_thawed_however_late(bench: Bench) -> None:
    """Where the thaw fails as well, what is frozen is noted, and it is thawed as soon as that can be done."""
    _, request, _ = mount_new(bench, FsType.EXT4)
    mount = find_mount(Path(request.path))
    note = bench.directory / "frozen" / VOLUME
    async with FailingOnce() as workers:
        notes = FrozenNotes(workers, note.parent, retry_s=(0.1,))
        with pytest.raises(ShortageError, match="not now"):
            await lose_guardian(notes, mount)
        assert note.exists()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notes.run)
            await until(lambda: not note.exists())
            tasks.cancel_scope.cancel()
    # Frozen by itself, and not by what was left.
    with frozen(request.path):
        pass


class FailingOnce(Workers):
    """Workers, of which the first has no memory left."""

    has_failed = False

    async def call(
        self, function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts], timeout_s: float, subject: str
    ) -> T:
        if not self.has_failed:
            self.has_failed = True
            raise ShortageError("not now")
        return await super().call(function, *args, timeout_s=timeout_s, subject=subject)
