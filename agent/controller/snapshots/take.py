"""Takes snapshots, each once under its name, however often it is asked for and whatever answers get lost.

EC2 has no client token for this call: what was taken is found by its name's tag. Two controllers that take
one at the same moment agree on that which was begun first; the other is left and told of, never deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from agent.base.log import get_logger
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import CreateSnapshot
from agent.cloud.aws.models import CloudSnapshot
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.controller.calls import DiffersError, SnapshotCall
from agent.controller.name_tags import write_name
from agent.controller.patience import Patience
from agent.controller.snapshots.known import LAG_S, KnownSnapshots
from agent.controller.snapshots.marks import make_tags
from agent.controller.snapshots.protect import is_refused, protect, undo
from agent.core.errors import AgentError, RefusedError
from agent.core.quoting import quote
from agent.core.reasons import Reason
from agent.core.replace import replace

TakeTurnOfText: TypeAlias = Callable[[str], AbstractAsyncContextManager[object]]
"""Enters when all that was asked for earlier under the same text is done."""

log = get_logger(__name__)


class Taking:
    """Takes snapshots, one under each name at a time."""

    def __init__(
        self,
        make: Make,
        known: KnownSnapshots,
        take_turn: TakeTurnOfText,
        patience: Patience,
        cluster_id: str | None = None,
    ) -> None:
        self._make = make
        self._known = known
        self._take_turn = take_turn
        self._patience = patience
        self._cluster_id = cluster_id
        self._untold: set[str] = set()
        """Snapshots taken here of which nobody has been told: they may be undone."""
        self._protected: set[str] = set()

    async def take(self, call: SnapshotCall) -> CloudSnapshot:
        """Return the snapshot of this name as soon as it is begun, and is as its class says."""
        async with self._take_turn(write_name(call.name)):
            found = _choose(await self._known.find_named(call.name), call)
            snapshot = await self._begin(call) if found is None else found
            await self._protect(snapshot, call, is_new=found is None)
            self._untold.discard(snapshot.snapshot_id)
            return snapshot

    async def find(self, call: SnapshotCall) -> CloudSnapshot | None:
        """Return the snapshot of this name as AWS has it now; None: there is none."""
        return _choose(await self._known.find_named(call.name), call)

    async def _begin(self, call: SnapshotCall) -> CloudSnapshot:
        tags = make_tags(call, self._cluster_id)
        asked = CreateSnapshot(call.volume_id, f"Taken for Kubernetes of {call.volume_id}", tags)
        try:
            taken = await self._make(asked)
        except CloudError as error:
            # A volume that is not there may not be known yet, or a snapshot of it was taken before.
            is_missing = error.code == codes.NO_VOLUME
            lost = await self._look_for_lost(call) if is_missing or not is_refused(error) else None
            if lost is None and not is_missing:
                raise
            taken = await self._make(asked) if lost is None else lost
        taken = replace(taken, volume_id=call.volume_id, tags=tags)  # of which an answer may say nothing
        log.info("controller.snapshot_taken", volume_id=call.volume_id, snapshot_id=taken.snapshot_id)
        self._known.note_taken(call.name, taken)
        first = _choose(await self._known.find_named(call.name), call) or taken
        if first.snapshot_id != taken.snapshot_id:
            log.warning(
                "controller.snapshot_surplus", snapshot_id=taken.snapshot_id, first_id=first.snapshot_id
            )
        else:
            self._untold.add(taken.snapshot_id)
        return first

    async def _look_for_lost(self, call: SnapshotCall) -> CloudSnapshot | None:
        """Return what a call without an answer has brought about, once it is described; None: nothing."""
        waiting = self._patience.begin()
        while waiting.waited_s < LAG_S:
            await waiting.pause()
            found = _choose(await self._known.find_named(call.name), call)
            if found is not None:
                return found
        return None

    async def _protect(self, snapshot: CloudSnapshot, call: SnapshotCall, *, is_new: bool) -> None:
        snapshot_id = snapshot.snapshot_id
        if snapshot_id in self._protected or not (call.fast_restore_zones or call.lock):
            return
        try:
            await protect(self._make, snapshot_id, call, may_be_locked=not is_new)
        except CloudError as error:
            if (
                is_refused(error)
                and snapshot_id in self._untold
                and await undo(self._make, snapshot_id, call)
            ):
                self._known.note_gone(snapshot_id)
                self._untold.discard(snapshot_id)
                raise _explain_undone(snapshot_id, error) from error
            raise
        self._protected.add(snapshot_id)


def _explain_undone(snapshot_id: str, error: CloudError) -> RefusedError:
    is_denied = error.reason is Reason.PERMISSION_DENIED
    return RefusedError(
        f"{snapshot_id} was taken, cannot be as its class says, and is deleted again: {error.message}",
        hint=error.hint,
        reason=error.reason if is_denied else None,
    )


def _choose(found: Sequence[CloudSnapshot], call: SnapshotCall) -> CloudSnapshot | None:
    """Return the first of those of one name, None where there is none; AgentError for what is wrong."""
    others = [one for one in found if one.volume_id != call.volume_id]
    if others:
        raise DiffersError(
            f"A snapshot named {quote(call.name)} is there, of {others[0].volume_id or 'another volume'}: "
            f"{others[0].snapshot_id}.",
            hint=f"Take that of {call.volume_id} under another name.",
        )
    whole = [one for one in found if one.state != "error"]
    if found and not whole:
        raise AgentError(
            f"AWS failed to take {found[0].snapshot_id} of {call.volume_id}.",
            hint="Delete its VolumeSnapshot, or it where it has none, and take another. "
            "A wrong or disabled KMS key is a usual cause.",
            reason=Reason.CLOUD_ERROR,
            retryable=False,
        )
    return whole[0] if whole else None
