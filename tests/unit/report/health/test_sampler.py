from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

import anyio
import pytest
import structlog.testing

from agent.core.errors import FrozenError, InconclusiveError, NotAnsweringError, ShortageError, VanishedError
from agent.core.model import Condition, DeviceNumber, Reason, VolumeId
from agent.core.replace import replace
from agent.node.kernel.disk_counters import BlockCounters
from agent.node.sampling.values import MountSample, Sample, SampleRequest
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.health.sampler import Sampler
from tests.unit.report.samples import CHECKPOINTS, DATASETS, GIB, READY, make_board, make_status
from tests.waiting import until

pytestmark = pytest.mark.anyio

MOUNT = MountSample(
    "/data/ckpt",
    "ext4",
    is_read_only=False,
    size_bytes=490 * GIB,
    avail_bytes=245 * GIB,
    files=10,
    files_free=5,
)
SAMPLE = Sample(
    DeviceNumber(259, 0), 500 * GIB, BlockCounters(1, 1, 1, 1, 1, 1, 0, 1), mount=MOUNT, probe_s=0.001
)


@dataclass
class FakeNode:
    """Volumes that answer with what the test put here; one that has nothing does not answer at all."""

    answers: dict[VolumeId, Sample | Exception] = field(default_factory=dict)
    asked: list[SampleRequest] = field(default_factory=list)
    together: list[Sequence[SampleRequest]] = field(default_factory=list)
    """What was asked by one call."""
    waiting: int = 0
    woken: list[VolumeId] = field(default_factory=list)
    """Which the sampler had looked at."""

    async def sample(self, request: SampleRequest, timeout_s: float) -> Sample:
        self.asked.append(request)
        answer = self.answers.get(request.volume)
        if answer is None:
            self.waiting += 1
            await anyio.sleep(timeout_s)
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        return answer

    async def sample_together(self, requests: Sequence[SampleRequest]) -> Mapping[VolumeId, Sample]:
        self.together.append(requests)
        answers = {request.volume: self.answers.get(request.volume) for request in requests}
        if None in answers.values():
            return {}
        return {volume: answer for volume, answer in answers.items() if isinstance(answer, Sample)}

    async def is_stuck(self, volume: VolumeId) -> bool:
        return isinstance(self.answers.get(volume), NotAnsweringError)


@dataclass
class FakeKernel:
    """A clock that moves when told to, and the counters of every device."""

    now: float = 0.0
    counters: BlockCounters | None = SAMPLE.counters
    peeks: int = 0

    def read_counters(self, _: DeviceNumber) -> BlockCounters | None:
        self.peeks += 1
        return self.counters


@asynccontextmanager
async def sampling(
    board: Board,
    node: FakeNode,
    kernel: FakeKernel | None = None,
    rest_intervals: int = 1_000_000,
    settle_s: float = 0.0,
) -> AsyncIterator[Sampler]:
    """Sample at every hundredth of a second; with a ``kernel`` of the test's, by its clock and counters."""
    sampler = Sampler(
        node,
        board,
        node.woken.append,
        interval_s=0.01,
        rest_intervals=rest_intervals,
        clock=monotonic if kernel is None else lambda: kernel.now,
        # Somebody is always at work, so that no volume is at rest.
        read_counters=(lambda _: None) if kernel is None else kernel.read_counters,
    )
    sampler.settle_s = settle_s
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sampler.run)
        yield sampler
        tasks.cancel_scope.cancel()


def condition(board: Board, volume: VolumeId = CHECKPOINTS) -> tuple[Condition, Reason | None]:
    status = board.get(volume)
    assert status is not None
    return status.condition, status.reason


async def test_verdict_is_on_the_board_and_an_event() -> None:
    """What sampling finds is the volume's condition, everywhere, and one event; gone, it is Ready again."""
    board = make_board(READY)
    node = FakeNode({CHECKPOINTS: replace(SAMPLE, mount=replace(MOUNT, avail_bytes=GIB))})
    async with sampling(board, node):
        await until(lambda: condition(board) == (Condition.DEGRADED, Reason.NEARLY_FULL))
        board.publish(READY)
        assert condition(board) == (Condition.DEGRADED, Reason.NEARLY_FULL)
        await until(lambda: len(node.asked) > 5)
    degraded = [event for event in board.history.latest() if event.name is EventName.VOLUME_DEGRADED]
    assert [event.fields["reason"] for event in degraded] == ["NearlyFull"]


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("bad")])
async def test_fault_at_the_counters_ends_no_sampling(error: Exception) -> None:
    """Where the kernel's counters cannot be read, volumes at rest are watched on."""
    board, node, kernel = make_board(READY), FakeNode({CHECKPOINTS: SAMPLE}), FakeKernel()
    answers: list[Exception] = [error]

    def read(number: DeviceNumber) -> BlockCounters | None:
        if answers:
            raise answers.pop()
        return kernel.read_counters(number)

    async with sampling(board, node, kernel) as sampler:
        sampler._read_counters = read
        await until(lambda: kernel.peeks > 1)
        assert not answers


