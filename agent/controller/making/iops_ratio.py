"""Keeps a volume's IOPS for each GiB while it grows, where its class says so. Pure.

An expansion comes without the class, so the volume itself carries what that said, in the tags of AWS's
driver, which may take over.
"""

from __future__ import annotations

import re

from agent.cloud.aws.models import CloudVolume, Tags
from agent.controller.calls import Performance
from agent.controller.making.fit_speed import fit_iops, leave_out_fixed

TAG_IOPS_PER_GIB = "ebs.csi.aws.com/IOPSPerGb"
TAG_FOLLOWS_SIZE = "ebs.csi.aws.com/AllowAutoIOPSIncreaseOnModify"
_YES = frozenset({"1", "t", "T", "true", "TRUE", "True"})
"""What AWS's driver reads as true (Go's ``strconv.ParseBool``)."""
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def make_ratio_tags(asked: Performance) -> Tags:
    """Return the tags that keep what a class says of IOPS for each GiB."""
    tags = []
    if asked.iops_per_gib is not None:
        tags.append((TAG_IOPS_PER_GIB, str(asked.iops_per_gib)))
    if asked.follows_size is not None:
        tags.append((TAG_FOLLOWS_SIZE, "true" if asked.follows_size else "false"))
    return tuple(sorted(tags))


def raise_iops(volume: CloudVolume) -> int | None:
    """Return the IOPS of a volume of this size: more than it has, or as many; never fewer.

    A class that it was given since may have asked for more than the ratio comes to.
    """
    ratio = volume.tag(TAG_IOPS_PER_GIB) or ""
    if volume.tag(TAG_FOLLOWS_SIZE) not in _YES or not _NUMBER.fullmatch(ratio) or volume.iops is None:
        return volume.iops
    asked = leave_out_fixed(Performance(iops_per_gib=int(ratio), may_raise_iops=True), volume.type)
    return max(fit_iops(asked, volume.type, volume.size_gib, volume.volume_id) or 0, volume.iops)
