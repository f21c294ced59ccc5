"""Makes volumes, each once under its name, however often it is asked for and whatever answers get lost.

A volume is found by its name's tag. Where none is described yet, the client token, which comes of the name
alone, has AWS answer with the one that it made before. A token that AWS took for something else may hide a
volume that is not described yet: that is waited for, before the next token is tried.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from msgspec import Struct

from agent.base.log import get_logger
from agent.cloud.aws.call import Make
from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume, MakingCall
from agent.cloud.aws.models import CloudVolume
from agent.cloud.aws.zones import Zone
from agent.cloud.errors.explain import CloudError
from agent.cloud.errors.rules import is_token_burnt
from agent.controller.calls import CreateCall, DiffersError, MadeVolume
from agent.controller.making.choose_zone import describe_place, list_zones, needs_zones
from agent.controller.making.fit_size import fit_size
from agent.controller.making.fit_speed import fit_iops, leave_out_fixed
from agent.controller.making.judge_made import blame_key, check_same, explain_vanished, is_ready
from agent.controller.making.known_volumes import LAG_S, REMEMBERED_S, DescribesVolumes, KnownVolumes
from agent.controller.making.marks import make_tags
from agent.controller.making.sources import Source, find_source, is_source_missing
from agent.controller.making.tokens import Tokens
from agent.controller.name_tags import find_other_cluster, write_name
from agent.controller.patience import Patience
from agent.core.errors import AgentError
from agent.core.quoting import quote
from agent.core.reasons import Reason
from agent.core.replace import replace

TakeTurnOfText: TypeAlias = Callable[[str], AbstractAsyncContextManager[object]]
"""Enters when all that was asked for earlier under the same text is done."""

DEFAULT_TYPE = "gp3"
LIMIT_S = 300.0
"""How long AWS may be at making a volume until that is told as an error; it is asked for again."""
MOST_TOKENS = 16
"""Tokens of one name that are tried in one attempt; the next goes on behind those that are used up."""

_MISMATCH = "IdempotentParameterMismatch"
_NO_ROOM_HERE = frozenset(
    {"InsufficientVolumeCapacity", "InsufficientCapacity", "VolumeTypeNotAvailableInZone"}
)
"""With these AWS says that another zone may have room."""

log = get_logger(__name__)


class _Order(Struct, frozen=True):
    """A call with everything that is found out before AWS is asked for the volume."""

    call: CreateCall
    source: Source
    zones: tuple[Zone, ...]
    names: tuple[str, ...]
    """Zones that are to be tried, best first; one where the scheduler has chosen a node before."""


class Creating:
    """Makes volumes, one under each name at a time."""

    def __init__(
        self,
        make: Make,
        describing: DescribesVolumes,
        known: KnownVolumes,
        take_turn: TakeTurnOfText,
        patience: Patience,
        cluster_id: str | None = None,
    ) -> None:
        self._make = make
        self._describing = describing
        self._known = known
        self._take_turn = take_turn
        self._patience = patience
        self._cluster_id = cluster_id
        self._tokens = Tokens()

    async def create(self, call: CreateCall) -> MadeVolume:
        """Return the volume of this name once it can be attached; raises AgentError."""
        async with self._take_turn(write_name(call.name)):
            zones = tuple(await self._describing.list_zones()) if needs_zones(call) else ()
            volume = await self._find(call, zones)
            if volume is None:
                volume = await self._make_surely(call, zones)
            volume = await self._wait_until_ready(volume, call)
        return MadeVolume(volume, describe_place(call, volume.zone, zones), call.source, call.context)

    async def _find(self, call: CreateCall, zones: Sequence[Zone]) -> CloudVolume | None:
        """Return the volume that there is under this name; raises AgentError where it is another one."""
        found = await self._known.find_named(call.name)
        if not found:
            return None
        first = next((one for one in found if one.state != "error"), found[0])
        others = [one.volume_id for one in found if one is not first]
        if others:
            log.warning("controller.volume_surplus", volume_ids=others, first_id=first.volume_id)
        other = find_other_cluster(first.tags, self._cluster_id)
        if other is not None:
            raise DiffersError(
                f"A volume named {quote(call.name)} is there, {first.volume_id}, and is cluster {other}'s.",
                hint="Was this cluster restored from the other's backup? Make the claim anew.",
            )
        check_same(first, call, None if not call.requisite else list_zones(call, zones))
        return first

    async def _make_surely(self, call: CreateCall, zones: tuple[Zone, ...]) -> CloudVolume:
        """Have it made; that its source is missing is an error only where two tries, a lag apart, say so.

        Nor may an earlier call, whose answer was lost, have made the volume while the source was there.
        """
        try:
            return await self._order(call, zones)
        except AgentError as error:
            if not is_source_missing(error, call):
                raise
            log.info("controller.source_missing", name=call.name, why=error.message)
        return await self._look_for_other(call, zones) or await self._order(call, zones)

    async def _order(self, call: CreateCall, zones: tuple[Zone, ...]) -> CloudVolume:
        names = list_zones(call, zones)
        source = await find_source(self._known, call, names)
        order = _Order(call, source, zones, names if source.zone is None else (source.zone,))
        return await self._bring_about(order)

    async def _bring_about(self, order: _Order) -> CloudVolume:
        """Have it made in the first zone that has room."""
        refusals = []
        for zone in order.names:
            made = await self._try_in(zone, order)
            if not isinstance(made, CloudError):
                return made
            refusals.append(made)
        raise refusals[0]

    async def _try_in(self, zone: str, order: _Order) -> CloudVolume | CloudError:
        """Return the volume, or why this zone has no room for it."""
        try:
            return await self._make_in(zone, order)
        except CloudError as error:
            if error.code not in _NO_ROOM_HERE:
                raise
            log.info("controller.zone_is_full", name=order.call.name, zone=zone, why=error.message)
            return error

    async def _make_in(self, zone: str, order: _Order) -> CloudVolume:
        """Have it made under the first token that is not used up."""
        asked, name = self._write(zone, order), order.call.name
        for number, call in itertools.islice(self._tokens.list_unused(name, asked), MOST_TOKENS):
            try:
                made = await self._make(call)
            except CloudError as error:
                if error.code != _MISMATCH:
                    raise
                if is_token_burnt(error.message):
                    self._tokens.note_burnt(name, number)
                    continue
                found = await self._look_for_other(order.call, order.zones)
                if found is not None:
                    return found
                self._tokens.note_differing(name, call)
                continue
            if made.is_gone:
                self._tokens.note_burnt(name, number)
                continue
            # Of its tags an answer may say nothing, and that it can be used only a description proves.
            made = replace(made, tags=asked.tags, state="creating")
            log.info("controller.volume_made", name=name, volume_id=made.volume_id, zone=made.zone)
            self._known.note_made(name, made)
            return made
        raise self._explain_used_up(order.call)

    def _explain_used_up(self, call: CreateCall) -> AgentError:
        vanished = self._tokens.find_vanished(call.name)
        last = "" if vanished is None else f"; the last one that AWS took back was {vanished}"
        count = self._tokens.count_used(call.name)
        return AgentError(
            f"{count} volumes named {quote(call.name)} were made before, and are not there any more{last}.",
            hint=f"{blame_key(call)} When it is asked for again, it goes on behind them.",
            reason=Reason.CLOUD_ERROR,
        )

    def _write(self, zone: str, order: _Order) -> MakingCall:
        call, source = order.call, order.source
        kind = call.performance.type or DEFAULT_TYPE
        what = f"The volume {quote(call.name)}"
        size_gib = fit_size(call.size, kind, source.size_gib, what)
        speed = leave_out_fixed(call.performance, kind)
        if speed != call.performance:
            log.info("controller.speed_passed_over", name=call.name, type=kind)
        iops = fit_iops(speed, kind, size_gib, what)
        tags = make_tags(call.name, call.tags, self._cluster_id)
        throughput = speed.throughput_mib
        if call.source is not None and call.source.volume_id is not None:
            return CopyVolumes(
                call.source.volume_id,
                "",
                size_gib,
                kind,
                tags,
                iops,
                throughput,
                call.is_encrypted,
                call.kms_key_id,
                call.is_multi_attach,
            )
        return CreateVolume(
            "",
            zone,
            size_gib,
            kind,
            tags,
            iops,
            throughput,
            call.is_encrypted,
            call.kms_key_id,
            None if call.source is None else call.source.snapshot_id,
            call.initialization_rate_mib,
            call.is_multi_attach,
        )

    async def _look_for_other(self, call: CreateCall, zones: Sequence[Zone]) -> CloudVolume | None:
        """Return the volume that was made before, once it is described; None: there is none."""
        waiting = self._patience.begin()
        while True:
            found = await self._find(call, zones)
            if found is not None or waiting.waited_s >= LAG_S:
                return found
            await waiting.pause()

    async def _wait_until_ready(self, volume: CloudVolume, call: CreateCall) -> CloudVolume:
        """Return the volume once it can be attached; raises AgentError for one that never can."""
        waiting, is_described = self._patience.begin(), False
        while not is_ready(volume, call):
            if waiting.waited_s >= LIMIT_S:
                raise AgentError(
                    f"AWS is at making {volume.volume_id} for {waiting.waited_s:.0f} s.",
                    hint="It is waited for when it is asked for again.",
                    reason=Reason.WAITING_FOR_CLOUD,
                )
            await waiting.pause()
            found = await self._describing.find_volume(volume.volume_id)
            is_lost = found is None and (is_described or waiting.waited_s >= REMEMBERED_S)
            if is_lost or (found is not None and found.is_gone):
                self._known.forget(volume.volume_id)
                self._tokens.note_vanished(call.name, volume.volume_id)
                raise explain_vanished(volume, call)
            is_described = is_described or found is not None
            volume = found or volume
        return volume
