"""The snapshots of a cluster's volumes, as Kubernetes asks for them."""

from __future__ import annotations

from collections.abc import Iterable

from agent.base.log import get_logger
from agent.cloud.aws.answer_fields import split
from agent.cloud.aws.call import Make
from agent.cloud.aws.models import CloudSnapshot
from agent.controller.calls import Page, SnapshotCall, SnapshotQuery
from agent.controller.pages import Pages
from agent.controller.patience import Patience
from agent.controller.snapshots.delete import delete_snapshot
from agent.controller.snapshots.known import DescribesSnapshots, KnownSnapshots
from agent.controller.snapshots.marks import is_of_cluster
from agent.controller.snapshots.take import TakeTurnOfText, Taking

log = get_logger(__name__)


class ClusterSnapshots:
    """Takes, deletes and lists: ``agent.controller.calls.Snapshots``."""

    def __init__(
        self,
        make: Make,
        describing: DescribesSnapshots,
        take_turn: TakeTurnOfText,
        cluster_id: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        patience = patience or Patience()
        self._make = make
        self._known = KnownSnapshots(describing, patience)
        self._take_turn = take_turn
        self._cluster_id = cluster_id
        self._taking = Taking(make, self._known, take_turn, patience, cluster_id)
        self._pages: Pages[CloudSnapshot] = Pages()

    async def take(self, call: SnapshotCall) -> CloudSnapshot:
        """Return the snapshot of this name as soon as it is begun; ``state`` says whether it is complete."""
        return await self._taking.take(call)

    async def find(self, call: SnapshotCall) -> CloudSnapshot | None:
        """Return the snapshot of this name; None: there is none. Raises DiffersError, as ``take`` does."""
        return await self._taking.find(call)

    async def delete(self, snapshot_id: str) -> None:
        """Return when the snapshot is deleted, or was before; RefusedError where it is not the cluster's."""
        async with self._take_turn(snapshot_id):
            await delete_snapshot(self._make, self._known, snapshot_id, self._cluster_id)

    async def list_snapshots(
        self, query: SnapshotQuery, most: int | None, token: str | None
    ) -> Page[CloudSnapshot]:
        """Return the snapshots that are asked for, by their IDs in order.

        By ID or by volume any of the account is found, whoever took it; else those that the cluster's tags
        name.
        """
        if token is not None:
            return self._pages.turn(token, most)
        found = [one for one in await self._find(query) if _is_meant(one, query)]
        return self._pages.begin(sorted(found, key=lambda one: one.snapshot_id), most)

    async def _find(self, query: SnapshotQuery) -> Iterable[CloudSnapshot]:
        if query.snapshot_id is not None:
            found = await self._known.find(query.snapshot_id)
            return () if found is None else (found,)
        listed, unread = split(await self._known.list_all())
        for entry in unread:
            log.warning("controller.snapshot_not_listed", why=entry.describe()[0])
        if query.source_volume_id is not None:
            return listed
        return (one for one in listed if is_of_cluster(one, self._cluster_id))


def _is_meant(snapshot: CloudSnapshot, query: SnapshotQuery) -> bool:
    return query.source_volume_id is None or snapshot.volume_id == query.source_volume_id
