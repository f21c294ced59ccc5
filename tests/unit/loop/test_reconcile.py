"""The loop's promises, on a node in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import anyio
import pytest

from agent.core.errors import AgentError, InconclusiveError
from agent.core.model import (
    Condition,
    Foreign,
    FormatRule,
    FsType,
    Reason,
    VolumeId,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
    WantedTuning,
)
from agent.core.replace import replace
from agent.core.steps import Action, Check, Format
from agent.loop.reconcile import Reconciler
from agent.loop.wake_causes import Cause
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.board.volume_status import VolumeStatus
from tests.fakes.world import EXT4, AgentDiedError, FakeNode, FakeVolume, failing, is_death

pytestmark = pytest.mark.anyio

VOLUME = VolumeId("vol-0123456789abcdef0")
ABSENT = VolumeId("vol-00000000000000009")
WANTED = Wanted(
    VOLUME,
    "checkpoints",
    filesystem=WantedFilesystem(FsType.EXT4, FormatRule.IF_BLANK),
    mount=WantedMount("/data/ckpt", ("nosuid", "nodev"), mode=0o770),
    grow=True,
    tune=WantedTuning(4 * 1024**2),
)


@asynccontextmanager
async def reconciling(
    node: FakeNode, wants: Mapping[VolumeId, Wanted | None], board: Board | None = None
) -> AsyncIterator[tuple[Reconciler, Board]]:
    """Run a reconciler over ``node`` for the block."""
    board = board or Board()
    reconciler = Reconciler(node, board, Counters())
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: reconciler.run(task_status=task_status))
        reconciler.set_wants(wants)
        yield reconciler, board
        tasks.cancel_scope.cancel()


async def wait_for(board: Board, is_reached: Callable[[VolumeStatus], bool]) -> VolumeStatus:
    """Return the volume's status once it is as asked for."""
    with anyio.fail_after(60), board.subscribe() as changes:
        status = board.get(VOLUME)
        if status is not None and is_reached(status):
            return status
        async for change in changes:
            if change.status is not None and is_reached(change.status):
                return change.status
    raise AssertionError("unreachable")


async def wait_condition(board: Board, condition: Condition) -> VolumeStatus:
    """Return the volume's status once it is in ``condition``."""
    return await wait_for(board, lambda status: status.condition is condition)


async def test_blank_volume_becomes_ready() -> None:
    """A blank volume is formatted once, mounted, tuned and Ready, with its path shown."""
    volume = FakeVolume(VOLUME)
    async with reconciling(FakeNode(volume), {VOLUME: WANTED}) as (_, board):
        status = await wait_condition(board, Condition.READY)
    assert (status.path, status.name, volume.formats) == ("/data/ckpt", "checkpoints", 1)
    assert (volume.root_inode.mode, volume.tuning.read_ahead_bytes) == (0o770, 4 * 1024**2)
    names = [event.name for event in board.history.latest()]
    assert names.index(EventName.VOLUME_FORMATTED) < names.index(EventName.VOLUME_MOUNTED)
    assert names[-1] is EventName.VOLUME_READY