@pytest.mark.parametrize("error", [RuntimeError("bad"), ShortageError("full", reason=Reason.NODE_EXHAUSTED)])
async def test_sample_that_could_not_be_taken_says_nothing_of_the_volume(error: Exception) -> None:
    """A fault of ours and a node that ran out of descriptors are no stall, and sampling goes on."""
    board, node = make_board(READY), FakeNode({CHECKPOINTS: error})
    async with sampling(board, node) as sampler:
        await until(lambda: len(node.asked) > 5)
        assert (condition(board), sampler.readings(CHECKPOINTS)) == ((Condition.READY, None), ())


async def test_worse_news_of_the_engine_wins() -> None:
    """A condition of the engine's that is worse, or not of a volume in use, is not covered by a verdict."""
    board = make_board(READY)
    node = FakeNode({CHECKPOINTS: replace(SAMPLE, mount=replace(MOUNT, avail_bytes=GIB))})
    async with sampling(board, node):
        await until(lambda: condition(board)[0] is Condition.DEGRADED)
        for told in (Condition.LOST, Condition.REFUSED, Condition.PREPARING):
            board.publish(make_status(condition=told))
            assert condition(board)[0] is told


async def test_stalled_volume_holds_up_no_other() -> None:
    """While one volume does not answer the others are sampled on, and it is asked one thing at a time."""
    board = make_board(READY, make_status(volume_id=DATASETS, name="datasets", path="/data/ckpt"))
    node = FakeNode({DATASETS: SAMPLE})
    async with sampling(board, node):
        await until(lambda: sum(request.volume == DATASETS for request in node.asked) > 10)
        assert node.waiting == 1


async def test_silence_is_stalled() -> None:
    """A volume with a question hanging in the kernel is Failed as Stalled, and keeps what it last said."""
    board = make_board(READY)
    node = FakeNode({CHECKPOINTS: SAMPLE})
    async with sampling(board, node):
        await until(lambda: (status := board.get(CHECKPOINTS)) and status.health)
        node.answers[CHECKPOINTS] = NotAnsweringError("It hangs.", reason=Reason.STALLED)
        await until(lambda: condition(board) == (Condition.FAILED, Reason.STALLED))
        status = board.get(CHECKPOINTS)
        assert status is not None
        assert status.usage is not None
        assert status.health is not None
        assert status.health.is_stalled


async def test_device_that_stays_out_of_reach_is_stalled() -> None:
    """A device the kernel cannot reach is looked at; only when that lasts is it said not to answer."""
    board, kernel = make_board(READY), FakeKernel(counters=None)
    node = FakeNode({CHECKPOINTS: replace(SAMPLE, counters=None)})
    async with sampling(board, node, kernel) as sampler:
        await until(lambda: sampler.readings(CHECKPOINTS))
        node.answers[CHECKPOINTS] = InconclusiveError("The kernel cannot reach it.")
        await until(lambda: len(node.woken) > 3)
        assert condition(board) == (Condition.READY, None)
        kernel.now = 10.0
        await until(lambda: condition(board) == (Condition.FAILED, Reason.STALLED))


async def test_frozen_filesystem_is_no_stalled_volume() -> None:
    """A call held up by a person's freeze makes it Frozen; answered again, it is Ready at once."""
    board = make_board(READY)
    node = FakeNode({CHECKPOINTS: SAMPLE})
    async with sampling(board, node):
        await until(lambda: node.asked)
        node.answers[CHECKPOINTS] = FrozenError("It waits.", reason=Reason.FROZEN)
        await until(lambda: condition(board) == (Condition.FAILED, Reason.FROZEN))
        node.answers[CHECKPOINTS] = SAMPLE
        await until(lambda: condition(board) == (Condition.READY, None))


