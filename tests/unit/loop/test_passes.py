"""What a pass promises: it acts on what is wanted now, and its errors are its volume's alone."""

from __future__ import annotations

import errno
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from agent.core.errors import AgentError, CoveredError, OccupiedError, RefusedError
from agent.core.model import Blank, Condition, FormatRule, Reason, VolumeId, WantedMount, WantedTuning
from agent.core.replace import replace
from agent.core.steps import Format, Link, MountFilesystem, Tune
from agent.loop.goals import Want
from agent.loop.passes import Context, Pass, PassMemory
from agent.loop.reconcile import Reconciler
from agent.loop.wake_causes import Cause
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from tests.fakes.world import EXT4, FakeNode, FakeVolume
from tests.unit.loop.test_reconcile import VOLUME, WANTED, reconciling, wait_condition, wait_for

pytestmark = pytest.mark.anyio

assert WANTED.filesystem is not None
NEVER = replace(WANTED, filesystem=replace(WANTED.filesystem, format=FormatRule.NEVER))
ELSEWHERE = replace(WANTED, mount=WantedMount("/data/other", ("nosuid", "nodev"), mode=0o770))
OTHER = VolumeId("vol-0fedcba9876543210")


def at(node: FakeNode, instant: str, do: Callable[[], object]) -> None:
    """Have something done when the pass comes to an instant the first time, however long that takes."""
    done: list[str] = []

    async def reach(name: str) -> None:
        if name == instant and not done:
            done.append(name)
            do()
            await anyio.lowlevel.checkpoint()

    node.reach = reach


def paths_of(volume: FakeVolume) -> list[str]:
    """Return where the volume was mounted, one path after the other."""
    return [action.path for action in volume.executed if isinstance(action, MountFilesystem)]


@pytest.mark.parametrize("instant", ["observe", "before link", "after link", "before format"])
async def test_permission_withdrawn_at_any_instant_before_mkfs_prevents_it(instant: str) -> None:
    """A volume whose policy says ``format: never`` by the time of mkfs is not formatted."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        at(node, instant, lambda: reconciler.set_wants({VOLUME: NEVER}))
        status = await wait_condition(board, Condition.REFUSED)
    assert (status.reason, volume.formats, volume.content) == (
        Reason.FORMAT_NOT_ALLOWED,
        0,
        Blank(1024),
    )
    assert EventName.STEP_FAILED not in [event.name for event in board.history.latest()]


async def test_step_that_is_shown_is_the_one_under_way() -> None:
    """Steps that are done one right after the other are shown one after the other."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    shown: dict[str, str] = {}
    async with reconciling(node, {VOLUME: WANTED}) as (_, board):

        async def reach(instant: str) -> None:
            status = board.get(VOLUME)
            shown[instant] = "" if status is None else status.message
            await anyio.lowlevel.checkpoint()

        node.reach = reach
        await wait_condition(board, Condition.READY)
    assert shown["before link"] == f"Now: link by-id/{VOLUME}."
    assert shown["before check"] == "Now: check the ext4 filesystem."
    assert shown["before mount"].startswith("Now: mount at /data/ckpt")


@pytest.mark.parametrize("instant", ["observe", "before check", "after check"])
async def test_volume_is_mounted_where_it_is_wanted_after_a_long_check(instant: str) -> None:
    """A path that changes while a filesystem is checked is where it is mounted, and the old one never."""
    volume = FakeVolume(VOLUME, content=EXT4)
    node = FakeNode(volume)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        at(node, instant, lambda: reconciler.set_wants({VOLUME: ELSEWHERE}))
        await wait_condition(board, Condition.READY)
    assert paths_of(volume) == ["/data/other"]


@pytest.mark.parametrize("instant", ["observe", "after check"])
async def test_volume_that_is_released_meanwhile_is_not_mounted(instant: str) -> None:
    """Once nothing is wanted of a volume, a pass that began before does nothing more with it."""
    volume = FakeVolume(VOLUME, content=EXT4)
    node = FakeNode(volume)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        at(node, instant, lambda: reconciler.set_wants({VOLUME: None}))
        await wait_condition(board, Condition.UNMANAGED)
        await anyio.wait_all_tasks_blocked()
    assert paths_of(volume) == []


