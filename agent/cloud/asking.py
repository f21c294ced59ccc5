"""The calls that ask what AWS measures and limits: how volumes are, and what an instance type can do.

``calls`` has those that make and change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from agent.cloud.call import Call, SentAs
from agent.cloud.status_answers import CheckedVolume, parse_volume_status
from agent.model import VolumeId


@dataclass(frozen=True)
class DescribeVolumeStatus(
    Call[tuple[CheckedVolume, ...]], pages="VolumeStatuses", reads=parse_volume_status
):
    """The checks EBS makes of volumes. No filter takes IDs, and one that is gone fails the call for all."""

    volume_ids: Annotated[tuple[VolumeId, ...], SentAs("VolumeIds")]
