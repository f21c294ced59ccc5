"""Holds a copy back from nodes until all of its content is there, where its class asks for that.

A volume made of a snapshot or of another volume can be used at once, and is slow where its content still has
to be fetched. With ``blockAttachUntilInitialized`` a pod does not start before that is over. It may take
hours: so nothing is waited for here, the attacher asks again. AWS's driver attaches first; here the volume
takes no place on the node before it is of use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeAlias

from agent.cloud.aws.models import CloudVolume
from agent.core.errors import AgentError
from agent.core.model import AwsChecks, Initialization, VolumeId
from agent.core.reasons import Reason
from agent.core.units import find_time, show_duration, utc_now

FindChecks: TypeAlias = Callable[[VolumeId], Awaitable["AwsChecks | None"]]
"""What AWS's own checks say of a volume; None: its answer does not have it."""

TOLD_AFTER = timedelta(minutes=5)
"""How old a copy may be of which AWS does not say yet how far it is. Source: the EC2 API reference,
VolumeStatusItem: "It can take up to 5 minutes for the volume initialization information to be updated"."""


class Initialized:
    """Asks ``find`` how far copies are."""

    def __init__(self, find: FindChecks, now: Callable[[], datetime] = utc_now) -> None:
        self._find = find
        self._now = now

    async def require(self, volume: CloudVolume) -> None:
        """Return where nothing of the content is missing; AgentError, to be asked again, where some is."""
        if volume.snapshot_id is None and volume.copy_of is None:
            return
        checks = await self._find(volume.volume_id)
        coming = None if checks is None else checks.initialization
        if coming is None and self._is_new(volume.created_at):
            raise _explain(volume, "is made of a copy, and AWS does not say yet how much of it is there")
        if coming is not None and not coming.is_done:
            raise _explain(volume, f"has {coming.percent} % of its content{_describe_left(coming)}")

    def _is_new(self, made_at: str) -> bool:
        at = find_time(made_at)
        return at is not None and self._now() - at < TOLD_AFTER


def _describe_left(coming: Initialization) -> str:
    if coming.left_s is None:
        return ""
    return f", the rest by AWS's estimate in {show_duration(coming.left_s)}"


def _explain(volume: CloudVolume, how: str) -> AgentError:
    return AgentError(
        f"{volume.volume_id} {how}; it is attached when all of it is there.",
        hint="blockAttachUntilInitialized of its class asks for that. volumeInitializationRate makes it "
        "short; without either a pod starts at once, and reads slowly at first.",
        reason=Reason.WAITING_FOR_CLOUD,
    )