async def test_error_of_the_policy_ends_a_pass_that_began_before_it() -> None:
    """Where the policy cannot say any more what is wanted of a volume, nothing more is done with it."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    unclear = AgentError("Two entries match.", reason=Reason.SEVERAL_ENTRIES)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        at(node, "before format", lambda: reconciler.set_wants({VOLUME: unclear}))
        status = await wait_for(board, lambda status: status.reason is Reason.SEVERAL_ENTRIES)
    assert (status.condition, volume.formats) == (Condition.FAILED, 0)


async def test_same_want_said_again_ends_no_pass() -> None:
    """A reload that changes nothing about a volume lets its pass go on, and its check is not made twice."""
    volume = FakeVolume(VOLUME, content=EXT4)
    node = FakeNode(volume)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        at(node, "after check", lambda: reconciler.set_wants({VOLUME: replace(WANTED)}))
        await wait_condition(board, Condition.READY)
    assert [action.kind for action in volume.executed].count("check") == 1


# -- The barrier ---------------------------------------------------------------------------------------------

UNMEANT = [
    RuntimeError("bad"),
    KeyError("bad"),
    AssertionError(),
    RecursionError("bad"),
    UnicodeDecodeError("utf-8", b"", 0, 1, "bad"),
]


def at_look(node: FakeNode, error: Exception | None) -> None:
    node.blind = error


def at_format(node: FakeNode, error: Exception | None) -> None:
    node.refuse_step = lambda action: error if isinstance(action, Format) else None


@pytest.mark.parametrize("error", UNMEANT, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("put", [at_look, at_format])
async def test_any_error_fails_its_volume_alone(
    put: Callable[[FakeNode, Exception | None], None], error: Exception
) -> None:
    """Whatever a look or a step raises is told of that volume as our fault, once in full, and tried again."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    put(node, error)
    with capture_logs() as logs:
        async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
            status = await wait_condition(board, Condition.FAILED)
            reconciler.wake(VOLUME, Cause.ORDER)
            await anyio.wait_all_tasks_blocked()
            put(node, None)
            reconciler.wake(VOLUME, Cause.ORDER)
            await wait_condition(board, Condition.READY)
    assert status.reason is Reason.INTERNAL_ERROR
    assert type(error).__name__ in status.message
    faults = [line for line in logs if line["event"] == "agent.fault"]
    assert [line["volume_id"] for line in faults] == [VOLUME]
    assert faults[0]["exc_info"] is error


async def test_volume_in_use_that_meets_a_fault_of_ours_is_failed() -> None:
    """Also a mounted volume is Failed where the agent is at fault: nothing it says of it can be relied on."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        node.blind = RuntimeError("bad")
        reconciler.wake(VOLUME, Cause.ORDER)
        status = await wait_condition(board, Condition.FAILED)
    assert (status.reason, status.path) == (Reason.INTERNAL_ERROR, "/data/ckpt")


@pytest.mark.parametrize("is_covered", [False, True])
async def test_volume_in_use_whose_step_is_refused_is_used_on(*, is_covered: bool) -> None:
    """It is Degraded, for the reason of the step, unless its path turns out to lead elsewhere."""
    kind = CoveredError if is_covered else RefusedError
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    node.refuse_step = lambda action: (
        kind("It cannot grow.", reason=Reason.NOT_GROWN, retryable=False)
        if isinstance(action, Tune)
        else None
    )
    wants = {VOLUME: replace(WANTED, tune=WantedTuning(scheduler="none"))}
    async with reconciling(node, wants) as (_, board):
        status = await wait_condition(board, Condition.REFUSED if is_covered else Condition.DEGRADED)
    assert (status.reason, status.path) == (Reason.NOT_GROWN, "/data/ckpt")


async def test_volume_in_use_whose_look_is_refused_is_refused() -> None:
    """What it is cannot be told then."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        node.blind = RefusedError("It is no EBS volume.", reason=Reason.NOT_EBS)
        reconciler.wake(VOLUME, Cause.ORDER)
        assert (await wait_condition(board, Condition.REFUSED)).reason is Reason.NOT_EBS


async def test_error_of_one_volume_stops_no_other() -> None:
    """While the agent fails at one volume, another becomes Ready."""
    bad_links = {Link(f"by-id/{OTHER}")}
    node = FakeNode(FakeVolume(OTHER), FakeVolume(VOLUME))
    node.refuse_step = lambda action: RuntimeError("bad") if action in bad_links else None
    async with reconciling(node, {OTHER: replace(WANTED, volume_id=OTHER), VOLUME: WANTED}) as (_, board):
        await wait_condition(board, Condition.READY)
        other = board.get(OTHER)
    assert other is not None
    assert other.reason is Reason.INTERNAL_ERROR


@pytest.mark.parametrize("put", [at_look, at_format])
async def test_device_that_answers_with_an_error_has_io_errors(
    put: Callable[[FakeNode, Exception | None], None],
) -> None:
    """An OSError that nobody expected is the device's, and no fault of the agent's own."""
    node = FakeNode(FakeVolume(VOLUME))
    put(node, OSError(errno.EIO, "Input/output error"))
    with capture_logs() as logs:
        async with reconciling(node, {VOLUME: WANTED}) as (_, board):
            status = await wait_condition(board, Condition.FAILED)
    assert (status.reason, "Input/output error" in status.message) == (Reason.IO_ERRORS, True)
    assert "agent.fault" not in [line["event"] for line in logs]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN])
