from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from lightkube.resources.coordination_v1 import Lease as LeaseObject

from agent.controller.cluster.api import CONFLICT, ClusterError
from agent.controller.cluster.lease import DEED_S, DURATION_S, RENEW_S, RIGHT_S, Lease
from agent.core.errors import OvertakenError


@dataclass
class LeaseServer:
    """The one Lease of a cluster, with versions, and an API that can be out of reach."""

    namespace: str = "default"
    lease: LeaseObject | None = None
    version: int = 0
    is_down: bool = False
    loses_answers: bool = False
    writes: list[str] = field(default_factory=list)

    async def find_in(self, _kind: type[Any], _name: str, _namespace: str) -> LeaseObject | None:
        await anyio.lowlevel.checkpoint()
        self._require_up()
        return copy.deepcopy(self.lease)

    async def create(self, made: LeaseObject, _name: str) -> None:
        self._require_up()
        if self.lease is not None:
            raise ClusterError("There is one.", status=CONFLICT)
        self._write(made)

    async def replace(self, changed: LeaseObject, _name: str) -> None:
        await anyio.lowlevel.checkpoint()
        self._require_up()
        assert changed.metadata is not None
        if changed.metadata.resourceVersion != str(self.version):
            raise ClusterError("It is not as it was.", status=CONFLICT)
        self._write(changed)
        if self.loses_answers:
            raise ClusterError("No answer.")

    def _write(self, lease: LeaseObject) -> None:
        self.version += 1
        self.lease = copy.deepcopy(lease)
        assert self.lease.metadata is not None
        assert self.lease.spec is not None
        self.lease.metadata.resourceVersion = str(self.version)
        self.writes.append(str(self.lease.spec.holderIdentity))

    def _require_up(self) -> None:
        if self.is_down:
            raise ClusterError("It is down.")


@dataclass
class Clock:
    """A replica's own."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> LeaseServer:
    return LeaseServer()


def make_lease(server: LeaseServer, holder: str, clock: Clock) -> Lease:
    return Lease(server, "care", holder, clock)


async def test_it_is_taken_once(server: LeaseServer) -> None:
    """Of two that ask at the same time one gets it, be it new or free."""
    clock = Clock()
    one, two = make_lease(server, "one", clock), make_lease(server, "two", clock)
    async with anyio.create_task_group() as group:
        group.start_soon(one._try_to_take)
        group.start_soon(two._try_to_take)
    assert (one.is_held, two.is_held) in {(True, False), (False, True)}
    assert len(server.writes) == 1


async def test_the_right_ends_before_another_can_have_it(server: LeaseServer) -> None:
    """Whatever is begun while the lease is held has ended before it can be taken over."""
    assert RIGHT_S + DEED_S < DURATION_S
    mine, others = Clock(), Clock(5.0)
    one, two = make_lease(server, "one", mine), make_lease(server, "two", others)
    assert await one._try_to_take()
    assert not await two._try_to_take()
    server.is_down = True
    mine.now += RIGHT_S - 0.1
    rights = [one.is_held]
    mine.now += 0.1
    assert [*rights, one.is_held] == [True, False]
    server.is_down = False
    others.now += DURATION_S - 0.1
    assert not await two._try_to_take()
    others.now += 0.1
    assert await two._try_to_take()


async def test_a_renewal_begins_the_others_wait_anew(server: LeaseServer) -> None:
    """It is taken over only when nothing of it changed for its whole time, by the taker's own clock."""
    mine, others = Clock(), Clock(7.0)
    one, two = make_lease(server, "one", mine), make_lease(server, "two", others)
    assert await one._try_to_take()
    for _ in range(20):
        mine.now += RENEW_S
        others.now += RENEW_S
        assert await one._try_to_take()
        assert not await two._try_to_take()


async def test_nothing_is_begun_without_it(server: LeaseServer) -> None:
    """A deed that was decided on while it was held, and is begun after it was lost, is left."""
    clock = Clock()
    lease = make_lease(server, "one", clock)
    assert await lease._try_to_take()
    async with lease.doing("do it"):
        pass
    clock.now += RIGHT_S
    with pytest.raises(OvertakenError, match="do it"):
        async with lease.doing("do it"):
            pytest.fail("it was begun")


async def test_it_is_lost_at_once_where_another_has_it(server: LeaseServer) -> None:
    """A replica that sees another one as the holder has no right any more, whatever its clock says."""
    clock = Clock()
    lease = make_lease(server, "one", clock)
    assert await lease._try_to_take()
    assert server.lease is not None
    assert server.lease.spec is not None
    server.lease.spec.holderIdentity = "two"
    assert not await lease._try_to_take()
    assert not lease.is_held


async def test_a_lost_answer_costs_nothing(server: LeaseServer) -> None:
    """A renewal that came through, and whose answer did not, is found to be its own."""
    clock = Clock()
    lease = make_lease(server, "one", clock)
    assert await lease._try_to_take()
    server.loses_answers = True
    assert not await lease._try_to_take()
    assert lease.is_held
    server.loses_answers = False
    clock.now += RIGHT_S
    assert await lease._try_to_take()
    assert lease.is_held


async def test_the_right_counts_from_when_it_was_asked_for() -> None:
    """An answer that takes long gives no right for longer than the lease was written."""
    clock = Clock()

    class Slow(LeaseServer):
        async def create(self, made: LeaseObject, name: str) -> None:
            await super().create(made, name)
            clock.now += RIGHT_S

    lease = make_lease(Slow(), "one", clock)
    await lease._try_to_take()
    assert not lease.is_held


async def test_it_is_handed_over(server: LeaseServer) -> None:
    """A replica that ends leaves it to the next one at once, and never takes it from another."""
    clock = Clock()
    one, two = make_lease(server, "one", clock), make_lease(server, "two", clock)
    assert await one._try_to_take()
    await one.release()
    assert await two._try_to_take()
    await one.release()
    assert two.is_held
    assert server.writes == ["one", "", "two"]
