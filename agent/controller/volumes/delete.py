"""Deletes volumes that were made for claims: never one that a node has, and none that is not marked.

Whoever attaches the volume here has had, or is having, a turn before it; what others do AWS refuses.
"""

from __future__ import annotations

from agent.base.log import get_logger
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import DeleteVolume
from agent.cloud.aws.models import CloudVolume
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.controller.attaching.attach import TakeTurn
from agent.controller.attaching.judge_attachment import name_holder
from agent.controller.attaching.sights import Sights
from agent.controller.making.known_volumes import KnownVolumes
from agent.controller.making.marks import require_marks
from agent.controller.patience import Patience
from agent.core.errors import RefusedError
from agent.core.model import VolumeId
from agent.core.reasons import Reason

LEAVING_S = 60.0
"""How long a volume is waited for that is on its way from its node."""

log = get_logger(__name__)


class Deleting:
    """Deletes volumes, one deed on each at a time."""

    def __init__(
        self,
        make: Make,
        known: KnownVolumes,
        sights: Sights,
        take_turn: TakeTurn,
        patience: Patience,
        cluster_id: str | None = None,
    ) -> None:
        self._make = make
        self._known = known
        self._sights = sights
        self._take_turn = take_turn
        self._patience = patience
        self._cluster_id = cluster_id

    async def delete(self, volume_id: VolumeId) -> None:
        """Return when AWS deletes the volume, or did before; raises RefusedError where it is to stay."""
        async with self._take_turn(volume_id):
            volume = await self._known.find_surely(volume_id)
            if volume is None or volume.is_gone:
                return
            require_marks(volume, self._cluster_id)
            if await self._is_free(volume):
                await self._delete(volume_id)
            self._known.note_gone(volume_id)
            log.info("controller.volume_deleted", volume_id=volume_id)

    async def _is_free(self, volume: CloudVolume) -> bool:
        """Return True once no node has the volume, False once it is gone; raises RefusedError."""
        waiting = self._patience.begin()
        found: CloudVolume | None = volume
        while found is not None and not found.is_gone:
            held = self._sights.drop_past(found).attachments
            if not held:
                return True
            is_leaving = all(one.state == "detaching" for one in held)
            if not is_leaving or waiting.waited_s >= LEAVING_S:
                raise RefusedError(
                    f"{volume.volume_id} is {held[0].state} to {name_holder(held[0])}, and is not deleted."
                    if not is_leaving
                    else f"{volume.volume_id} is still detaching from {name_holder(held[0])}.",
                    hint="It can be deleted once it is detached there.",
                    reason=Reason.ATTACHED_ELSEWHERE,
                )
            await waiting.pause()
            found = await self._known.find_surely(volume.volume_id)
        return False

    async def _delete(self, volume_id: VolumeId) -> None:
        try:
            await self._make(DeleteVolume(volume_id))
        except CloudError as error:
            if error.code != codes.NO_VOLUME:
                raise
