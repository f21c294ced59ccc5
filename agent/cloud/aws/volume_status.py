"""The call that asks how AWS itself finds volumes, and what it says of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Struct

from agent.cloud.aws.answer_fields import Members, Unread, clean
from agent.cloud.aws.call import Call, SentAs
from agent.core.model import AwsChecks, Initialization, VolumeId, parse_volume_id

_DETAILS_LIMIT = 64
_EVENTS_SHOWN = 4
_SENTENCE_LIMIT = 1024


class CheckedVolume(Struct, frozen=True):
    """One volume and the last result of its checks."""

    volume_id: VolumeId
    checks: AwsChecks


def parse_volume_status(value: Any) -> CheckedVolume:
    """Return one of DescribeVolumeStatus' ``VolumeStatuses``."""
    volume_id = parse_volume_id(Members(value, "a volume's status").text("VolumeId"))
    members = Members(value, f"the status of {volume_id}")
    status = members.members("VolumeStatus")
    details = [Members(one, f"a check of {volume_id}") for one in status.find_list("Details", _DETAILS_LIMIT)]
    results = {one.text("Name"): one.find_text("Status") for one in details}
    return CheckedVolume(
        volume_id,
        AwsChecks(
            status=status.text("Status"),
            is_io_enabled={"passed": True, "failed": False}.get(results.get("io-enabled") or ""),
            io_performance=results.get("io-performance"),
            initialization=_parse_initialization(
                members.find_members("InitializationStatusDetails"), results.get("initialization-state")
            ),
            events=tuple(_parse_events(members)),
        ),
    )


def _parse_initialization(members: Members | None, state: str | None) -> Initialization | None:
    percent = None if members is None else members.find_number("Progress")
    if state == "initializing":  # AWS's driver goes by this alone
        percent = min(percent or 0, 99)
    if percent is None:
        return None
    if members is None:
        return Initialization(percent)
    # AWS says 0 s both of one that is done and of one that it makes no estimate for.
    left_s = members.find_number("EstimatedTimeToCompleteInSeconds") or None
    return Initialization(min(percent, 100), left_s, members.find_text("InitializationType"))


def _parse_events(members: Members) -> list[str]:
    events = [
        Members(one, f"an event of {members.what}") for one in members.find_list("Events", _DETAILS_LIMIT)
    ]
    said = [
        (one.find_text("EventType"), clean(one.find_free_text("Description", _SENTENCE_LIMIT) or ""))
        for one in events[:_EVENTS_SHOWN]
    ]
    return sorted(": ".join(filter(None, words)) for words in said if any(words))


@dataclass(frozen=True)
class DescribeVolumeStatus(
    Call[tuple[CheckedVolume | Unread, ...]],
    pages="VolumeStatuses",
    named_by="VolumeId",
    reads=parse_volume_status,
):
    """The checks EBS makes of volumes. No filter takes IDs, and one that is gone fails the call for all."""

    volume_ids: Annotated[tuple[VolumeId, ...], SentAs("VolumeIds")]
