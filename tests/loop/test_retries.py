"""What a device that stays as it is costs: its tools run once and after pauses, whatever is heard of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from agent.core.model import Condition, Reason, Wanted
from agent.core.replace import replace
from agent.loop.device_survey import Surveyor
from agent.loop.reconcile import Reconciler
from agent.loop.wake_causes import Cause
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from tests.corpus.tools import run
from tests.loop.devices import write_device
from tests.loop.moments import VOLUME, Stage, WatchedWorkers, staged
from tests.loop.udev import Watch, watching

pytestmark = pytest.mark.anyio

ROUNDS = 12
"""In each, all that was announced of the device is heard, and everything is looked at."""


@dataclass
class Trial:
    """A volume that an agent's loop has in hand, with udev beside it."""

    stage: Stage
    reconciler: Reconciler
    surveyor: Surveyor
    watch: Watch
    board: Board = field(default_factory=Board)
    counters: Counters = field(default_factory=Counters)
    changes: int = 0

    def count(self, kind: str, outcome: str) -> int:
        """Return how many steps of a kind ended so."""
        labels = {"step": kind, "outcome": outcome}
        return int(self.counters.registry.get_sample_value("ebs_agent_steps_total", labels) or 0)

    def count_failures(self) -> int:
        """Return how many passes failed."""
        labels = {"outcome": "failed"}
        return int(self.counters.registry.get_sample_value("ebs_agent_reconciles_total", labels) or 0)

    async def settle(self) -> None:
        """Hear all that was announced, look at everything, and wait until that is done."""
        self.changes += self.watch.take()
        await self.surveyor.look_everywhere()
        await self.reconciler.wait_settled([VOLUME], 60)

    async def hear(self) -> None:
        """Hear so much that whoever tries again at each of it would never come to rest."""
        for _ in range(ROUNDS):
            await self.settle()


@asynccontextmanager
async def trying(
    tmp_path: Path, workers: WatchedWorkers, fill: Callable[[str], object], *mkfs_options: str
) -> AsyncIterator[Trial]:
    """Give a volume that was filled first, wanted as a filesystem, and the loop over it."""
    async with staged(tmp_path / "stage", workers) as stage, anyio.create_task_group() as tasks:
        fill(stage.device)
        board, counters = Board(), Counters()
        reconciler = Reconciler(stage.node, board, counters, dev_ebs=str(stage.node.paths.dev_ebs))
        assert stage.wanted.filesystem is not None
        filesystem = replace(stage.wanted.filesystem, mkfs_options=mkfs_options)
        wanted: Wanted = replace(stage.wanted, filesystem=filesystem)
        surveyor = Surveyor(stage.node, lambda _seen, _noted: {VOLUME: wanted}, reconciler, counters)
        await tasks.start(lambda *, task_status: reconciler.run(task_status=task_status))
        await tasks.start(lambda *, task_status: surveyor.run(task_status=task_status))
        with watching(stage.device) as watch:
            yield Trial(stage, reconciler, surveyor, watch, board, counters)
            tasks.cancel_scope.cancel()


def damage(device: str) -> None:
    """Make an ext4 whose damage ``e2fsck -p`` leaves to a person."""
    run("mkfs.ext4", "-q", "-F", device)
    for request in ("mkdir dir", "clri <12>", "ssv state 2", "sif <2> mode 0"):
        run("debugfs", "-w", "-R", request, device)


def set_iostats(device: str, word: str) -> None:
    Path(f"/sys/block/{Path(device).name}/queue/iostats").write_text(word)


@pytest.fixture
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.loop.reconcile.RETRY_S", (0.0,))


@pytest.fixture
def _within_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pause after the first failure outlast the test."""
    monkeypatch.setattr("agent.loop.reconcile.RETRY_S", (3600.0,))


@pytest.mark.usefixtures("_without_pauses")
async def test_damaged_filesystem_is_checked_once_as_long_as_nobody_writes_to_it(tmp_path: Path) -> None:
    """Each check is announced as a change of the device, and none follows from that, pause or not."""
    async with WatchedWorkers() as workers, trying(tmp_path, workers, damage) as trial:
        await trial.hear()
        status = trial.board.get(VOLUME)
        assert status is not None
        assert (status.condition, status.reason) == (Condition.FAILED, Reason.FILESYSTEM_ERRORS)
        assert trial.count("check", "done") == 1
        assert trial.changes <= 2
        # Who only looks is told the same, and nothing is done for it.
        shown = await trial.reconciler.look(VOLUME)
        assert (shown.condition, shown.message) == (status.condition, status.message)
        # An order to look at it is one to check it.
        trial.stage.node.remember(VOLUME).forget_check()
        trial.reconciler.wake(VOLUME, Cause.ORDER)
        await trial.hear()
        assert trial.count("check", "done") == 2
        # Somebody writes to it: what was found is not known to hold any more.
        write_device(trial.stage.device, 40 << 20, os.urandom(4096))
        await trial.hear()
        assert trial.count("check", "done") == 3
        assert not trial.stage.data.joinpath("ckpt").is_mount()


@pytest.mark.usefixtures("_without_pauses")
async def test_repaired_filesystem_is_mounted_by_itself(tmp_path: Path) -> None:
    """The repair is written to the device, so the check that follows is no other than the first."""
    async with WatchedWorkers() as workers, trying(tmp_path, workers, damage) as trial:
        await trial.hear()
        run("e2fsck", "-f", "-y", trial.stage.device, check=range(8))
        await trial.hear()
        status = trial.board.get(VOLUME)
        assert status is not None
        assert status.condition is Condition.READY
        assert trial.count("check", "done") == 2


@pytest.mark.usefixtures("_within_a_pause")
async def test_pauses_bound_checks_where_writes_are_not_counted(tmp_path: Path) -> None:
    """What was found cannot be kept then: it is looked for again, after the pauses of what failed."""
    async with WatchedWorkers() as workers, trying(tmp_path, workers, damage) as trial:
        set_iostats(trial.stage.device, "0")
        try:
            await trial.hear()
            assert trial.count("check", "done") == 1
            assert trial.changes <= 2
            trial.reconciler.wake(VOLUME, Cause.ORDER)
            await trial.hear()
            assert trial.count("check", "done") == 2
        finally:
            set_iostats(trial.stage.device, "1")


@pytest.mark.usefixtures("_within_a_pause")
@pytest.mark.parametrize("is_wiped", [False, True], ids=["taken up again", "made anew"])
async def test_failed_mkfs_keeps_its_pauses(tmp_path: Path, *, is_wiped: bool) -> None:
    """Neither what mkfs closes nor what it leaves ends the pause that it caused: each attempt is ordered."""
    options = ("-d", str(tmp_path / "nothing"))
    async with WatchedWorkers() as workers, trying(tmp_path, workers, lambda _: None, *options) as trial:
        for attempt in range(1, 4):
            await trial.hear()
            status = trial.board.get(VOLUME)
            assert status is not None
            assert (status.condition, status.reason) == (Condition.FAILED, Reason.STEP_FAILED)
            assert trial.count_failures() == attempt
            if is_wiped:
                assert trial.count("format", "failed") == attempt
                trial.stage.node.records.formats.remove(VOLUME)
                run("blkdiscard", "-z", trial.stage.device)
            trial.reconciler.wake(VOLUME, Cause.ORDER)
        assert 0 < trial.changes <= 6
