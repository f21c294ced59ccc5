"""Follows which nodes have the driver, and by which IDs: in every replica, since each answers sidecars."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import anyio

from agent.base.log import get_logger
from agent.controller.calls import NodeId
from agent.controller.cluster.objects import CsiNode
from agent.controller.cluster.watched import Bell, WatchApi, Watched
from agent.controller.node_ids import parse_node_id
from agent.core.errors import InvalidValueError

NoteNodes = Callable[[Iterable[NodeId]], None]
"""Is told of all nodes of the cluster."""

LOOK_S = 300.0
"""How often it is looked where nothing changed."""

log = get_logger(__name__)


async def follow_nodes(api: WatchApi, driver: str, note: NoteNodes) -> None:
    """Have ``note`` told of all nodes whenever one changes, once they were listed; never returns."""
    watched, bell = Watched(api, CsiNode), Bell()
    watched.add_bell(bell)
    async with anyio.create_task_group() as group:
        group.start_soon(watched.keep)
        while True:
            await bell.wait(LOOK_S)
            if watched.is_listed:
                note(find_node_ids(watched.known.values(), driver))


def find_node_ids(csi_nodes: Iterable[CsiNode], driver: str) -> Iterator[NodeId]:
    """Yield the IDs that the driver gave its nodes; what no node of AWS's can have is none."""
    for csi_node in csi_nodes:
        told = csi_node.find_node_id(driver)
        if told is None:
            continue
        try:
            yield parse_node_id(told)
        except InvalidValueError as error:
            log.debug("care.node_unknown", node=csi_node.metadata.name, error=error.message)
