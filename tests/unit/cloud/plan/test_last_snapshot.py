"""Which snapshot a volume is deleted on the strength of: one that holds all that was ever written to it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from agent.cloud.aws.calls import CreateSnapshot, DeleteVolume
from agent.cloud.aws.models import CloudSnapshot, CloudVolume
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.plan.claims.claim_removed import plan_removed
from agent.cloud.plan.claims.last_snapshot import AGAIN_PAUSE, FAILED_PAUSE, TAG_FINAL
from agent.cloud.plan.claims.orphan_expiry import OrphanTimes, plan_orphan
from agent.cloud.plan.claims.wanted_volume import WantedVolume
from agent.cloud.plan.decisions import AttachApi, Decision, Do, NodeView
from agent.core.model import Reason, VolumeId
from agent.core.steps import Wait

VOLUME = VolumeId("vol-0123456789abcdef0")
NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)
ARN = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
IDENTITY = CloudIdentity(ARN, "compute", "compute-1", "i-0123456789abcdef0", "us-west-2")
NODE = NodeView(IDENTITY, AttachApi.HYPERPOD)
WANTED = WantedVolume("ckpt", "abcde01234yz", "compute-1", "us-west-2a", "gp3", 5, on_delete="snapshot")

Plan = Callable[[tuple[CloudSnapshot, ...], "str | None"], "Decision | None"]


def make_volume(*marks: tuple[str, str]) -> CloudVolume:
    return CloudVolume(VOLUME, "available", 5, "gp3", "us-west-2a", tags=(*WANTED.all_tags, *marks))


def plan_without_claim(snapshots: tuple[CloudSnapshot, ...], begun: str | None) -> Decision | None:
    volume = make_volume(("ebs-agent:delete-after", f"{NOW - DAY:%Y-%m-%dT%H:%M:%SZ}"))
    return plan_removed(volume, snapshots, NODE, is_released=False, now=NOW, deadline=NOW, begun=begun)


def plan_unheld(snapshots: tuple[CloudSnapshot, ...], begun: str | None) -> Decision | None:
    volume = make_volume(("ebs-agent:unheld", OrphanTimes(NOW - 8 * DAY, NOW - DAY).write()))
    return plan_orphan(volume, 7 * DAY, snapshots, NOW, begun)


each_departure = pytest.mark.parametrize("plan", [plan_without_claim, plan_unheld])


def take(number: int, state: str, begun_at: datetime) -> CloudSnapshot:
    tags = ((TAG_FINAL, str(VOLUME)), ("ebs-agent:made-by", "ebs-agent"))
    return CloudSnapshot(f"snap-{number}", VOLUME, state, begun_at.isoformat(), 40, tags=tags)


def is_another(decision: Decision | None) -> bool:
    return isinstance(decision, Do) and isinstance(decision.call, CreateSnapshot)


@each_departure
@pytest.mark.parametrize("age", [timedelta(hours=1), 2 * DAY, 300 * DAY], ids=str)
@pytest.mark.parametrize("begun", [None, "snap-8"])
def test_last_snapshot_of_before_does_not_count(plan: Plan, age: timedelta, begun: str | None) -> None:
    """One that completed is nothing to go by, however new, unless the volume was free ever since it began."""
    assert is_another(plan((take(1, "completed", NOW - age),), begun))


@each_departure
def test_volume_goes_on_the_snapshot_since_which_it_was_free(plan: Plan) -> None:
    """Beside whatever others there are: pending, failed or of an earlier time."""
    others = take(1, "completed", NOW - 300 * DAY), take(2, "pending", NOW), take(3, "error", NOW)
    assert plan((*others, take(4, "completed", NOW)), "snap-4") == Do(DeleteVolume(VOLUME))


@each_departure
@pytest.mark.parametrize("begun", [None, "snap-1"])
def test_snapshot_under_way_is_waited_for(plan: Plan, begun: str | None) -> None:
    """Whoever began it: no other is begun meanwhile."""
    decision = plan((take(1, "pending", NOW),), begun)
    assert isinstance(decision, Wait)
    assert "40 %" in decision.message


@each_departure
def test_failed_snapshot_is_told_and_not_repeated_soon(plan: Plan) -> None:
    """The volume stays, with the reason; another is begun after hours, or where one did well since."""
    decision = plan((take(1, "error", NOW - FAILED_PAUSE / 2),), "snap-1")
    assert isinstance(decision, Wait)
    assert decision.reason is Reason.CLOUD_ERROR
    assert "snap-1" in decision.message
    assert is_another(plan((take(1, "error", NOW - FAILED_PAUSE),), "snap-1"))
    assert is_another(plan((take(1, "error", NOW - DAY / 24), take(2, "completed", NOW)), None))


@each_departure
@pytest.mark.parametrize("begun", [None, "snap-99"])
@pytest.mark.parametrize(("taken", "pauses"), [(2, 1), (3, 2), (4, 4), (7, 32), (50, 32)])
def test_each_further_snapshot_is_later(plan: Plan, begun: str | None, taken: int, pauses: int) -> None:
    """Several nodes, restarts and deletions that fail do not make many of them, and it is told until when."""

    def plan_after(age: timedelta) -> Decision | None:
        return plan(tuple(take(one, "completed", NOW - age - one * DAY) for one in range(taken)), begun)

    decision = plan_after(AGAIN_PAUSE * pauses - timedelta(seconds=1))
    assert isinstance(decision, Wait)
    assert f"{taken} last snapshots" in decision.message
    assert f"{NOW + timedelta(seconds=1):after %Y-%m-%d %H:%M}" in decision.message
    assert is_another(plan_after(AGAIN_PAUSE * pauses))


@each_departure
def test_what_is_waited_for_is_no_obstacle_to_the_deletion(plan: Plan) -> None:
    """However many there are, one that holds all of the volume is enough."""
    taken = tuple(take(one, "completed", NOW) for one in range(9))
    assert plan(taken, "snap-3") == Do(DeleteVolume(VOLUME))
