"""Tells which volumes the cluster has, and which nodes have each.

Kubernetes attaches again what is not listed at its node any more, so all is listed that a node may have:
what carries the cluster's marks, and whatever is attached to a node, by whoever it was made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from agent.base.log import get_logger
from agent.cloud.aws.answer_fields import Unread, split
from agent.cloud.aws.models import CloudVolume
from agent.controller.attaching.judge_attachment import explain_no_volume
from agent.controller.attaching.sights import Sights
from agent.controller.calls import NodeId, Page, PublishedVolume, UseQuestion
from agent.controller.pages import Pages
from agent.controller.volumes.misuse import find_misuse
from agent.controller.volumes.published import publish
from agent.core.model import VolumeId
from agent.core.model.cluster import CSI_TAGS

DescribeAll: TypeAlias = Callable[[], Awaitable["Sequence[CloudVolume | Unread]"]]
"""Describes every volume of the account in the region."""
KnowNodes: TypeAlias = Callable[[], "Mapping[str, NodeId] | None"]
"""The cluster's nodes by their instances' IDs; None: not known, so that every instance may be one."""

log = get_logger(__name__)


class Listing:
    """Finds volumes for Kubernetes, one or all."""

    def __init__(
        self,
        sights: Sights,
        describe_all: DescribeAll,
        cluster_id: str | None = None,
        know_nodes: KnowNodes = lambda: None,
    ) -> None:
        self._sights = sights
        self._describe_all = describe_all
        self._marks = CSI_TAGS if cluster_id is None else frozenset({f"kubernetes.io/cluster/{cluster_id}"})
        self._know_nodes = know_nodes
        self._pages: Pages[PublishedVolume] = Pages()

    async def find(self, volume_id: VolumeId) -> PublishedVolume:
        """Return the volume and its nodes; AgentError where AWS does not have it."""
        return publish(await self._require(volume_id), self._know_nodes())

    async def explain_misuse(self, question: UseQuestion) -> str | None:
        """Return why the volume cannot be used so; None: it can. AgentError where AWS does not have it."""
        return find_misuse(await self._require(question.volume_id), question)

    async def list_volumes(self, most: int | None, token: str | None) -> Page[PublishedVolume]:
        """Return the cluster's volumes, and all else that its nodes have attached, by their IDs in order."""
        if token is not None:
            return self._pages.turn(token, most)
        volumes, unread = split(await self._describe_all())
        for entry in unread:
            log.warning("controller.volume_not_listed", why=entry.describe()[0])
        listed = sorted(self._choose(volumes), key=lambda one: one.volume.volume_id)
        return self._pages.begin(listed, most)

    def _choose(self, volumes: Iterable[CloudVolume]) -> Iterable[PublishedVolume]:
        nodes = self._know_nodes()
        for described in volumes:
            volume = self._sights.drop_past(described)
            is_marked = any(key in self._marks for key, _ in volume.tags)
            is_held = any(
                one.instance_id is not None and (nodes is None or one.instance_id in nodes)
                for one in volume.attachments
            )
            if is_held or (is_marked and not volume.is_gone):
                yield publish(volume, nodes)

    async def _require(self, volume_id: VolumeId) -> CloudVolume:
        volume = await self._sights.look(volume_id)
        if volume is None or volume.is_gone:
            raise explain_no_volume(volume_id)
        return volume
