"""Volumes at rest: one look at several finds all that a pass over each would find, and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import pytest

from agent.core.model import Identity, VolumeId
from agent.core.replace import replace
from agent.node import machine
from agent.node.device import links
from agent.node.kernel.mountinfo import follow_mounts
from agent.node.sampling.values import Sample, SampleRequest
from agent.node.standins import files, loop_device
from tests.corpus.case import MIB
from tests.corpus.tools import run
from tests.loop.moments import OTHER, SIZE_BYTES, VOLUME, Stage, WatchedWorkers, staged

pytestmark = pytest.mark.anyio

ABSENT = VolumeId("vol-00000000000000009")


def grow(stage: Stage) -> None:
    os.truncate(stage.image, SIZE_BYTES + 16 * MIB)
    loop_device.update_size(stage.device)


def remove_note(stage: Stage) -> None:
    stage.node.records.mounts.remove(VOLUME)


def write_read_ahead(stage: Stage) -> None:
    Path(f"/sys/block/{Path(stage.device).name}/queue/read_ahead_kb").write_text("512", "ascii")


def want_other_mode(stage: Stage) -> None:
    mount = stage.wanted.mount
    assert mount is not None
    stage.wanted = replace(stage.wanted, mount=replace(mount, mode=0o750))


def find_path(stage: Stage) -> str:
    assert stage.wanted.mount is not None
    return stage.wanted.mount.path


CHANGES: dict[str, Callable[[Stage], object]] = {
    "unmounted": lambda stage: run("umount", find_path(stage)),
    "covered": lambda stage: run("mount", "-t", "tmpfs", "none", find_path(stage)),
    "uncovered": lambda stage: run("umount", find_path(stage)),
    "mounted elsewhere as well": lambda stage: run("mount", stage.device, str(stage.data / "elsewhere")),
    "and not any more": lambda stage: run("umount", str(stage.data / "elsewhere")),
    "read-only": lambda stage: run("mount", "-o", "remount,ro", find_path(stage)),
    "another option": lambda stage: run("mount", "-o", "remount,rw,noatime", find_path(stage)),
    "another mode": lambda stage: Path(find_path(stage)).chmod(0o700),
    "another label": lambda stage: run("e2label", stage.device, "other"),
    "grown": grow,
    "another read-ahead": write_read_ahead,
    "another mode of its node": lambda stage: Path(stage.device).chmod(0o644),
    "a further link": lambda stage: links.set_link(stage.node.paths.dev_ebs, "other", stage.device),
    "without its link": lambda stage: links.remove_links(stage.node.paths.dev_ebs, ()),
    "without its note": remove_note,
    "wanted otherwise": want_other_mode,
    "under two names": lambda stage: stage.node.place({VOLUME: (stage.device, "/dev/loop-other")}),
    "under one": lambda stage: stage.node.place({VOLUME: (stage.device,)}),
}


async def settle(stage: Stage) -> None:
    """Make passes until one has done and noted nothing that the next one finds."""
    while (await stage.run_pass()).steps:
        pass
    await stage.run_pass()


async def test_whatever_changes_behind_the_agent_is_found(tmp_path: Path) -> None:
    """Each change to a volume at rest is found by the short look; after a pass it is at rest again."""
    async with WatchedWorkers() as workers, staged(tmp_path / "base", workers) as stage:
        (stage.data / "elsewhere").mkdir()
        assert await stage.node.find_changed({VOLUME: stage.wanted}) == {VOLUME}
        for name, change in CHANGES.items():
            await settle(stage)
            assert await stage.node.find_changed({VOLUME: stage.wanted}) == set(), f"before: {name}"
            change(stage)
            assert await stage.node.find_changed({VOLUME: stage.wanted}) == {VOLUME}, name


async def test_what_was_never_looked_at_is_for_a_pass(tmp_path: Path) -> None:
    """Of several the one at rest is told apart; what is not here, or nothing is known of, is not at rest."""
    async with WatchedWorkers() as workers, staged(tmp_path / "base", workers) as stage:
        await settle(stage)
        wants = {VOLUME: stage.wanted, OTHER: None, ABSENT: stage.wanted}
        assert await stage.node.find_changed(wants) == {OTHER, ABSENT}


async def test_samples_taken_together_are_those_taken_alone(tmp_path: Path) -> None:
    """One call finds of each what a call of its own does; what does not answer as asked is left out."""
    async with WatchedWorkers() as workers, staged(tmp_path / "base", workers) as stage:
        await settle(stage)
        path = find_path(stage)
        request = SampleRequest(VOLUME, stage.device, path, may_read=True)
        gone = SampleRequest(OTHER, stage.device, path, may_read=True)
        together = await stage.node.sample_together([gone, request])
        alone = await stage.node.sample(request, 10.0)
        assert together.keys() == {VOLUME}
        assert as_found(together[VOLUME]) == as_found(alone)
        assert together[VOLUME].mount is not None
        run("mount", "-t", "tmpfs", "none", path)
        covered = (await stage.node.sample_together([request]))[VOLUME]
        assert as_found(covered) == as_found(await stage.node.sample(request, 10.0))
        assert covered.mount is None
        run("umount", path)


async def test_one_worker_is_enough_at_rest(tmp_path: Path) -> None:
    """A look and a sample that come at once are made one after the other, and no worker is forked for it."""
    async with WatchedWorkers() as workers, staged(tmp_path / "base", workers) as stage:
        await settle(stage)
        forked = workers._pool.forked
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stage.node.find_changed, {VOLUME: stage.wanted})
            tasks.start_soon(stage.node.sample_together, [SampleRequest(VOLUME, stage.device)])
        assert workers._pool.forked == forked


def as_found(sample: Sample) -> Sample:
    """Return a sample without what differs from one to the next."""
    return replace(sample, counters=None, probe_s=None, duration_s=0.0)


def identify_in_vain(flag: str, directory: str, fd: int) -> Identity:
    """Answer as the stand-ins' function does, or never, as long as there is a file ``flag``."""
    while Path(flag).exists():
        time.sleep(0.01)
    return files.identify_loop(directory, fd)


