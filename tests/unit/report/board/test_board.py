from __future__ import annotations

import anyio
import pytest
import structlog

from agent.core.model import Attachments, Condition, Expected, Reason, VolumeId
from agent.core.replace import replace
from agent.report.board.board import Board
from agent.report.board.changes import MAX_PENDING_CHANGES, Change
from agent.report.board.events import EventHistory, EventName
from agent.report.board.readings import Health, Verdict
from tests.unit.report.samples import (
    CHECKPOINTS,
    DATASETS,
    NOON,
    READY,
    REFUSED,
    Clock,
    make_board,
    make_places,
    make_status,
)

pytestmark = pytest.mark.anyio


def test_since_is_when_the_condition_began() -> None:
    """A volume's ``since`` moves with its condition and reason, and with nothing else."""
    clock = Clock()
    board = Board(now=clock)
    board.publish(READY)
    clock.pass_s(60)
    board.publish(make_status(size_bytes=1))
    kept = board.get(CHECKPOINTS)
    board.publish(make_status(condition=Condition.DEGRADED, reason=Reason.NEARLY_FULL))
    moved = board.get(CHECKPOINTS)
    assert kept is not None
    assert moved is not None
    assert kept.since == NOON
    assert moved.since == clock.now


async def test_reader_sees_the_newest_state_once() -> None:
    """A slow reader is told of each volume's newest state, not of every state on the way."""
    board = make_board()
    with board.subscribe() as changes:
        for size_bytes in range(10):
            board.publish(make_status(size_bytes=size_bytes))
        board.publish(REFUSED)
        first, second = await anext(changes), await anext(changes)
        with anyio.move_on_after(0.01) as nothing_more:
            await anext(changes)
    assert first.status is not None
    assert first.status.size_bytes == 9
    assert second.volume_id == DATASETS
    assert nothing_more.cancelled_caught


async def test_reading_may_be_given_up_and_taken_up_again() -> None:
    """A reader that was cancelled while waiting still gets what comes afterwards."""
    board = make_board()
    with board.subscribe() as changes:
        with anyio.move_on_after(0.001):
            await anext(changes)
        board.publish(READY)
        with anyio.fail_after(1):
            change = await anext(changes)
    assert change.volume_id == CHECKPOINTS


async def test_removal_is_told() -> None:
    """Who follows the board hears that a volume is gone, and of the node as a whole."""
    board = make_board(READY)
    with board.subscribe() as changes:
        board.remove(CHECKPOINTS)
        board.remove(CHECKPOINTS)
        board.finish_first_look()
        with anyio.fail_after(1):
            assert await anext(changes) == Change(CHECKPOINTS, None)
            assert await anext(changes) == Change(None, None)


async def test_same_state_is_no_news() -> None:
    """Publishing what is already known tells nobody."""
    board = make_board(READY)
    with board.subscribe() as changes:
        board.publish(READY)
        with anyio.move_on_after(0.01) as nothing:
            await anext(changes)
    assert nothing.cancelled_caught


async def test_reader_that_never_reads_costs_bounded_memory() -> None:
    """However many volumes come and go, a subscription holds only so many changes, the newest."""
    board = make_board()
    with board.subscribe() as changes:
        for number in range(MAX_PENDING_CHANGES + 5):
            board.publish(make_status(volume_id=VolumeId(f"vol-{number:017x}")))
        oldest = await anext(changes)
    assert oldest.volume_id == f"vol-{5:017x}"


def test_expected_volume_is_shown_before_it_comes() -> None:
    """A policy entry without a volume is shown as Pending, until a volume has its name or ID."""
    board = make_board(READY)
    board.expect([Expected("checkpoints", None, True), Expected("datasets", DATASETS, False)])
    waiting = board.find("datasets")
    assert waiting is not None
    assert (waiting.condition, waiting.reason) == (Condition.PENDING, Reason.NOT_ATTACHED)
    assert [status.label for status in board.statuses()] == ["checkpoints", "datasets"]
    board.publish(REFUSED)
    assert [status.condition for status in board.statuses()] == [Condition.READY, Condition.REFUSED]


@pytest.mark.parametrize("text", [CHECKPOINTS, "checkpoints", "/dev/nvme1n1", "/data/ckpt", "/data/ckpt/"])
def test_volume_is_found_by_what_people_type(text: str) -> None:
    """A volume answers to its ID, its policy name, its device and its path."""
    found = make_board(READY, REFUSED).find(text)
    assert found is not None
    assert found.volume_id == CHECKPOINTS