@pytest.mark.parametrize("put", [at_look, at_format])
async def test_node_that_ran_out_of_something_says_nothing_of_the_volume(
    put: Callable[[FakeNode, Exception | None], None], number: int
) -> None:
    """Used up descriptors, memory and processes mean that a look brought nothing: it is made again."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    put(node, OSError(number, "used up"))
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        for _ in range(2):
            await anyio.wait_all_tasks_blocked()
            reconciler.wake(VOLUME, Cause.ORDER)
        status = await wait_for(board, lambda status: status.reason is Reason.NODE_EXHAUSTED)
        put(node, None)
        reconciler.wake(VOLUME, Cause.ORDER)
        await wait_condition(board, Condition.READY)
    assert status.condition is Condition.PENDING


async def test_memory_that_is_used_up_is_no_fault_of_the_volume() -> None:
    """A MemoryError is a shortage as well, and a volume in use stays usable."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        node.blind = MemoryError()
        for _ in range(2):
            reconciler.wake(VOLUME, Cause.ORDER)
            await anyio.wait_all_tasks_blocked()
        status = board.get(VOLUME)
    assert status is not None
    assert (status.condition, status.reason) == (Condition.DEGRADED, Reason.NODE_EXHAUSTED)


# -- Interruption --------------------------------------------------------------------------------------------


def make_pass(node: FakeNode, board: Board, memory: PassMemory, want: Want) -> Pass:
    context = Context(node, board, Counters(), "/dev/ebs", lambda: 0.0)
    return Pass(context, memory, VOLUME, lambda: want)


@pytest.mark.parametrize("instant", ["before format", "after format", "after check", "after mount"])
async def test_step_cut_off_is_interrupted_and_not_done(instant: str) -> None:
    """A step that shutdown cuts off is recorded as interrupted, whatever it was, and no event tells of it."""
    kind = instant.partition(" ")[2]
    volume = FakeVolume(VOLUME) if kind == "format" else FakeVolume(VOLUME, content=EXT4)
    node, board, memory = FakeNode(volume), Board(), PassMemory()
    with anyio.CancelScope() as scope:

        async def reach(name: str) -> None:
            if name == instant:
                scope.cancel()
                await anyio.sleep_forever()

        node.reach = reach
        await make_pass(node, board, memory, WANTED).run()
    assert memory.last_step is not None
    assert (memory.last_step.step, memory.last_step.outcome) == (kind, "interrupted")
    told = [event.fields.get("step") for event in board.history.latest()]
    assert kind not in told


async def test_step_that_was_overtaken_is_interrupted_and_not_failed() -> None:
    """A step left since something else is wanted is neither done nor failed."""
    volume = FakeVolume(VOLUME)
    node, board, memory = FakeNode(volume), Board(), PassMemory()
    wants: list[Want] = [WANTED]

    async def reach(name: str) -> None:
        if name == "before format":
            wants[0] = NEVER

    node.reach = reach
    context = Context(node, board, Counters(), "/dev/ebs", lambda: 0.0)
    outcome = await Pass(context, memory, VOLUME, lambda: wants[0]).run()
    assert (outcome.is_overtaken, outcome.needs_retry, volume.formats) == (True, True, 0)
    assert memory.last_step is not None
    assert memory.last_step.step == "format"
    assert memory.last_step.outcome.startswith("left")
    assert {event.name for event in board.history.latest()}.isdisjoint(
        {EventName.STEP_FAILED, EventName.VOLUME_FORMATTED}
    )


async def test_plan_for_showing_fails_for_one_volume_alone() -> None:
    """A plan is shown of every volume, also where the agent fails at one of them."""
    node = FakeNode(FakeVolume(VOLUME))
    node.blind = RuntimeError("bad")
    reconciler = Reconciler(node, Board(), Counters())
    reconciler.set_wants({})
    status = await reconciler.look(VOLUME)
    assert (status.condition, status.reason) == (Condition.FAILED, Reason.INTERNAL_ERROR)


# -- Looking for show ----------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nobody wait for long for a pass under way."""
    monkeypatch.setattr("agent.loop.reconcile.LOCK_PATIENCE_S", 0.01)
    monkeypatch.setattr("agent.loop.reconcile.LOOK_TIMEOUT_S", 0.05)


in_a_long_pass = pytest.mark.parametrize(
    ("instant", "doing"), [("before check", "check the ext4 filesystem"), ("observe", "look at it")]
)


def stop_at(node: FakeNode, instant: str) -> tuple[anyio.Event, anyio.Event]:
    """Have the first pass stop at an instant; return what tells that it is there, and what has it go on."""
    has_begun, may_go_on = anyio.Event(), anyio.Event()

    async def reach(name: str) -> None:
        if name == instant and not has_begun.is_set():
            has_begun.set()
            await may_go_on.wait()

    node.reach = reach
    return has_begun, may_go_on