async def test_volume_at_rest_is_left_alone() -> None:
    """A volume that is well and does nothing is asked nothing, until it does something."""
    node, kernel = FakeNode({CHECKPOINTS: SAMPLE}), FakeKernel()
    async with sampling(make_board(READY), node, kernel) as sampler:
        await until(lambda: kernel.peeks > 5)
        # Whoever draws or judges them sees that it has done nothing since.
        kernel.now = 15.0
        await until(lambda: sampler.readings(CHECKPOINTS)[-1].at == kernel.now)
        first, *_, last = sampler.readings(CHECKPOINTS)
        assert last == replace(first, at=kernel.now)
        assert len(node.asked) == 1
        kernel.counters = BlockCounters(2, 2, 2, 1, 1, 1, 0, 2)
        await until(lambda: len(node.asked) > 3)


async def test_volumes_at_rest_are_sampled_together() -> None:
    """One call asks all at rest, and what it finds is shown; who is unwell by it is sampled by itself."""
    board = make_board(READY, make_status(volume_id=DATASETS, name="datasets", path="/data/ckpt"))
    node, kernel = FakeNode({CHECKPOINTS: SAMPLE, DATASETS: SAMPLE}), FakeKernel()
    async with sampling(board, node, kernel, rest_intervals=2) as sampler:
        await until(lambda: len(node.together) > 1 and len(node.together[-1]) > 1)
        assert len(node.asked) == 2
        kernel.now = 15.0
        await until(lambda: sampler.readings(CHECKPOINTS)[-1].at == kernel.now)
        node.answers[CHECKPOINTS] = replace(SAMPLE, mount=replace(MOUNT, avail_bytes=GIB))
        await until(lambda: condition(board) == (Condition.DEGRADED, Reason.NEARLY_FULL))
        await until(lambda: len(node.asked) > 3)
        assert {request.volume for request in node.asked[2:]} == {CHECKPOINTS}


async def test_one_that_hangs_holds_up_the_others_for_a_moment() -> None:
    """Where a call for several brings nothing, each is asked by itself, and the others answer."""
    board = make_board(READY, make_status(volume_id=DATASETS, name="datasets", path="/data/ckpt"))
    node, kernel = FakeNode({CHECKPOINTS: SAMPLE, DATASETS: SAMPLE}), FakeKernel()
    async with sampling(board, node, kernel, rest_intervals=2):
        await until(lambda: any(len(requests) > 1 for requests in node.together))
        del node.answers[CHECKPOINTS]
        await until(lambda: node.waiting)
        count = len(node.together)
        await until(lambda: [request.volume for request in node.together[-1]] == [DATASETS])
        await until(lambda: len(node.together) > count + 2)
        assert node.waiting == 1


async def test_volume_that_leaves_in_the_middle_of_a_round_holds_up_no_other() -> None:
    """Those that come after it in the same round are sampled in it, and nothing is a fault."""
    volumes = [VolumeId(f"vol-{number:017x}") for number in range(20)]
    board = make_board(*(make_status(volume_id=volume, name=volume, path="/data/ckpt") for volume in volumes))
    node, kernel = FakeNode(dict.fromkeys(volumes, SAMPLE)), FakeKernel()

    async def sample_together(requests: Sequence[SampleRequest]) -> Mapping[VolumeId, Sample]:
        if not node.together:
            last = volumes[-1]
            board.publish(make_status(volume_id=last, name=last, device=None, condition=Condition.PENDING))
            await until(lambda: (status := board.get(last)) is not None and status.health is None)
        node.together.append(requests)
        return {request.volume: SAMPLE for request in requests}

    node.sample_together = sample_together  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as logs:
        async with sampling(board, node, kernel, rest_intervals=20):
            await until(lambda: len(node.together) > 1)
    asked = [[request.volume for request in requests] for requests in node.together[:2]]
    assert asked == [volumes[:16], volumes[16:19]]
    assert not [line for line in logs if line["event"] in {"agent.fault", "task.failed"}]


async def test_trial_write_is_a_call_of_its_own() -> None:
    """A volume that is tried by writing is sampled by itself at rest, too: it may be frozen."""
    node, kernel = FakeNode({CHECKPOINTS: SAMPLE}), FakeKernel()
    async with sampling(make_board(READY), node, kernel, rest_intervals=2) as sampler:
        sampler.may_write = True
        await until(lambda: len(node.asked) > 3)
        assert all(not request.may_write for requests in node.together for request in requests)