async def test_one_that_hangs_keeps_nobody_at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one does not answer, the call is given up, and each is for a pass of its own."""
    monkeypatch.setattr(machine, "REST_TIMEOUT_S", 0.2)
    flag = tmp_path / "flag"
    async with WatchedWorkers() as workers, staged(tmp_path / "base", workers) as stage:
        identify = partial(identify_in_vain, str(flag), str(stage.directory.resolve()))
        monkeypatch.setattr(stage.node.source, "identify", identify)
        await settle(stage)
        assert await stage.node.find_changed({VOLUME: stage.wanted}) == set()
        flag.touch()
        assert await stage.node.find_changed({VOLUME: stage.wanted}) == {VOLUME}
        assert await stage.node.sample_together([SampleRequest(VOLUME, stage.device)]) == {}
        flag.unlink()
        assert not await workers.is_stuck(VOLUME)
        assert (await stage.run_pass()).is_done
        assert await stage.node.find_changed({VOLUME: stage.wanted}) == set()


def test_mounts_are_read_anew_when_the_kernel_says_so(tmp_path: Path) -> None:
    """As long as nothing is mounted the same table is given; what is mounted is in the next."""
    with follow_mounts() as read:
        first = read()
        assert [mount for mount in first if mount.path == str(tmp_path)] == []
        run("mount", "-t", "tmpfs", "none", str(tmp_path))
        try:
            assert [mount.fs_type for mount in read() if mount.path == str(tmp_path)] == ["tmpfs"]
        finally:
            run("umount", str(tmp_path))
        assert [mount for mount in read() if mount.path == str(tmp_path)] == []