@pytest.mark.usefixtures("impatient")
@in_a_long_pass
async def test_plan_does_not_wait_for_a_long_pass(instant: str, doing: str) -> None:
    """While a pass takes hours, a plan says how the volume was and what is done to it, of others all."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4), FakeVolume(OTHER, content=EXT4))
    has_begun, may_go_on = stop_at(node, instant)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await has_begun.wait()
        reconciler.set_wants({VOLUME: WANTED, OTHER: None})
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(30):
            shown = {status.volume_id: status for status in await reconciler.look_at_all()}
        busy, other = shown[VOLUME], shown[OTHER]
        assert doing in busy.message
        assert busy.condition is (Condition.PREPARING if instant == "before check" else Condition.PENDING)
        assert other.condition is Condition.UNMANAGED
        may_go_on.set()
        await wait_condition(board, Condition.READY)


@pytest.mark.usefixtures("impatient")
async def test_look_that_takes_too_long_is_given_up() -> None:
    """A look for a plan that hangs is answered with what is known, and leaves the volume to be looked at."""
    volume = FakeVolume(VOLUME, content=EXT4)
    node = FakeNode(volume)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        await anyio.wait_all_tasks_blocked()

        async def hang(_: str) -> None:
            await anyio.sleep_forever()

        node.reach = hang
        with anyio.fail_after(30):
            status = await reconciler.look(VOLUME)
        assert (status.condition, "took too long" in status.message) == (Condition.READY, True)
        assert not node.open_sessions


@in_a_long_pass
async def test_hold_does_not_wait_for_a_long_pass(instant: str, doing: str) -> None:
    """Who may not wait for hours is told what is under way; the volume can be held once that has ended."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    has_begun, may_go_on = stop_at(node, instant)
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await has_begun.wait()
        with pytest.raises(OccupiedError, match=doing) as raised:
            async with reconciler.hold(VOLUME, 0.01):
                pytest.fail("beside a pass")
        assert raised.value.retryable
        may_go_on.set()
        await wait_condition(board, Condition.READY)

        async def find_held() -> None:
            with pytest.raises(OccupiedError, match="something else"):
                async with reconciler.hold(VOLUME, 0.01):
                    pytest.fail("two at a time")

        async with reconciler.hold(VOLUME, 30), anyio.create_task_group() as tasks:
            tasks.start_soon(find_held)
        async with reconciler.hold(VOLUME, 0.01):
            pass


async def test_plan_looks_for_show_only() -> None:
    """What is shown is looked at without leave to change anything; what is done is looked at with it."""
    node = FakeNode(FakeVolume(VOLUME, content=EXT4))
    async with reconciling(node, {VOLUME: WANTED}) as (reconciler, board):
        await wait_condition(board, Condition.READY)
        await anyio.wait_all_tasks_blocked()
        assert not any(node.looks)
        node.looks.clear()
        await reconciler.look(VOLUME)
        assert node.looks == [True]


async def test_one_session_at_a_time_also_for_a_volume_nobody_follows() -> None:
    """Whoever holds or looks at a volume that is not followed keeps a pass from beginning beside it."""
    volume = FakeVolume(VOLUME, content=EXT4)
    node = FakeNode(volume)
    async with reconciling(node, {}) as (reconciler, board):
        async with reconciler.hold(VOLUME):
            assert VOLUME not in reconciler.list_volumes()
            reconciler.set_wants({VOLUME: WANTED})
            await anyio.wait_all_tasks_blocked()
            assert board.get(VOLUME) is None
        await wait_condition(board, Condition.READY)


async def test_volume_forgotten_meanwhile_is_held_by_one_at_a_time() -> None:
    """What follows a volume may end while others wait for it: those who come later wait with them."""
    volume = FakeVolume(VOLUME)
    node = FakeNode(volume)
    order: list[str] = []

    async with reconciling(node, {VOLUME: None}) as (reconciler, board):
        await wait_condition(board, Condition.UNMANAGED)

        async def hold(name: str, until: anyio.Event) -> None:
            async with reconciler.hold(VOLUME):
                order.append(name)
                await until.wait()

        first, second = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold, "first", first)
            await anyio.wait_all_tasks_blocked()
            volume.is_attached = False
            reconciler.set_wants({})
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(hold, "second", second)
            await anyio.wait_all_tasks_blocked()
            first.set()
            await anyio.wait_all_tasks_blocked()
            reconciler.set_wants({VOLUME: WANTED})
            await anyio.wait_all_tasks_blocked()
            second.set()
        assert order == ["first", "second"]
        await anyio.wait_all_tasks_blocked()
        assert not node.open_sessions