async def test_looking_again_does_nothing() -> None:
    """A Ready volume that is looked at again is left alone."""
    volume = FakeVolume(VOLUME)
    async with reconciling(FakeNode(volume), {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        done = list(volume.executed)
        status = await reconciler.look(VOLUME)
        assert status.plan == ()
        reconciler.wake(VOLUME)
        await anyio.wait_all_tasks_blocked()
    assert volume.executed == done


async def test_volume_at_rest_is_given_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look for several found as it was is left alone; what it did not, or never saw, is for a pass."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    asked: list[set[VolumeId]] = []
    changed: set[VolumeId] = set()

    async def find_changed(wants: Mapping[VolumeId, Wanted | None]) -> frozenset[VolumeId]:
        asked.append(set(wants))
        return frozenset(changed)

    monkeypatch.setattr(node, "find_changed", find_changed)
    async with reconciling(node, {VOLUME: WANTED, ABSENT: replace(WANTED, volume_id=ABSENT)}) as (loop, _):
        assert await loop.find_restless([VOLUME, ABSENT]) == (VOLUME, ABSENT)
        await loop.wait_settled([VOLUME, ABSENT], 60)
        assert asked == []
        assert await loop.find_restless([VOLUME, ABSENT]) == (ABSENT,)
        changed.add(VOLUME)
        assert await loop.find_restless([VOLUME, ABSENT]) == (VOLUME, ABSENT)
        assert asked == [{VOLUME}, {VOLUME}]
        node.blind = InconclusiveError("somewhere else")
        loop.wake(VOLUME)
        assert await loop.find_restless([VOLUME]) == (VOLUME,)
        await loop.wait_settled([VOLUME], 60)
        assert await loop.find_restless([VOLUME]) == (VOLUME,)
        assert len(asked) == 2


async def test_settled_is_looked_at_since_it_was_asked_for() -> None:
    """Whoever waits for a volume to settle sees what a look found that began after it was woken."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await reconciler.wait_settled([VOLUME], 60)
        node.volumes[VOLUME].size_bytes *= 2
        reconciler.wake(VOLUME)
        await reconciler.wait_settled([VOLUME], 60)
        status = board.get(VOLUME)
        assert status is not None
        assert status.size_bytes == node.volumes[VOLUME].size_bytes
        assert not node.open_sessions


async def test_looking_changes_nothing() -> None:
    """A plan that is shown touches nothing."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    reconciler = Reconciler(node, Board(), Counters())
    reconciler._wants = {VOLUME: WANTED}
    (status,) = await reconciler.look_at_all()
    assert [step.step for step in status.plan] == ["link", "format", "mount", "tune"]
    assert volume.executed == []


async def test_refused_volume_is_untouched() -> None:
    """Data without a signature is refused, with the reason, and nothing but its link is made."""
    volume = FakeVolume(VOLUME, content=Foreign("data at byte 0", 0, is_signed=False))
    async with reconciling(FakeNode(volume), {VOLUME: WANTED}) as (_, board):
        status = await wait_condition(board, Condition.REFUSED)
    assert status.reason is Reason.NOT_BLANK
    assert [action.kind for action in volume.executed] == ["link"]


async def test_pulled_volume_is_lost_and_returns() -> None:
    """A volume pulled while mounted is Lost, its stale mount goes, and it is checked before it is back."""
    volume = FakeVolume(VOLUME, content=EXT4)
    async with reconciling(FakeNode(volume), {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        volume.vanish()
        reconciler.wake(VOLUME)
        await wait_condition(board, Condition.LOST)
        await wait_for(board, lambda _: volume.stale_mount is None)
        volume.executed.clear()
        volume.is_attached = True
        reconciler.wake(VOLUME)
        await wait_condition(board, Condition.READY)
    kinds = [action.kind for action in volume.executed]
    assert kinds.index("check") < kinds.index("mount")
    assert volume.formats == 0


async def test_volume_that_is_back_before_its_stale_mount_is_gone_is_not_refused() -> None:
    """What the same plan is about to take away is no reason to tell anybody that something is in the way."""
    volume = FakeVolume(VOLUME, content=EXT4)
    node = FakeNode(volume)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        node.volumes[VOLUME].vanish()
        volume.is_attached = True
        reconciler.wake(VOLUME)
        await wait_for(board, lambda status: status.condition is Condition.READY and not volume.stale_mount)
    names = [event.name for event in board.history.latest()]
    assert EventName.VOLUME_UNMOUNTED in names
    assert not {EventName.VOLUME_REFUSED, EventName.VOLUME_FAILED, EventName.VOLUME_DEGRADED} & {*names}


async def test_grown_volume_fills_its_device() -> None:
    """A volume that got bigger has its filesystem grown while mounted."""
    volume = FakeVolume(VOLUME, content=EXT4)
    async with reconciling(FakeNode(volume), {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        volume.size_bytes *= 2
        reconciler.wake(VOLUME)
        await wait_for(board, lambda status: status.size_bytes == volume.size_bytes and not status.plan)
    assert [action.kind for action in volume.executed].count("grow") == 1


async def test_failed_step_is_reported_and_tried_again() -> None:
    """A step that fails leaves the volume Failed with the step's own words, and is tried again."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    failures = [failing()]
    node.refuse_step = lambda action: failures.pop() if isinstance(action, Format) and failures else None
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        status = await wait_condition(board, Condition.FAILED)
        assert status.message == "mkfs.ext4 ended with 1."
        reconciler.wake(VOLUME, Cause.ORDER)
        await wait_condition(board, Condition.READY)
    assert EventName.STEP_FAILED in [event.name for event in board.history.latest()]


async def test_same_failure_is_recorded_once() -> None:
    """A step that fails the same way at each retry is one event, and so is what became of the volume."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    attempts: list[Action] = []

    def refuse(action: Action) -> AgentError | None:
        if not isinstance(action, Format) or len(attempts) == 3:
            return None
        attempts.append(action)
        return failing()

    node.refuse_step = refuse
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        for tried in range(1, 4):
            await wait_for(board, lambda status: status.condition is Condition.FAILED)
            await anyio.wait_all_tasks_blocked()
            assert len(attempts) == tried
            reconciler.wake(VOLUME, Cause.ORDER)
            await anyio.wait_all_tasks_blocked()
        await wait_condition(board, Condition.READY)
    names = [event.name for event in board.history.latest()]
    recorded = (EventName.STEP_FAILED, EventName.VOLUME_FAILED, EventName.VOLUME_READY)
    assert [names.count(name) for name in recorded] == [1, 1, 1]


async def test_failing_volume_stops_no_other() -> None:
    """One volume that always fails does not keep another from being Ready."""
    other = VolumeId("vol-0fedcba9876543210")
    node = FakeNode(FakeVolume(other), FakeVolume(VOLUME))
    node.refuse_step = lambda action: (
        failing() if isinstance(action, Format) and action.label == "bad" else None
    )
    assert WANTED.filesystem is not None
    bad = replace(WANTED, volume_id=other, name="bad", filesystem=replace(WANTED.filesystem, label="bad"))
    async with reconciling(node, {other: bad, VOLUME: WANTED}) as (_, board):
        await wait_condition(board, Condition.READY)
        status = board.get(other)
    assert status is not None
    assert status.condition is Condition.FAILED


async def test_step_that_changes_nothing_is_an_error() -> None:
    """Success is observed: a step that returns well and changes nothing is a failure, not an endless loop."""
    volume = FakeVolume(VOLUME, content=EXT4)
    node = FakeNode(volume)
    stubborn = replace(WANTED, tune=WantedTuning(scheduler=""))
    async with reconciling(node, {VOLUME: stubborn}) as (_, board):
        status = await wait_condition(board, Condition.DEGRADED)
    assert status.reason is Reason.STEP_FAILED
    assert "changed nothing" in status.message


def unreachable() -> InconclusiveError:
    return InconclusiveError("The kernel cannot reach the device now.", reason=Reason.UNREACHABLE)


async def look_in_vain(node: FakeNode, reconciler: Reconciler, times: int) -> None:
    """Have the volume looked at so many times while its device cannot be reached."""
    node.blind = unreachable()
    for _ in range(times):
        reconciler.wake(VOLUME, Cause.ORDER)
        await anyio.wait_all_tasks_blocked()


async def test_one_look_in_vain_changes_nothing() -> None:
    """A volume whose device was away for one look is what it was, and nothing is told of it."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        reconciler.wake(VOLUME)
        await anyio.wait_all_tasks_blocked()
        ready = board.get(VOLUME)
        await look_in_vain(node, reconciler, times=1)
        assert board.get(VOLUME) == ready
        node.blind = None
        reconciler.wake(VOLUME, Cause.ORDER)
        await anyio.wait_all_tasks_blocked()
        assert board.get(VOLUME) == ready
    assert board.history.latest()[-1].name is EventName.VOLUME_READY


@pytest.mark.parametrize(
    "wanted", [WANTED, Wanted(VOLUME, "rawdb", block=WantedBlock())], ids=["mounted", "raw"]
)
async def test_volume_out_of_reach_stays_in_use(wanted: Wanted) -> None:
    """While its device stays away, a volume in use is Degraded where it is used, and then Ready again."""
    volume = FakeVolume(VOLUME, content=EXT4)
    node = FakeNode(volume)
    async with reconciling(node, {VOLUME: wanted}) as (reconciler, board):
        ready = await wait_condition(board, Condition.READY)
        done = list(volume.executed)
        await look_in_vain(node, reconciler, times=3)
        status = board.get(VOLUME)
        assert status is not None
        assert (status.condition, status.reason) == (Condition.DEGRADED, Reason.UNREACHABLE)
        assert (status.path, status.device) == (ready.path, ready.device)
        assert volume.executed == done
        node.blind = None
        reconciler.wake(VOLUME, Cause.ORDER)
        await wait_condition(board, Condition.READY)
    names = [event.name for event in board.history.latest()]
    assert names[-2:] == [EventName.VOLUME_DEGRADED, EventName.VOLUME_READY]


async def test_volume_that_was_never_reached_is_waited_for() -> None:
    """A volume of which nothing is known yet is Pending as long as nothing can be found out."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    node.blind = unreachable()
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        status = await wait_condition(board, Condition.PENDING)
        assert status.reason is Reason.UNREACHABLE
        node.blind = None
        reconciler.wake(VOLUME, Cause.ORDER)
        await wait_condition(board, Condition.READY)


async def test_forgotten_volume_leaves_the_board() -> None:
    """A volume that is gone and that nobody wants is followed no longer."""
    volume = FakeVolume(VOLUME)
    async with reconciling(FakeNode(volume), {VOLUME: None}) as (reconciler, board):
        await wait_condition(board, Condition.UNMANAGED)
        volume.is_attached = False
        reconciler.set_wants({})
        await anyio.wait_all_tasks_blocked()
        assert board.get(VOLUME) is None


async def test_raw_volume_is_ready_under_its_name() -> None:
    """A raw volume is Ready once its link and node ownership are right, whatever it holds."""
    volume = FakeVolume(VOLUME, content=Foreign("an Oracle header"))
    raw = Wanted(VOLUME, "rawdb", block=WantedBlock(mode=0o600))
    async with reconciling(FakeNode(volume), {VOLUME: raw}) as (_, board):
        status = await wait_condition(board, Condition.READY)
    assert status.path == "/dev/ebs/rawdb"
    assert volume.node_owner.mode == 0o600


INSTANTS = 24
"""More than there are in the longest way from blank to Ready."""


async def run_until_ready_or_dead(node: FakeNode) -> bool:
    """Run an agent until the volume is Ready; return False where it died first."""
    try:
        async with reconciling(node, {VOLUME: WANTED}) as (_, board):
            await wait_condition(board, Condition.READY)
    except BaseException as error:
        if not is_death(error):
            raise
        return False
    return True


@pytest.mark.parametrize("instant", range(INSTANTS))
async def test_converges_after_dying_at_any_instant(instant: int) -> None:
    """Killed at any one instant and started again, the volume ends Ready, made at most once with its data."""
    volume = FakeVolume(VOLUME)
    countdown = [instant]

    def die_once(_: str) -> None:
        countdown[0] -= 1
        if countdown[0] == -1:
            raise AgentDiedError

    node = FakeNode(volume, interrupt=die_once)
    if not await run_until_ready_or_dead(node):
        assert await run_until_ready_or_dead(node)
    assert volume.mount is not None
    assert volume.record is not None
    volume.user_data = "precious"
    assert await run_until_ready_or_dead(FakeNode(volume))


async def test_existing_data_survives_dying_at_any_instant() -> None:
    """With a filesystem on it, no interruption ever leads to a format."""
    for instant in range(INSTANTS):
        volume = FakeVolume(VOLUME, content=EXT4, user_data="precious")
        countdown = [instant]

        def die_once(_: str, countdown: list[int] = countdown) -> None:
            countdown[0] -= 1
            if countdown[0] == -1:
                raise AgentDiedError

        await run_until_ready_or_dead(FakeNode(volume, interrupt=die_once))
        assert await run_until_ready_or_dead(FakeNode(volume))
        assert volume.formats == 0
        kinds: list[type[Action]] = [type(action) for action in volume.executed]
        assert Check in kinds
