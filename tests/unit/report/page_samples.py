"""A node whose page has something of everything, for tests of the page and for its pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from agent.core.model import (
    AwsChecks,
    Condition,
    NextCall,
    NodeFacts,
    NodePlace,
    Provisioned,
    Reason,
    SnapshotFacts,
    VolumeId,
)
from agent.core.replace import replace
from agent.node.sampling.ebs_statistics import Direction, EbsStatistics
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.board.readings import Health, Reading, Verdict
from agent.report.board.volume_status import VolumeStatus
from agent.report.health.trends import Mark, list_points, take_mark
from tests.unit.report.health.test_sampler import SAMPLE
from tests.unit.report.samples import CHECKPOINTS, GIB, READY, REFUSED, Clock, make_places, make_status

MIB = 1 << 20
MODELS = VolumeId("vol-00000000000000001")
SCRATCH = VolumeId("vol-00000000000000002")
CLAIM = VolumeId("vol-00000000000000003")
ROOT = VolumeId("vol-0a00000000000000f")
FULL = Verdict(
    Condition.DEGRADED,
    Reason.NEARLY_FULL,
    "/data/models is 96% full: 20 GiB left, and will be full in 42 min at this rate.",
    "Make room, or expand the volume: ebs-agent expand models SIZE",
)


def make_marks(volume: VolumeId, share: float = 1.0) -> tuple[Mark, ...]:
    """Return a quarter of an hour of a volume that is written to in bursts."""
    readings = []
    done, written, time_us = 0, 0, 0
    for number in range(60):
        wave = 1 + 0.18 * math.sin(number * 1.7 + ord(volume[-1])) + 0.1 * math.sin(number * 0.61)
        burst = wave * (2.6 if number % 20 < 7 else 0.8) * share
        done, written = done + round(15_000 * burst), written + round(900 * burst * MIB)
        time_us += round(15_000 * burst * (520 + 260 * burst))
        statistics = EbsStatistics(
            Direction(done // 3, written // 4, time_us // 4),
            Direction(done, written, time_us),
            0,
            0,
            0,
            0,
            round(3 * burst),
        )
        readings.append(Reading(number * 15.0, SAMPLE, statistics, SAMPLE.counters))
    return tuple(map(take_mark, readings))


def make_node(now: datetime | None = None) -> Board:
    """Return a node with one volume of each kind, as it is at ``now``."""
    clock = Clock()
    if now is not None:
        clock.now = now
    ready_at, stalled_at = clock.now - timedelta(hours=7), clock.now - timedelta(minutes=14)
    board = Board(now=clock)
    scratch = make_status(
        volume_id=SCRATCH, name="scratch", path="/data/scratch", device="/dev/nvme4n1", size_bytes=500 * GIB
    )
    models = make_status(volume_id=MODELS, name="models", path="/data/models", device="/dev/nvme3n1")
    claim = make_status(
        volume_id=CLAIM, name="k8s/pvc-logs", path="/data/logs", device="/dev/nvme5n1", is_required=False
    )
    clock.now = ready_at
    _publish(board, READY, REFUSED, models, scratch, claim)
    board.publish(
        make_status(
            volume_id=ROOT,
            name=None,
            path=None,
            fstype=None,
            condition=Condition.UNMANAGED,
            reason=Reason.NOT_IN_POLICY,
            message=f"No entry of the policy matches {ROOT}.",
            device="/dev/nvme0n1",
            size_bytes=100 * GIB,
            usage=None,
            is_required=False,
        )
    )
    board.finish_first_look()
    clock.now = stalled_at - timedelta(minutes=24)
    _publish(
        board, replace(scratch, condition=Condition.DEGRADED, reason=Reason.TOO_SLOW, message="It is slow.")
    )
    clock.now += timedelta(minutes=9)
    mount = replace(SAMPLE.mount, avail_bytes=20 * GIB, path="/data/models") if SAMPLE.mount else None
    board.judge(MODELS, Health(replace(SAMPLE, mount=mount), None, (FULL,), 0.001))
    board.record(EventName.VOLUME_DEGRADED, MODELS, reason="NearlyFull", message=FULL.message)
    board.statuses()
    clock.now = stalled_at
    _publish(
        board,
        replace(
            scratch,
            condition=Condition.FAILED,
            reason=Reason.STALLED,
            message="scratch has 12 operations in flight and completed none for 2 min.",
            hint="Processes that use it hang until it answers. See the volume's status checks.",
        ),
    )
    board.record(EventName.VOLUME_FAILED, SCRATCH, reason="Stalled", message="scratch does not answer.")
    clock.now = stalled_at + timedelta(minutes=14)
    _put_cloud(board, clock())
    board.record(EventName.SNAPSHOT_TAKEN, CHECKPOINTS, text="snap-0123456789abcdef0")
    return board


def _put_cloud(board: Board, now: datetime) -> None:
    facts = NodeFacts("compute-nodes-1", "compute-nodes", "i-0123456789abcdef0", "abcdef012345")
    board.place = NodePlace(facts, "us-west-2b", "ip-10-1-2-3")
    board.put_persistent_volumes({CLAIM: "pvc-2f1c9a66-8d0e-4d0c-9a53-0f6f2f0c7c11"})
    board.put_claims({CLAIM: "training/logs"})
    gp3 = {one: Provisioned(3000, 250) for one in (CHECKPOINTS, MODELS, SCRATCH, CLAIM)}
    board.explain_by_cloud({}, {}, None, None, gp3)
    last, due = now - timedelta(hours=5), now + timedelta(hours=1)
    board.put_snapshots({CHECKPOINTS: SnapshotFacts("checkpoints", last, due, 7)})
    board.put_checks({CHECKPOINTS: AwsChecks("ok", is_io_enabled=True, io_performance="normal")})
    call = NextCall("checkpoints", CHECKPOINTS, "CreateSnapshot", "take a snapshot of checkpoints", due)
    board.put_calls((call,), make_places("ml.p5.48xlarge"))


def _publish(board: Board, *statuses: VolumeStatus) -> None:
    for status in statuses:
        board.publish(status)
    board.statuses()


def make_fleet(count: int, is_unwell: Callable[[int], bool] = lambda n: n % 7 == 0) -> Board:
    """Return a node with so many volumes, of which some are nearly full."""
    board = Board(now=Clock())
    for number in range(count):
        status = make_status(
            volume_id=VolumeId(f"vol-0{number:016x}"),
            name=f"dataset-{number:03d}",
            path=f"/data/sets/{number:03d}",
            device=f"/dev/nvme{number + 1}n1",
        )
        if is_unwell(number):
            status = replace(status, condition=FULL.condition, reason=FULL.reason)
            status = replace(status, message=FULL.message, hint=FULL.hint)
        board.publish(status)
        board.record(
            EventName.VOLUME_MOUNTED, VolumeId(f"vol-0{number:016x}"), text=f"mount at /data/sets/{number}"
        )
    _put_cloud(board, datetime(2026, 1, 2, 12, 0, tzinfo=timezone.utc))
    board.finish_first_look()
    return board


def make_trends(board: Board) -> dict[str, list[dict[str, object]]]:
    """Return the points of the charts of every volume."""
    ids = [status.volume_id for status in board.statuses() if status.volume_id]
    return {volume: list_points(make_marks(volume, (n % 5 + 1) / 5)) for n, volume in enumerate(ids)}
