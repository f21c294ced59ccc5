"""The calls that ask what AWS measures, what an instance can do, and who AWS takes this node for.

``calls`` has those that make and change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from agent.cloud.aws import models
from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.call import Call, SentAs
from agent.cloud.aws.instance_type_models import InstanceLimits, parse_instance_type
from agent.cloud.aws.status_models import CheckedVolume, parse_volume_status
from agent.core.model import VolumeId


@dataclass(frozen=True)
class DescribeVolumeStatus(
    Call[tuple[CheckedVolume | Unread, ...]],
    pages="VolumeStatuses",
    named_by="VolumeId",
    reads=parse_volume_status,
):
    """The checks EBS makes of volumes. No filter takes IDs, and one that is gone fails the call for all."""

    volume_ids: Annotated[tuple[VolumeId, ...], SentAs("VolumeIds")]


@dataclass(frozen=True)
class DescribeInstanceTypes(
    Call[tuple[InstanceLimits, ...]], pages="InstanceTypes", reads=parse_instance_type
):
    """What instances of these types can do; one that there is none of fails the call for all."""

    instance_types: Annotated[tuple[str, ...], SentAs("InstanceTypes")]


@dataclass(frozen=True)
class GetCallerIdentity(Call[tuple[str, str]], service="sts", reads=models.parse_caller):
    """(account, ARN of the role) the node's credentials belong to. Needs no permission."""
