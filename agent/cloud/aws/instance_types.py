"""The call that asks what instance types can do with EBS volumes, and what it says of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Struct

from agent.cloud.aws.answer_fields import Members
from agent.cloud.aws.call import Call, SentAs

_LISTED_LIMIT = 64
_MBITS_OF_MBYTE = 8


class InstanceLimits(Struct, frozen=True):
    """One instance type. None is what AWS does not say of it."""

    instance_type: str
    attachments: int | None = None
    """EBS volumes that can be attached, the root volume among them."""
    is_shared: bool = True
    """Network interfaces and disks of the instance store take places of the same limit."""
    store_disks: int = 0
    """Disks of the instance store, which cannot be detached."""
    iops: int | None = None
    """At most, in bursts too, by all volumes together."""
    throughput_mb_s: int | None = None
    """Likewise; 10⁶ bytes, where a volume's is told in 2²⁰."""
    baseline_iops: int | None = None
    """At all times, by all volumes together. A smaller instance does what is above for half an hour a day at
    least (EC2 user guide, "Amazon EBS-optimized instance types"); of a larger one both are the same."""
    baseline_throughput_mb_s: int | None = None


def parse_instance_type(value: Any) -> InstanceLimits:
    """Return one of DescribeInstanceTypes' ``InstanceTypes``."""
    name = Members(value, "an instance type").text("InstanceType")
    members = Members(value, f"instance type {name}")
    ebs = members.members("EbsInfo")
    whole = ebs.find_members("EbsOptimizedInfo")
    cards = [Members(one, f"an EBS card of {name}") for one in ebs.find_list("EbsCards", _LISTED_LIMIT)]

    def find_megabytes(name: str) -> int | None:
        megabits = _find_most(name, whole, cards)
        return None if megabits is None else megabits // _MBITS_OF_MBYTE

    return InstanceLimits(
        name,
        attachments=ebs.find_number("MaximumEbsAttachments"),
        is_shared=ebs.find_text("AttachmentLimitType") != "dedicated",
        store_disks=_count_disks(members),
        iops=_find_most("MaximumIops", whole, cards),
        throughput_mb_s=find_megabytes("MaximumBandwidthInMbps"),
        baseline_iops=_find_most("BaselineIops", whole, cards),
        baseline_throughput_mb_s=find_megabytes("BaselineBandwidthInMbps"),
    )


def _find_most(name: str, whole: Members | None, cards: Iterable[Members]) -> int | None:
    """Return the larger of what is said of the instance and of its cards together.

    How the two go together is not documented, and no volume is to be told of that may be of use.
    """
    told = [None if whole is None else whole.find_number(name)]
    told.append(sum(card.find_number(name) or 0 for card in cards))
    return max(filter(None, told), default=None)


def _count_disks(members: Members) -> int:
    store = members.find_members("InstanceStorageInfo")
    disks = () if store is None else store.find_list("Disks", _LISTED_LIMIT)
    return sum(Members(disk, f"a disk of {members.what}").number("Count") for disk in disks)


@dataclass(frozen=True)
class DescribeInstanceTypes(
    Call[tuple[InstanceLimits, ...]], pages="InstanceTypes", reads=parse_instance_type
):
    """What instances of these types can do; one that there is none of fails the call for all."""

    instance_types: Annotated[tuple[str, ...], SentAs("InstanceTypes")]
