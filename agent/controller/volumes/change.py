"""Makes volumes larger, and gives them other classes: one modification for all that is asked at a time.

AWS takes four modifications of a volume in 24 hours, so what is asked within a moment goes into one, and
what the volume has already into none. A modification whose answer got lost is found by its description.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta, timezone
from functools import partial
from typing import TypeAlias

from msgspec import Struct, field

from agent.base.log import get_logger
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import CreateTags, DeleteTags, ModifyVolume
from agent.cloud.aws.models import CloudVolume, Modification
from agent.cloud.errors.explain import CloudError
from agent.cloud.errors.retry_after import find_told_wait_s
from agent.cloud.errors.rules import BY_CODE, COOL_DOWN, INVALID
from agent.controller.attaching.attach import TakeTurn
from agent.controller.attaching.judge_attachment import explain_no_volume
from agent.controller.attaching.sights import FindVolume
from agent.controller.calls import GIB, ExpandCall, ModifyCall
from agent.controller.making.known_volumes import LAG_S
from agent.controller.patience import Patience
from agent.controller.volumes.known_modifications import FindModification, KnownModifications
from agent.controller.volumes.wishes import Wish, find_change, foresee, plan_wishes
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from agent.core.replace import replace
from agent.core.units import find_time
from agent.csi.service.join import Together

WINDOW_S = 2.0
"""How long the first wish waits for others, as AWS's driver has it: size and class are sent apart."""
LIMIT_S = 300.0
DAY = timedelta(days=1)

Outcomes: TypeAlias = "Mapping[Wish, int | AgentError]"
"""What each is answered: the size in bytes that can be used, or why it is not so."""

log = get_logger(__name__)


class _Wave(Struct, eq=False):
    """Wishes for one volume that are asked for together: one for its size, and one for its class."""

    wishes: list[Wish] = field(default_factory=list)
    askers: Together = field(default_factory=Together)
    """One modification is all of theirs: while any of them waits for his wish, it is made."""
    outcomes: asyncio.Task[Outcomes] | None = None

    def takes(self, wish: Wish) -> bool:
        """Return whether nothing in it is of the same kind and another wish."""
        return all(one == wish or one.is_larger != wish.is_larger for one in self.wishes)


