"""Makes the one call that a task decided on, and takes note of what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agent.base.log import get_logger
from agent.cloud.aws.call import Change, Make
from agent.cloud.aws.calls import CreateSnapshot, DeleteVolume
from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume, MakingCall
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError, is_throttled
from agent.cloud.errors.rules import is_token_burnt
from agent.cloud.plan.claims.pools import Take
from agent.cloud.plan.decisions import Do
from agent.cloud.plan.device_names import list_given_names
from agent.cloud.state.made_volumes import find_key, note_burnt, note_made, note_mismatch
from agent.cloud.state.process_memory import CloudMemory
from agent.cloud.tasks.copy_volume import make_volume
from agent.cloud.view.change_events import Record, record_change, record_changes
from agent.cloud.view.cloud_report import Hands
from agent.cloud.view.pending_calls import RecentCalls
from agent.core.replace import replace

T = TypeVar("T")

log = get_logger(__name__)

_LOST_CODES = frozenset({codes.VOLUME_IN_USE, codes.INCORRECT_STATE})
"""What an attach is answered with where somebody else has the volume, by EC2 and by HyperPod."""


class CallSender:
    """Makes changes, and remembers what has to be remembered of them."""

    def __init__(
        self,
        make: Make,
        hands: Hands,
        memory: CloudMemory,
        recent: RecentCalls,
        clock: Callable[[], float],
        record: Record,
    ) -> None:
        self._make = make
        self._hands = hands
        self._memory = memory
        self._recent = recent
        self._clock = clock
        self._record = record

    async def send(self, name: str, key: str, decision: Do) -> None:
        """Make the call for an entry ``name``; ``key`` is what it is remembered under. Raises CloudError."""
        call = decision.call
        if isinstance(call, (CreateVolume, CopyVolumes)):
            await self._create(name, call)
        elif isinstance(decision, Take):
            await self._take(name, key, decision)
        else:
            answer = await self._change(name, call)
            self._recent.note(key, call)
            if isinstance(call, CreateSnapshot):
                self._memory.free.note_begun(call.volume_id, answer.snapshot_id)
        log.info("cloud.called", operation=call.operation, what=call.describe(), entry=name)
        if isinstance(call, DeleteVolume):
            self._memory.free.forget(call.volume_id)
            await self._memory.makings.drop(call.volume_id)

    async def _change(self, name: str, call: Change[T]) -> T:
        try:
            return await record_changes(self._make, self._record, by="policy", entry=name)(call)
        except CloudError as error:
            if error.code == codes.NAME_TAKEN:
                self._memory.taken_names |= list_given_names([call])
            raise

    async def _take(self, name: str, key: str, decision: Take) -> None:
        """Attach a volume of a pool. That it is being taken is on disk before, so that no restart takes two.

        Where another node was quicker, that is remembered, and the next one is taken in the next look. Where
        this node may have attached it itself, in a call whose end it never saw, the description will tell.
        """
        makings, volume_id = self._memory.makings, decision.volume_id
        before = makings.get(decision.key)
        await makings.put(decision.key, replace(before, taking=volume_id))
        try:
            await self._change(name, decision.call)
        except CloudError as error:
            if is_throttled(error.code):
                await makings.put(decision.key, before)  # AWS did nothing
            if error.code not in _LOST_CODES or before.taking == volume_id:
                raise
            self._memory.lost[volume_id] = self._clock()
            await makings.put(decision.key, replace(before, taking=None))
            log.info("cloud.outrun", volume_id=volume_id)
        else:
            self._recent.note(key, decision.call)

    async def _create(self, name: str, call: MakingCall) -> None:
        makings, key = self._memory.makings, find_key(call.tags)
        before = makings.get(key)
        try:
            volume = await make_volume(self._make, self._hands, call)
        except CloudError as error:
            if error.code != "IdempotentParameterMismatch":
                raise
            if is_token_burnt(error.message):
                after = note_burnt(call, before)
            else:
                after = note_mismatch(call, before, self._clock())
        else:
            after = note_made(call, before, volume, self._clock())
            # Asked again under its token, it is the volume that was told of before.
            if after.volume_id is not None and after.volume_id != before.volume_id:
                record_change(self._record, call, volume, by="policy", entry=name)
        for lost in after.lost:
            if lost not in before.lost:
                self._record("volume.gone", lost, entry=name, vanished=after.has_vanished)
        await makings.put(key, after)
