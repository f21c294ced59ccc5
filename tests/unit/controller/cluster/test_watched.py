from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from agent.controller.cluster.api import GONE, TOO_MANY, ClusterError
from agent.controller.cluster.objects import Metadata, Node
from agent.controller.cluster.watched import PAUSES_S, Watched
from agent.controller.patience import Patience


@dataclass
class NodeServer:
    """Lists one node more each time, and ends each watch as it is told to."""

    ends: list[ClusterError]
    lasts_s: float = 0.0
    now_s: float = 0.0
    pauses: list[float] = field(default_factory=list)
    done: anyio.Event = field(default_factory=anyio.Event)
    listed: int = 0

    async def list_all(self, _kind: type[Any]) -> tuple[str, list[Any]]:
        self.listed += 1
        return "1", [Node(metadata=Metadata(name=f"n{number}")) for number in range(self.listed)]

    async def watch(self, _kind: type[Any], _version: str) -> AsyncIterator[tuple[str, Any]]:
        yield "DELETED", Node(metadata=Metadata(name="n0"))
        yield "ADDED", Node(metadata=Metadata(name="new"))
        self.now_s += self.lasts_s
        raise self.ends.pop(0)

    async def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        if not self.ends:
            self.done.set()
            await anyio.sleep_forever()


async def follow(server: NodeServer) -> Watched[Node]:
    """Watch until the server has ended its last watch."""
    watched = Watched(server, Node, Patience(lambda: server.now_s, server.sleep))
    async with anyio.create_task_group() as group:
        group.start_soon(watched.keep)
        await server.done.wait()
        group.cancel_scope.cancel()
    return watched


@pytest.mark.parametrize("status", [GONE, 0, 403, 500])
async def test_a_watch_that_is_lost_begins_with_a_list(status: int) -> None:
    """What was deleted while nobody watched is not known any more, and what is new is."""
    server = NodeServer([ClusterError("It ended.", status=status) for _ in range(3)], lasts_s=1000.0)
    watched = await follow(server)
    assert (server.listed, watched.lists) == (3, 3)
    assert sorted(watched.known) == ["n1", "n2", "new"]
    assert max(server.pauses) <= PAUSES_S[0]


async def test_what_is_refused_again_and_again_is_asked_ever_more_rarely() -> None:
    """A watch that ends as soon as it is begun does not have all objects listed without a pause."""
    server = NodeServer([ClusterError("No.", status=403) for _ in range(12)])
    await follow(server)
    for pause_s, most_s in zip(server.pauses, (*PAUSES_S[1:], *[PAUSES_S[-1]] * 12), strict=False):
        assert most_s / 2 <= pause_s <= most_s


async def test_the_api_servers_own_pause_is_kept() -> None:
    """Throttled it is asked when it says, not before."""
    server = NodeServer([ClusterError("Too many.", status=TOO_MANY, retry_after_s=45.0)])
    await follow(server)
    assert server.pauses == [45.0]
