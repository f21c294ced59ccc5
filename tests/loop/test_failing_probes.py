"""Probes that fail, fall short, crash or never answer: never a format, always a reason."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agent.core.errors import AgentError, NotAnsweringError
from agent.core.model import FsType, Reason
from agent.core.units import GIB
from agent.node.volume_session import context
from tests.corpus.case import MIB
from tests.corpus.tools import digest
from tests.loop.moments import FORMAT, SIZE_BYTES, VOLUME, WatchedWorkers, staged
from tests.summary import SUMMARY

ERRORS: dict[str, Exception] = {
    "EIO": OSError(errno.EIO, "Input/output error"),
    "open refused": PermissionError(errno.EPERM, "Operation not permitted"),
    "gone": OSError(errno.ENXIO, "No such device or address"),
    "no memory": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "crashed": AgentError("The worker died.", reason=Reason.PROBE_FAILED),
    "stalled": NotAnsweringError("It did not answer.", reason=Reason.STALLED),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ERRORS)
async def test_failure_of_any_call_before_mkfs_prevents_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever question or note fails, in whatever way, nothing is formatted and the reason is told."""
    # For as long it is watched whether the device completes anything: that is not what is tested.
    monkeypatch.setattr(context, "STANDSTILL_S", 0.05)

    def fail() -> None:
        raise ERRORS[name]

    async with WatchedWorkers() as workers:
        async with staged(tmp_path / "undisturbed", workers) as stage:
            undisturbed = await stage.run_pass()
        for number in range(undisturbed.last_call_before_mkfs() + 1):
            async with staged(tmp_path / str(number), workers) as stage:
                before = digest(stage.image)
                workers.before[number] = fail
                outcome = await stage.run_pass()
                moment = f"{name} at {undisturbed.calls[number]} ({number}): {outcome}"
                assert not outcome.is_done, moment
                assert outcome.reason, moment
                assert digest(stage.image) == before, moment
                workers.before.clear()
                again = await stage.run_pass()
                assert again.is_done, f"{moment}, then {again}"
            SUMMARY["failures of a call"] += 1


@pytest.mark.parametrize("kept_bytes", [512, 4096, MIB, SIZE_BYTES // 2, SIZE_BYTES - 4096])
async def test_device_that_reads_only_in_part_is_not_blank(tmp_path: Path, kept_bytes: int) -> None:
    """Zeros up to the place where reads fail prove nothing about what lies behind it."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers) as stage:
        # The device keeps its size, and reads beyond the file's end fail with EIO.
        os.truncate(stage.image, kept_bytes)
        outcome = await stage.run_pass()
        assert FORMAT not in outcome.steps
        assert outcome.reason == "ProbeFailed"
        assert stage.image.stat().st_size == kept_bytes


async def test_device_that_stops_reading_after_its_proof_is_not_formatted(tmp_path: Path) -> None:
    """Errors that begin between proof and mkfs are found by the last questions."""
    async with WatchedWorkers() as workers:
        async with staged(tmp_path / "undisturbed", workers) as stage:
            undisturbed = await stage.run_pass()
        probed = undisturbed.calls.index("lock_and_probe")
        async with staged(tmp_path / "stage", workers) as stage:
            workers.after[probed] = lambda: os.truncate(stage.image, 0)
            outcome = await stage.run_pass()
            assert not outcome.is_done
            assert stage.image.stat().st_size == 0
            assert stage.node.records.formats.read(VOLUME) is None


@pytest.mark.parametrize("fs_type", FsType)
async def test_truly_blank_volume_is_formatted(tmp_path: Path, fs_type: FsType) -> None:
    """What is not there does not stand in the way: zeros are taken for what they are."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers, fs_type) as stage:
        outcome = await stage.run_pass()
        assert outcome.is_done
        assert FORMAT in outcome.steps
        assert stage.image.stat().st_size < GIB
