"""Rules about AWS's own status checks, which see what a node cannot: the other end of the volume.

What the node measures comes first: these checks are made every five minutes and lag behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.core.model import AwsChecks, Condition, Reason
from agent.core.model.checks import STALLED
from agent.core.replace import replace
from agent.report.board.readings import Health, Verdict, sort_verdicts
from agent.report.board.volume_status import VolumeStatus

_SLOW = {
    "degraded": "slower than it is provisioned",
    "severely-degraded": "far slower than it is provisioned",
    STALLED: "stalled: I/O is not completed",
}


def add_checks(health: Health | None, status: VolumeStatus) -> Health | None:
    """Return the health of a volume the policy names with what AWS's checks say is wrong with it."""
    if status.checks is None or status.condition is Condition.UNMANAGED:
        return health
    found = tuple(judge_checks(status.checks, status.label, str(status.volume_id)))
    if not found:
        return health
    health = health or Health()
    return replace(health, verdicts=sort_verdicts((*health.verdicts, *found)))


def judge_checks(checks: AwsChecks, label: str, volume_id: str) -> Iterator[Verdict]:
    """Yield the one thing that is wrong by AWS's checks, if any; data not known is no fault."""
    causes = f" It says: {'; '.join(checks.events)}." if checks.events else ""
    if checks.is_io_enabled is False:
        yield Verdict(
            Condition.FAILED,
            Reason.IMPAIRED,
            f"AWS has switched off I/O to {label}: what is on it may not be consistent.{causes}",
            f"aws ec2 enable-volume-io --volume-id {volume_id} lets I/O through again. Unmount it first "
            "where that is possible, so that it is checked before it is used; snapshot it as it is now.",
        )
    elif checks.io_performance in _SLOW:
        yield Verdict(
            Condition.DEGRADED,
            Reason.IMPAIRED,
            f"AWS's status check finds {label} {_SLOW[checks.io_performance]}.{causes}",
            "The fault is AWS's to mend, and usually passes. If it lasts: make a volume from a snapshot of "
            "this one, or ask AWS's support, with the volume's ID.",
        )
    elif checks.is_impaired:
        yield Verdict(
            Condition.DEGRADED,
            Reason.IMPAIRED,
            f"AWS's status checks find {label} impaired.{causes}",
            f"aws ec2 describe-volume-status --volume-ids {volume_id} says which check failed.",
        )
