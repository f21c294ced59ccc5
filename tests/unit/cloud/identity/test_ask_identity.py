"""A node that does not know itself is asked again, by its own sources, for as long as an entry needs it."""

from __future__ import annotations

import anyio
import pytest

from agent.cloud.identity import identity_sources
from agent.cloud.identity.identity_sources import LONGEST_IDENTIFY_S, choose_pause_s
from agent.daemon.ask_identity import IdentityAsking
from tests.waiting import WAIT_S, until

pytestmark = pytest.mark.anyio


class Asked:
    """A node that tells which it is when it is asked for the third time."""

    def __init__(self) -> None:
        self.is_lacking = True
        self.times = 0

    async def ask(self) -> None:
        self.times += 1
        self.is_lacking = self.times < 3


async def test_it_is_asked_until_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no more, unless a new policy needs more."""
    monkeypatch.setattr(identity_sources, "IDENTIFY_AGAIN_S", 0.001)
    node = Asked()
    asking = IdentityAsking(lambda: node.is_lacking, node.ask)
    with anyio.fail_after(WAIT_S):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asking.run)
            await until(lambda: node.times == 3)
            await anyio.wait_all_tasks_blocked()
            assert node.times == 3
            node.is_lacking, node.times = True, 0
            asking.wake()
            await until(lambda: node.times == 3)
            tasks.cancel_scope.cancel()


async def test_nothing_is_asked_where_nothing_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """News are no reason to ask."""
    monkeypatch.setattr(identity_sources, "IDENTIFY_AGAIN_S", 0.0)
    node = Asked()
    node.is_lacking = False
    asking = IdentityAsking(lambda: node.is_lacking, node.ask)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(asking.run)
        for _ in range(3):
            asking.wake()
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert node.times == 0


async def test_pauses_grow_and_end_growing() -> None:
    """Whoever waits for a network at the start is served soon, and a node that is none costs little."""
    pauses = [choose_pause_s(times) for times in range(1000)]
    assert pauses[:3] == [5.0, 10.0, 20.0]
    assert max(pauses) == LONGEST_IDENTIFY_S
