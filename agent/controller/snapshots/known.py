"""What is known of snapshots: what AWS describes, and what was done a moment ago and is not described yet.

A controller that has just begun waits a little before it takes it that there is no snapshot: the one before
it may have had one taken that is not described yet, and EC2 takes a second one under the same name.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.models import CloudSnapshot
from agent.controller.name_tags import write_name
from agent.controller.patience import Patience

LAG_S = 10.0
"""How long AWS usually takes, at the most, to describe what was made."""
REMEMBERED_S = 60.0
"""How long what was taken is there without being described; then it has been deleted by somebody."""
MOST_REMEMBERED = 8192

_SNAPSHOT_ID = re.compile(r"snap-(?:[0-9a-f]{17}|[0-9a-f]{8})", re.ASCII)


class DescribesSnapshots(Protocol):
    """What asks AWS, each answer described after it was asked for."""

    async def find_snapshot(self, snapshot_id: str, /) -> CloudSnapshot | None:
        """Return the snapshot; None: AWS's answer does not have it."""

    async def find_snapshots_named(self, name: str, /) -> Sequence[CloudSnapshot]:
        """Return those with this value of the tag CSIVolumeSnapshotName."""

    async def list_snapshots(self) -> Sequence[CloudSnapshot | Unread]:
        """Return all of the account."""


class _Taken(Struct, frozen=True):
    name: str
    """As its tag has it."""
    snapshot: CloudSnapshot
    at_s: float


class KnownSnapshots:
    """Finds snapshots, taken and deleted ones of this process as they are."""

    def __init__(self, describing: DescribesSnapshots, patience: Patience) -> None:
        self._describing = describing
        self._patience = patience
        self._begun_s = patience.clock()
        self._taken: OrderedDict[str, _Taken] = OrderedDict()
        self._gone: OrderedDict[str, None] = OrderedDict()

    async def find(self, snapshot_id: str) -> CloudSnapshot | None:
        """Return the snapshot; None: there is none."""
        if not _SNAPSHOT_ID.fullmatch(snapshot_id) or snapshot_id in self._gone:
            return None
        found = await self._describing.find_snapshot(snapshot_id)
        if found is None and snapshot_id in self._list_taken():
            return self._taken[snapshot_id].snapshot
        if found is None and await self._has_waited():
            return await self._describing.find_snapshot(snapshot_id)
        return found

    async def find_surely(self, snapshot_id: str) -> CloudSnapshot | None:
        """Return the snapshot; None only where two looks, so far apart as AWS lags, did not find it."""
        found = await self.find(snapshot_id)
        if found is None and _SNAPSHOT_ID.fullmatch(snapshot_id) and snapshot_id not in self._gone:
            await self._patience.sleep(LAG_S)
            found = await self.find(snapshot_id)
        return found

    async def find_named(self, name: str) -> tuple[CloudSnapshot, ...]:
        """Return the snapshots of this name, the first that was begun first."""
        found = await self._look_for_name(name)
        if not found and await self._has_waited():
            found = await self._look_for_name(name)
        return found

    async def list_all(self) -> Sequence[CloudSnapshot | Unread]:
        """Return all snapshots of the account, those aside that are deleted."""
        found = await self._describing.list_snapshots()
        return [one for one in found if isinstance(one, Unread) or one.snapshot_id not in self._gone]

    def note_taken(self, name: str, snapshot: CloudSnapshot) -> None:
        """Remember a snapshot that AWS may not describe yet."""
        self._taken[snapshot.snapshot_id] = _Taken(write_name(name), snapshot, self._patience.clock())

    def note_gone(self, snapshot_id: str) -> None:
        """Remember that a snapshot is deleted, which AWS may describe for a while."""
        self._taken.pop(snapshot_id, None)
        self._gone[snapshot_id] = None
        while len(self._gone) > MOST_REMEMBERED:
            self._gone.popitem(last=False)

    async def _look_for_name(self, name: str) -> tuple[CloudSnapshot, ...]:
        tag = write_name(name)
        taken = self._list_taken()
        found = {key: one.snapshot for key, one in taken.items() if one.name == tag}
        found |= {one.snapshot_id: one for one in await self._describing.find_snapshots_named(tag)}
        present = (one for one in found.values() if one.snapshot_id not in self._gone)
        return tuple(sorted(present, key=lambda one: (one.started_at, one.snapshot_id)))

    def _list_taken(self) -> OrderedDict[str, _Taken]:
        """Return what was taken a moment ago; what is older is described, or deleted."""
        now_s = self._patience.clock()
        while self._taken and now_s - next(iter(self._taken.values())).at_s > REMEMBERED_S:
            self._taken.popitem(last=False)
        return self._taken

    async def _has_waited(self) -> bool:
        """Wait until what was done before this process began is described; returns whether it was waited."""
        left_s = self._begun_s + LAG_S - self._patience.clock()
        if left_s > 0:
            await self._patience.sleep(left_s)
        return left_s > 0
