"""Samples every volume at an interval, judges what it finds, and puts the verdict on the board.

It changes nothing on a volume; where one is not what the board says, it has it looked at. Each volume has its
own task, and each sample is one call to a worker that may be abandoned: one that does not answer holds up
nobody, and is asked nothing further until it does.

A volume at rest costs less: while the kernel counts no I/O of anybody's and nothing is wrong, it is sampled
only now and then, with others by one call. One task looks at the counters of all such volumes, and wakes
those that do something, and those of a call that was not answered.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from agent.base.error_barrier import Barrier, supervise
from agent.base.log import get_logger
from agent.core.errors import (
    AgentError,
    BugError,
    FrozenError,
    InconclusiveError,
    NotAnsweringError,
    ShortageError,
)
from agent.core.model import Condition, DeviceNumber, VolumeId
from agent.core.replace import replace
from agent.node.kernel.disk_counters import BlockCounters, read_block_counters
from agent.node.sampling.ebs_statistics import EbsStatistics, ForeignPageError, parse_statistics
from agent.node.sampling.values import Sample, SampleRequest
from agent.report.board.board import Board
from agent.report.board.readings import Health, Reading, strip_reading
from agent.report.board.transitions import record_transition
from agent.report.board.volume_status import VolumeStatus
from agent.report.health.make_request import make_request
from agent.report.health.track import Track, is_well
from agent.report.health.verdicts import Subject, judge

INTERVAL_S = 15.0
SAMPLE_TIMEOUT_S = 10.0
REST_INTERVALS = 4
"""A volume at rest is sampled at every so many intervals. Nothing but a read of the agent's own shows that
such a one has stalled, so this is also how long that may go unseen."""
AT_ONCE = 16
"""How many volumes at rest are sampled by one call."""
TURN_S = 0.5
"""How long the others at rest wait for one that is sampled in its turn."""
SETTLE_S = 0.25
"""How long a volume that was just mounted or moved is left alone: whoever waits for it is served first."""
log = get_logger(__name__)


class SampledNode(Protocol):
    """What the sampler needs of this machine."""

    async def sample(self, request: SampleRequest, timeout_s: float) -> Sample:
        """Sample one volume, or raise; NotAnsweringError where it does not answer in time."""

    async def sample_together(self, requests: Sequence[SampleRequest]) -> Mapping[VolumeId, Sample]:
        """Sample volumes by one call; those that did not give what is asked of them are left out."""

    async def is_stuck(self, volume: VolumeId) -> bool:
        """Tell whether someone who asked the volume something hangs in the kernel since."""


class Sampler:
    """Follows the volumes on the board that have a device."""

    def __init__(
        self,
        node: SampledNode,
        board: Board,
        wake: Callable[[VolumeId], None],
        interval_s: float = INTERVAL_S,
        rest_intervals: int = REST_INTERVALS,
        clock: Callable[[], float] = monotonic,
        read_counters: Callable[[DeviceNumber], BlockCounters | None] = read_block_counters,
    ) -> None:
        self.interval_s = interval_s
        self.settle_s = SETTLE_S
        self.may_write = False
        """Whether to try every filesystem that is to be written to with a nameless file."""
        self._node = node
        self._board = board
        self._wake = wake
        self._rest_intervals = rest_intervals
        self._clock = clock
        self._read_counters = read_counters
        self._tracks: dict[VolumeId, Track] = {}
        self._barrier = Barrier()

    def readings(self, volume_id: VolumeId) -> tuple[Reading, ...]:
        """Return what is kept of a volume's readings, oldest first."""
        track = self._tracks.get(volume_id)
        return () if track is None else tuple(track.readings)

    async def run(self) -> None:
        """Sample until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tracks.clear()
            tasks.start_soon(supervise, "watch volumes at rest", self._watch_resting, name="volumes at rest")
            with self._board.subscribe() as changes:
                for status in self._board.statuses():
                    self._heed(status.volume_id, status, tasks)
                async for change in changes:
                    self._heed(change.volume_id, change.status, tasks)

    def _heed(self, volume: VolumeId | None, status: VolumeStatus | None, tasks: TaskGroup) -> None:
        """Begin to sample a volume that has come, and sample one soon that was mounted or moved."""
        if volume is None:
            return
        track = self._tracks.get(volume)
        if track is not None and status is not None and status.condition is Condition.PREPARING:
            # It is back in use in a moment. What was learnt of it is kept, and is then looked at again.
            track.is_changing = True
            return
        request = None if status is None else make_request(status, may_write=self.may_write)
        if track is None:
            if request is None:
                return
            track = self._tracks[volume] = Track()
            tasks.start_soon(self._follow, volume, track, name=f"health of {volume}")
        if request != track.request or track.is_changing:
            track.request = request
            track.is_changing = False
            track.was_changed = True
            track.wake.set()

    async def _follow(self, volume: VolumeId, track: Track) -> None:
        while track.request is not None:
            track.wake = anyio.Event()
            if track.was_changed:
                track.was_changed = False
                await anyio.sleep(self.settle_s)
                continue
            try:
                self._judge(volume, track, await self._read(track.request, track))
            except Exception as error:  # noqa: BLE001 -- the barrier of one volume's health
                self._barrier.explain(error, f"sample how {volume} is", volume_id=volume)
            track.sampled.set()
            await self._pause(track)
        del self._tracks[volume]
        self._board.judge(volume, None)

    async def _pause(self, track: Track) -> None:
        """Wait until the volume is to be sampled again: for an interval, and at rest until woken."""
        # Never quite as long, so that volumes that came or woke together do not stay in step.
        pause_s = self.interval_s * random.uniform(0.8, 1.2)  # noqa: S311 -- no secret
        with anyio.move_on_after(math.inf if track.rests else pause_s):
            await track.wake.wait()
        track.rests = False

    async def _watch_resting(self) -> None:
        """Wake volumes at rest that do something; of the others note that time has passed.

        At every so many intervals sample them: those alone, one after the other, for which one call for
        several is not enough.
        """
        for number in itertools.count(1):
            await anyio.sleep(self.interval_s)
            resting = [volume for volume, track in self._tracks.items() if track.rests]
            if number % self._rest_intervals == 0:
                for begin in range(0, len(resting), AT_ONCE):
                    await self._sample_resting(resting[begin : begin + AT_ONCE])
                continue
            for volume in resting:
                track = self._tracks.get(volume)
                if track is None or not track.rests:
                    continue
                if self._is_untouched(track):
                    track.readings.append(replace(track.readings[-1], at=self._clock()))
                else:
                    await self._sample_alone(track)

    async def _sample_resting(self, volumes: Sequence[VolumeId]) -> None:
        # Since they were listed those before them were sampled: some may have left or done something.
        asked = {
            volume: track.request
            for volume in volumes
            if (track := self._tracks.get(volume)) and track.rests and track.request
        }
        # What is written to by a trial may be frozen, which is found out by a call of its own.
        together = [request for request in asked.values() if not request.may_write]
        samples = await self._node.sample_together(together) if together else {}
        for volume, request in asked.items():
            track, sample = self._tracks.get(volume), samples.get(volume)
            if track is None or not track.rests or track.request != request:
                continue
            if sample is None:
                await self._sample_alone(track)
                continue
            try:
                self._judge(volume, track, self._understand(request, track, sample))
            except Exception as error:  # noqa: BLE001 -- the barrier of one volume's health
                self._barrier.explain(error, f"judge how {volume} is", volume_id=volume)
            self._wake_restless(track)

    async def _sample_alone(self, track: Track) -> None:
        """Have a volume at rest sampled by its own task; whoever waits for it does so for a moment."""
        track.sampled = anyio.Event()
        track.wake.set()
        with anyio.move_on_after(TURN_S):
            await track.sampled.wait()

    def _wake_restless(self, track: Track) -> None:
        """Have a volume sampled by its own task again where the last sample has found it at rest no more."""
        if not track.rests:
            track.wake.set()

    def _judge(self, volume: VolumeId, track: Track, reading: Reading | None) -> None:
        if reading is not None and track.request is not None:
            self._put(volume, track, reading)
        track.rests = reading is not None and is_well(track)

    def _is_untouched(self, track: Track) -> bool:
        """Tell whether the kernel counted nothing of a volume's since it was sampled last."""
        newest = track.readings[-1]
        return (
            newest.sample is not None and self._read_counters(newest.sample.device_number) == newest.counters
        )

    async def _read(self, request: SampleRequest, track: Track) -> Reading | None:
        """Return what sampling brought; None where it says nothing about the volume's health."""
        try:
            sample = await self._node.sample(request, SAMPLE_TIMEOUT_S)
        except NotAnsweringError as error:
            is_stuck = await self._node.is_stuck(request.volume)
            known = track.health.sample
            counters = None if known is None else self._read_counters(known.device_number)
            return Reading(
                self._clock(),
                counters=counters,
                is_stuck=is_stuck,
                is_frozen=isinstance(error, FrozenError),
                may_be_frozen=error.may_be_frozen,
            )
        except ShortageError as error:
            log.debug("sample.failed", volume_id=request.volume, error=str(error))
            return None
        except InconclusiveError:
            # The kernel cannot reach it: for a moment, or for so long that this is how it does not answer.
            self._wake(request.volume)
            return Reading(self._clock())
        except BugError:
            raise
        except (AgentError, OSError) as error:
            # It went away, or is not what it was: the next look at it says so, with all that follows.
            log.debug("sample.failed", volume_id=request.volume, error=str(error))
            self._wake(request.volume)
            return None
        return self._understand(request, track, sample)

    def _understand(self, request: SampleRequest, track: Track, sample: Sample) -> Reading | None:
        if request.mount_path is not None and sample.mount is None:
            self._wake(request.volume)
            return None
        statistics = self._parse(request.volume, track, sample)
        return Reading(self._clock(), sample, statistics, sample.counters)

    def _parse(self, volume: VolumeId, track: Track, sample: Sample) -> EbsStatistics | None:
        """Return the log page's statistics; say once where it has none, or stops having them."""
        problem = sample.log_page_error
        statistics = None
        if sample.log_page is not None:
            try:
                statistics = parse_statistics(sample.log_page)
            except ForeignPageError as error:
                problem = f"The log page is not EBS's: {error}."
        if problem is not None and track.log_page_problem is None:
            log.info("statistics.absent", volume_id=volume, why=problem)
        track.log_page_problem = problem
        return statistics

    def _put(self, volume: VolumeId, track: Track, reading: Reading) -> None:
        old = self._board.get(volume)
        if old is None:
            return
        slim = strip_reading(reading)
        track.readings.append(slim)
        provisioned = self._board.provisioned.get(volume)
        subject = Subject(old.label, old.wants_read_only, old.wants_growth, provisioned)
        track.verdicts = judge(track.readings, subject, track.verdicts)
        if slim.sample is None:
            # What it said last is shown on, beside the verdict that it says nothing now.
            track.health = replace(track.health, verdicts=track.verdicts, probe_s=SAMPLE_TIMEOUT_S)
        else:
            track.health = Health(slim.sample, reading.statistics, track.verdicts, slim.sample.probe_s)
        self._board.judge(volume, track.health)
        new = self._board.get(volume)
        if new is not None:
            record_transition(self._board, old, new)
