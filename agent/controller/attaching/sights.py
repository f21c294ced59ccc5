"""What AWS describes of a volume, less what is known to be past.

Descriptions come from several hosts that lag behind one another: after one without an attachment another may
still have it. An attachment that has been seen to be gone stays so, for no other has its node and its time.

Since when one is on its way is remembered from look to look, whoever looks: an attempt to attach ends when
nobody waits for it, long before it is known that the attachment comes to no end. It is counted by this
machine's clock, since AWS's own may differ; a controller that begins anew counts anew.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.core.model import VolumeId
from agent.core.replace import replace

FindVolume: TypeAlias = Callable[[VolumeId], Awaitable["CloudVolume | None"]]
"""Describes a volume after it was asked; None: AWS's answer does not have it."""

LAG_S = 10.0
"""How far one usually lags behind another, at the most."""
MOST_GONE = 16_384
"""Attachments remembered to be gone, those first that went last."""
MOST_ATTACHING = 4096
"""Volumes of which it is remembered since when they are attaching, those that were looked at last."""

_Key: TypeAlias = "tuple[VolumeId, str, str]"
_Attaching: TypeAlias = "tuple[str | None, str | None]"
"""An attachment of one volume: its instance, and since when AWS says that it is."""


class Sights:
    """Looks at volumes, and remembers which attachments have ended, and since when others are under way."""

    def __init__(self, find: FindVolume, clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        self._gone: OrderedDict[_Key, None] = OrderedDict()
        self._attaching: OrderedDict[VolumeId, dict[_Attaching, float]] = OrderedDict()
        """When each was first described as attaching, without any look since at which it was not."""

    async def look(self, volume_id: VolumeId) -> CloudVolume | None:
        """Return the volume as AWS describes it now, without attachments that have ended."""
        found = await self._find(volume_id)
        if found is None:
            return None
        volume = self.drop_past(found)
        self._note_attaching(volume)
        return volume

    def find_attaching_s(self, volume: CloudVolume, instance_id: str) -> float:
        """Return for how long looks have found it attaching to an instance; 0.0: the last one did not."""
        here = volume.attachment_to(instance_id)
        since = self._attaching.get(volume.volume_id, {})
        now_s = self._clock()
        return 0.0 if here is None else now_s - since.get(_name_attaching(here), now_s)

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

    def _note_attaching(self, volume: CloudVolume) -> None:
        before, now_s = self._attaching.pop(volume.volume_id, {}), self._clock()
        names = [_name_attaching(one) for one in volume.attachments if one.state == "attaching"]
        if names:
            self._attaching[volume.volume_id] = {name: before.get(name, now_s) for name in names}
        while len(self._attaching) > MOST_ATTACHING:
            self._attaching.popitem(last=False)

    def _is_past(self, volume_id: VolumeId, attachment: CloudAttachment) -> bool:
        return attachment.state == "detached" or _find_key(volume_id, attachment) in self._gone


def _name_attaching(attachment: CloudAttachment) -> _Attaching:
    return attachment.instance_id, attachment.attached_at


def _find_key(volume_id: VolumeId, attachment: CloudAttachment) -> _Key | None:
    """Return what tells one attachment from all others; None where AWS does not say since when it is."""
    if attachment.instance_id is None or attachment.attached_at is None:
        return None
    return volume_id, attachment.instance_id, attachment.attached_at
