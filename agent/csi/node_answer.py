"""What kubelet is answered when it asks who this node is: found out then where it is not known yet.

kubelet asks when it registers a driver, and again, ever more rarely, until it is told: that is often enough.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import anyio

from agent.cloud.identity.cloud_identity import CloudIdentity
from agent.cloud.identity.identity_sources import IdentitySources
from agent.cloud.identity.zone import Zone, ask_zone, choose_zone
from agent.cloud.limits.network_interfaces import count_interfaces
from agent.core.errors import AgentError
from agent.core.model import NodeFacts
from agent.csi.calls import NodeInfo
from agent.csi.volumes.node_info import Told, describe_node, list_settings, name_node
from agent.policy.settings import CsiSettings
from agent.report.board.board import Board

IDENTIFY_S = 45.0
"""For all sources together; kubelet waits two minutes for an answer (``csiTimeout``)."""


class Surroundings(Protocol):
    """What is known of the node."""

    @property
    def facts(self) -> NodeFacts:
        """Who it is."""

    @property
    def has_standins(self) -> bool:
        """Files stand in for its volumes."""

    @property
    def identity_sources(self) -> IdentitySources:
        """Where it may be asked who the node is."""

    @property
    def account_zone(self) -> str | None:
        """Its zone as AWS calls it to the account that has the volumes; None: not told."""

    @property
    def is_hyperpod(self) -> bool:
        """It is a node of HyperPod, whose metadata speaks as another account."""

    async def identify(self) -> CloudIdentity:
        """Find out who it is now, from what needs no AWS; never raises."""


class NodeAnswer:
    """Says who the node is, by what is known around it. ``hear_news`` is called when more is known of it."""

    def __init__(
        self,
        around: Surroundings,
        board: Board,
        settings: CsiSettings,
        hear_news: Callable[[], None],
        count_interfaces: Callable[[], int] = count_interfaces,
    ) -> None:
        self._around = around
        self._board = board
        self._settings = settings
        self._hear_news = hear_news
        self._count_interfaces = count_interfaces
        self._zone = Zone()
        """As the metadata service has told it."""
        self._identifying = anyio.Lock()
        self._identified = 0
        """How often the node was identified for kubelet."""

    async def describe(self) -> NodeInfo:
        """Return who the node is, where, and how many volumes it takes; AgentError while it is not known."""
        node_id = await self._find_node_id()
        zone = await self._find_zone()
        board, interfaces = self._board, self._count_interfaces()
        return describe_node(
            node_id, board.attachments, board.statuses(), self._settings, zone=zone, interfaces=interfaces
        )

    async def say_who(self) -> NodeInfo:
        """Return who the node is, and no more, to a driver whose volumes nobody attaches."""
        return NodeInfo(await self._find_node_id())

    def find_told(self, driver: str) -> Told:
        """Return what counts of what would be said now to a driver of this name; asks nobody."""
        node_id = None
        with suppress(AgentError):
            node_id = self._name_node()
        settings = self._settings
        if driver != settings.driver:
            return Told("", node_id)
        has_room = settings.attach_limit is not None or self._board.places is not None
        return Told(list_settings(settings), node_id, has_room, self._choose_zone().name is not None)

    async def _find_node_id(self) -> str:
        try:
            return self._name_node()
        except AgentError:
            await self._identify()
        return self._name_node()

    def _name_node(self) -> str:
        around = self._around
        return name_node(around.facts, is_hyperpod=around.is_hyperpod, has_standins=around.has_standins)

    async def _identify(self) -> None:
        """Have the node identified once for all who ask meanwhile."""
        before = self._identified
        async with self._identifying:
            if self._identified != before:
                return
            facts = self._around.facts
            with anyio.move_on_after(IDENTIFY_S):
                await self._around.identify()
            self._identified += 1
        if self._around.facts != facts:
            self._hear_news()

    async def _find_zone(self) -> Zone:
        """Return the node's zone as the cluster may know it; the metadata service is asked until it tells."""
        if self._zone.zone_id is None or self._zone.name is None:
            self._zone = await ask_zone(self._around.identity_sources)
        return self._choose_zone()

    def _choose_zone(self) -> Zone:
        around, by_policy = self._around, self._settings.zone
        return choose_zone(
            self._zone, by_policy=by_policy, by_account=around.account_zone, is_hyperpod=around.is_hyperpod
        )
