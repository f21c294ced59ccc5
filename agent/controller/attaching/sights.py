"""What AWS describes of a volume, less what is known to be past.

Descriptions come from several hosts that lag behind one another: after one without an attachment another may
still have it. An attachment that has been seen to be gone stays so, for no other has its node and its time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.core.model import VolumeId
from agent.core.replace import replace

FindVolume: TypeAlias = Callable[[VolumeId], Awaitable["CloudVolume | None"]]
"""Describes a volume after it was asked; None: AWS's answer does not have it."""

MOST_GONE = 16_384
"""Attachments remembered to be gone, those first that went last."""

_Key: TypeAlias = "tuple[VolumeId, str, str]"


class Sights:
    """Looks at volumes, and remembers which attachments have ended."""

    def __init__(self, find: FindVolume) -> None:
        self._find = find
        self._gone: OrderedDict[_Key, None] = OrderedDict()

    async def look(self, volume_id: VolumeId) -> CloudVolume | None:
        """Return the volume as AWS describes it now, without attachments that have ended."""
        volume = await self._find(volume_id)
        return None if volume is None else self.drop_past(volume)

    def drop_past(self, volume: CloudVolume) -> CloudVolume:
        """Return the volume without attachments that have ended."""
        kept = tuple(one for one in volume.attachments if not self._is_past(volume.volume_id, one))
        return volume if len(kept) == len(volume.attachments) else replace(volume, attachments=kept)

    def note_gone(self, volume_id: VolumeId, attachments: Iterable[CloudAttachment]) -> None:
        """Remember that these attachments have ended."""
        for key in (_find_key(volume_id, one) for one in attachments):
            if key is not None:
                self._gone[key] = None
        while len(self._gone) > MOST_GONE:
            self._gone.popitem(last=False)

    def _is_past(self, volume_id: VolumeId, attachment: CloudAttachment) -> bool:
        return attachment.state == "detached" or _find_key(volume_id, attachment) in self._gone


def _find_key(volume_id: VolumeId, attachment: CloudAttachment) -> _Key | None:
    """Return what tells one attachment from all others; None where AWS does not say since when it is."""
    if attachment.instance_id is None or attachment.attached_at is None:
        return None
    return volume_id, attachment.instance_id, attachment.attached_at