async def test_rest_is_not_for_ever() -> None:
    """A volume that does nothing is sampled now and then: nothing else shows that it has stalled."""
    node, kernel = FakeNode({CHECKPOINTS: SAMPLE}), FakeKernel()
    async with sampling(make_board(READY), node, kernel, rest_intervals=2):
        await until(lambda: len(node.together) > 3)
    assert kernel.peeks


@pytest.mark.parametrize(
    "sample",
    [
        replace(SAMPLE, mount=replace(MOUNT, avail_bytes=GIB)),
        replace(SAMPLE, counters=BlockCounters(1, 1, 1, 1, 1, 1, 1, 1)),
        replace(SAMPLE, counters=None),
    ],
    ids=["nearly full", "in flight", "not counted"],
)
async def test_volume_that_may_be_unwell_is_never_at_rest(sample: Sample) -> None:
    """With something wrong, something in flight or nothing known a volume is sampled at every interval."""
    node, kernel = FakeNode({CHECKPOINTS: sample}), FakeKernel(counters=sample.counters)
    async with sampling(make_board(READY), node, kernel):
        await until(lambda: len(node.asked) > 3)
    assert kernel.peeks == 0


async def test_mounted_volume_is_sampled_at_once() -> None:
    """A volume that was moved is sampled where it is now, at rest or not."""
    board, kernel = make_board(READY), FakeKernel()
    node = FakeNode({CHECKPOINTS: SAMPLE})
    async with sampling(board, node, kernel):
        await until(lambda: kernel.peeks)
        board.publish(make_status(path="/data/elsewhere"))
        await until(lambda: len(node.asked) == 2)
    assert [request.mount_path for request in node.asked] == ["/data/ckpt", "/data/elsewhere"]


@pytest.mark.parametrize("answer", [VanishedError("It is gone."), replace(SAMPLE, mount=None)])
async def test_contradiction_has_the_volume_looked_at(answer: Sample | Exception) -> None:
    """A volume that is not what the board says is looked at by the engine, and not judged."""
    board = make_board(READY)
    node = FakeNode({CHECKPOINTS: answer})
    async with sampling(board, node):
        await until(lambda: node.woken)
        assert condition(board) == (Condition.READY, None)


async def test_unmanaged_volume_is_touched_by_nothing() -> None:
    """Of a volume the policy does not name no filesystem is looked at and no block is read."""
    board = make_board(make_status(name=None, condition=Condition.UNMANAGED))
    node = FakeNode({CHECKPOINTS: replace(SAMPLE, mount=None)})
    async with sampling(board, node):
        await until(lambda: node.asked)
    assert {(r.mount_path, r.may_read, r.may_write) for r in node.asked} == {(None, False, False)}


async def test_volume_that_goes_takes_its_health_along() -> None:
    """A volume without a device is sampled no further, and shows no health of its former self."""
    board = make_board(READY)
    node = FakeNode({CHECKPOINTS: SAMPLE})
    async with sampling(board, node):
        await until(lambda: (status := board.get(CHECKPOINTS)) and status.health)
        board.publish(make_status(device=None, path=None, condition=Condition.PENDING))
        await until(lambda: (status := board.get(CHECKPOINTS)) and status.health is None)
        count = len(node.asked)
        await anyio.sleep(0.1)
        assert len(node.asked) <= count + 1


async def test_foreign_page_costs_one_line() -> None:
    """A device without EBS's statistics is said to be so once, and has none rather than zeros."""
    board = make_board(READY)
    node = FakeNode({CHECKPOINTS: replace(SAMPLE, log_page=bytes(4096))})
    with structlog.testing.capture_logs() as logs:
        async with sampling(board, node):
            await until(lambda: len(node.asked) > 5)
    assert [line["event"] for line in logs].count("statistics.absent") == 1
    status = board.get(CHECKPOINTS)
    assert status is not None
    assert status.health is not None
    assert status.health.statistics is None


async def test_volume_just_mounted_is_left_alone_for_a_moment() -> None:
    """Whoever waits for a mount has the processors first, and a sample comes later."""
    board = make_board(READY)
    node = FakeNode({CHECKPOINTS: SAMPLE})
    async with sampling(board, node, settle_s=3600.0):
        await anyio.wait_all_tasks_blocked()
        assert not node.asked
