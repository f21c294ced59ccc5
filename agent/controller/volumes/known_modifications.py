"""What is known of modifications: what AWS describes, and what was asked for and is not described yet.

ModifyVolume has no token, and AWS takes few modifications of a volume in a day: one that is over before it is
described would be asked for a second time. So what was asked for here is remembered; and a controller that
has never asked waits once until what another may have asked for is described.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from agent.cloud.aws.models import Modification
from agent.controller.making.known_volumes import LAG_S, REMEMBERED_S
from agent.controller.patience import Patience
from agent.core.model import VolumeId

FindModification: TypeAlias = Callable[[VolumeId], Awaitable["Modification | None"]]


class KnownModifications:
    """Finds the last modification of volumes, that of this process before AWS describes it."""

    def __init__(self, find: FindModification, patience: Patience) -> None:
        self._find = find
        self._patience = patience
        self._asked: OrderedDict[VolumeId, tuple[Modification, float]] = OrderedDict()
        self._first_s: float | None = None
        """When something was to be asked for here for the first time."""

    async def find(self, volume_id: VolumeId) -> Modification | None:
        """Return the last modification: what AWS answered, until that or a later one is described."""
        described = await self._find(volume_id)
        asked, _ = self._list_asked().get(volume_id, (None, 0.0))
        if described is None or asked is None:
            return described or asked
        return described if described.started_at >= asked.started_at else asked

    def note_asked(self, modification: Modification) -> None:
        """Remember a modification that AWS may not describe yet."""
        self._asked.pop(modification.volume_id, None)
        self._asked[modification.volume_id] = modification, self._patience.clock()

    async def has_waited(self) -> bool:
        """Wait until what others asked for before is described; returns whether it was waited.

        The others are a controller that died, or that the sidecars asked until now.
        """
        now_s = self._patience.clock()
        if self._first_s is None:
            self._first_s = now_s
        left_s = self._first_s + LAG_S - now_s
        if left_s > 0:
            await self._patience.sleep(left_s)
        return left_s > 0

    def _list_asked(self) -> OrderedDict[VolumeId, tuple[Modification, float]]:
        """Return what was asked for a moment ago; what is older is described."""
        now_s = self._patience.clock()
        while self._asked and now_s - next(iter(self._asked.values()))[1] > REMEMBERED_S:
            self._asked.popitem(last=False)
        return self._asked