def test_a_place_that_two_volumes_have_is_neither_s() -> None:
    """Where a device or a path is said of two volumes, nothing is done to one of them by chance."""
    board = make_board(READY, replace(REFUSED, path=READY.path))
    assert board.find(str(READY.path)) is None
    assert board.find("") is None
    assert board.find("/") is None


def test_event_is_one_object_for_log_and_history() -> None:
    """A recorded event is in the history and, under the same name and keys, in the log."""
    board = make_board()
    with structlog.testing.capture_logs() as lines:
        event = board.record(EventName.VOLUME_LOST, CHECKPOINTS, path="/data/ckpt")
    assert board.history.latest() == (event,)
    assert lines == [
        {
            "event": "volume.lost",
            "log_level": "error",
            "volume_id": CHECKPOINTS,
            "path": "/data/ckpt",
        }
    ]


async def test_history_is_bounded_and_says_what_it_forgot() -> None:
    """Old events make room for new ones; the numbers of those left show the gap."""
    board = Board(EventHistory(capacity=3), now=Clock())
    for _ in range(5):
        board.record(EventName.VOLUME_READY, CHECKPOINTS)
    assert [event.number for event in board.history.latest()] == [3, 4, 5]
    assert [event.number for event in board.history.latest(2)] == [4, 5]


async def test_follower_gets_kept_and_coming_events_once_each() -> None:
    """Following after a number yields every later event exactly once, in order."""
    board = make_board()
    for _ in range(3):
        board.record(EventName.VOLUME_READY, CHECKPOINTS)
    seen: list[int] = []
    async with anyio.create_task_group() as tasks:

        async def follow() -> None:
            async for event in board.history.follow(after=1):
                seen.append(event.number)
                if event.number == 5:
                    tasks.cancel_scope.cancel()

        tasks.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        board.record(EventName.VOLUME_READY, CHECKPOINTS)
        board.record(EventName.VOLUME_READY, CHECKPOINTS)
    assert seen == [2, 3, 4, 5]


def test_what_happens_once_is_known() -> None:
    """An event of a kind that happens once is found among those kept, by what it is about."""
    board = Board()
    board.record(EventName.SNAPSHOT_TAKEN, CHECKPOINTS, snapshot_id="snap-1")
    board.record(EventName.VOLUME_MODIFIED, CHECKPOINTS)
    history = board.history
    assert history.has_once(EventName.SNAPSHOT_TAKEN, CHECKPOINTS, "snap-1")
    assert not history.has_once(EventName.SNAPSHOT_TAKEN, CHECKPOINTS, "snap-2")
    assert not history.has_once(EventName.SNAPSHOT_DELETED, CHECKPOINTS, "snap-1")
    assert not history.has_once(EventName.VOLUME_MODIFIED, CHECKPOINTS, None)


def count_places(board: Board) -> int | None:
    attachments = board.attachments
    return None if attachments is None else attachments.used


def test_places_are_taken_as_soon_as_a_volume_is_here() -> None:
    """AWS is asked again after it has come, and what is shown meanwhile counts it; who waits has none."""
    board = make_board(READY)
    assert count_places(board) is None
    board.put_calls((), make_places("m5.large"))
    assert count_places(board) == 2
    board.publish(REFUSED)
    assert count_places(board) == 3
    board.publish(make_status(REFUSED, device=None))
    assert count_places(board) == 2


def test_number_of_places_stays_where_aws_is_asked_no_more() -> None:
    """It is the instance type's; who had one, as far as AWS knew, is not known any more."""
    board = make_board(READY)
    board.put_calls((), make_places("m5.large"))
    board.put_calls((), None)
    assert board.attachments == Attachments("m5.large", 1, 27, is_shared=True)


def test_two_explanations_of_the_same_are_both_shown() -> None:
    """The engine knows what is in the way, sampling how bad it is; what is worse otherwise goes first."""
    board = make_board(
        make_status(condition=Condition.DEGRADED, reason=Reason.READ_ONLY, message="A.", hint="B.")
    )
    worse = Verdict(Condition.FAILED, Reason.READ_ONLY, "C.", "B.")
    board.judge(CHECKPOINTS, Health(verdicts=(worse,)))
    shown = board.get(CHECKPOINTS)
    assert shown is not None
    assert (shown.condition, shown.message, shown.hint) == (Condition.FAILED, "A. C.", "B.")
    board.judge(CHECKPOINTS, Health(verdicts=(replace(worse, reason=Reason.SHUT_DOWN, hint="D."),)))
    other = board.get(CHECKPOINTS)
    assert other is not None
    assert (other.reason, other.message, other.hint) == (Reason.SHUT_DOWN, "C.", "D.")