class Changing:
    """Changes volumes, one deed on each at a time."""

    def __init__(
        self,
        make: Make,
        find: FindVolume,
        find_modification: FindModification,
        take_turn: TakeTurn,
        patience: Patience,
    ) -> None:
        self._make = make
        self._find = find
        self._known = KnownModifications(find_modification, patience)
        self._take_turn = take_turn
        self._patience = patience
        self._open: dict[VolumeId, _Wave] = {}

    async def expand(self, call: ExpandCall) -> int:
        """Return the volume's size in bytes once it can be used; raises AgentError."""
        return await self._ask(call.volume_id, Wish(size=call.size))

    async def modify(self, call: ModifyCall) -> None:
        """Return once the volume is as asked for; raises AgentError."""
        wish = Wish(performance=call.performance, tags=call.tags, removed_tags=call.removed_tags)
        await self._ask(call.volume_id, wish)

    async def _ask(self, volume_id: VolumeId, wish: Wish) -> int:
        wave = self._open.get(volume_id)
        if wave is None or not wave.takes(wish):
            wave = self._open[volume_id] = _Wave()
        if wish not in wave.wishes:
            wave.wishes.append(wish)
        wave.askers.join()
        if wave.outcomes is None:
            work = wave.askers.do(partial(self._carry_out, volume_id, wave))
            wave.outcomes = asyncio.get_running_loop().create_task(work)
        outcome = (await asyncio.shield(wave.outcomes))[wish]
        if isinstance(outcome, AgentError):
            raise outcome
        return outcome

    async def _carry_out(self, volume_id: VolumeId, wave: _Wave) -> Outcomes:
        await self._patience.sleep(WINDOW_S)
        if self._open.get(volume_id) is wave:
            del self._open[volume_id]
        async with self._take_turn(volume_id):
            return await self._satisfy(volume_id, wave.wishes)

    async def _satisfy(self, volume_id: VolumeId, wishes: Sequence[Wish]) -> Outcomes:
        """Have all wishes fulfilled that can be, together; where AWS refuses that, one after the other."""
        try:
            return await self._shape(volume_id, wishes)
        except AgentError as error:
            is_invalid = isinstance(error, CloudError) and BY_CODE.get(error.code) is INVALID
            if len(wishes) == 1 or not is_invalid:
                return dict.fromkeys(wishes, error)
        outcomes: dict[Wish, int | AgentError] = {}
        for wish in sorted(wishes, key=lambda one: not one.is_larger):
            outcomes |= await self._satisfy(volume_id, (wish,))
        return outcomes

    async def _shape(self, volume_id: VolumeId, wishes: Sequence[Wish]) -> Outcomes:
        waiting, asked_at_s = self._patience.begin(), 0.0
        answer: Modification | CloudError | None = None
        while True:
            volume = await self._require(volume_id)
            asked = answer if isinstance(answer, Modification) else None
            last = await self._known.find(volume_id) or asked
            foreseen = foresee(volume, last)
            plan = plan_wishes(foreseen, wishes)
            change = find_change(foreseen, plan.target)
            if asked is not None and last is not None and last.state == "failed":
                raise _explain_failed(last)
            if change is None and (last is None or last.state != "modifying"):
                outcomes = await self._tag(volume, [one for one in wishes if one not in plan.refused])
                return {**dict.fromkeys(wishes, foreseen.size_gib * GIB), **plan.refused, **outcomes}
            if change is not None and answer is None:
                if await self._known.has_waited():
                    continue
                answer, asked_at_s = await self._modify(change, last), waiting.waited_s
            elif isinstance(answer, CloudError) and waiting.waited_s >= asked_at_s + LAG_S:
                raise answer
            if waiting.waited_s >= LIMIT_S:
                raise _explain_busy(volume_id, last)
            await waiting.pause()

    async def _modify(self, change: ModifyVolume, last: Modification | None) -> Modification | CloudError:
        """Have AWS begin; returns the error after which only a description tells whether it did."""
        if last is not None and last.is_under_way:
            raise _explain_busy(change.volume_id, last)
        try:
            asked = await self._make(change)
        except CloudError as error:
            if error.is_transient or error.code.startswith("Worker"):
                return error
            raise _tell_when(error, last) from error
        self._known.note_asked(asked)
        log.info("controller.modifying", volume_id=change.volume_id, change=change.describe())
        return asked

    async def _tag(self, volume: CloudVolume, wishes: Sequence[Wish]) -> dict[Wish, AgentError]:
        """Set and take tags, which come last: whatever is refused has changed nothing then."""
        failed: dict[Wish, AgentError] = {}
        for wish in wishes:
            new = tuple((key, value) for key, value in wish.tags if volume.tag(key) != value)
            old = tuple(key for key in wish.removed_tags if volume.tag(key) is not None)
            try:
                if new:
                    await self._make(CreateTags(volume.volume_id, new))
                if old:
                    await self._make(DeleteTags(volume.volume_id, old))
            except AgentError as error:
                failed[wish] = error
        return failed

    async def _require(self, volume_id: VolumeId) -> CloudVolume:
        volume = await self._find(volume_id)
        if volume is None or volume.is_gone:
            raise explain_no_volume(volume_id)
        return volume


def _explain_failed(modification: Modification) -> AgentError:
    why = modification.message or "it gives no reason"
    return AgentError(
        f"AWS failed to modify {modification.volume_id}: {why.rstrip('.')}.",
        hint="It is tried again. AWS takes four modifications of a volume in 24 hours.",
        reason=Reason.CLOUD_ERROR,
    )


def _tell_when(error: CloudError, last: Modification | None) -> CloudError:
    """Return the error with the time when AWS takes a modification again, where its limit is one of time.

    AWS mostly says it. A day after the last one, four in 24 hours are not reached, whatever came before it.
    """
    begun = None if last is None else find_time(last.started_at)
    if (
        BY_CODE.get(error.code) is not COOL_DOWN
        or begun is None
        or find_told_wait_s(error.message) is not None
    ):
        return error
    latest = (begun + DAY).astimezone(timezone.utc)
    return replace(
        error, hint=f"It is asked for again. AWS takes it at {latest:%Y-%m-%dT%H:%M:%SZ}, if not before."
    )


def _explain_busy(volume_id: VolumeId, modification: Modification | None) -> AgentError:
    how = "being modified"
    if modification is not None:
        how = f"{modification.state}, {modification.progress_percent} % done"
    return AgentError(
        f"{volume_id} is {how}: AWS takes the next modification when this one is completed.",
        hint="It is asked for again.",
        reason=Reason.WAITING_FOR_CLOUD,
    )
