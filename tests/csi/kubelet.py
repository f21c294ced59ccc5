"""A kubelet of ours: it finds plugins, registers them, and has them stage and publish volumes.

It has what a plugin can tell it by: the places and notes, a connection for each call, how long it waits, what
it does after which answer. It runs in a thread of its own, and tests talk to it by plain functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from grpclib.exceptions import GRPCError, StreamTerminatedError

from agent.csi.wire import csi_pb2
from tests.csi import registry
from tests.csi.node_calls import CALL_S, NodeCalls
from tests.csi.places import Claim, Places
from tests.csi.registry import DirectoryWatch
from tests.waiting import wait_until

T = TypeVar("T")

FIRST_RETRY_S = 0.5
"""A registration that failed is tried again after this long, and then ever more rarely."""


class Kubelet:
    """Of one node, with one driver that tests care about."""

    def __init__(self, places: Places, portal: BlockingPortal) -> None:
        self.places = places
        self.registered: dict[str, csi_pb2.NodeGetInfoResponse] = {}
        """Who the node is, by the names of the drivers that are in its CSINode."""
        self.history: list[str] = []
        """All that happened to registrations, in words."""
        self.objection: str | None = None
        """Why it refuses whoever would register; None: it does not."""
        self._portal = portal
        self._watching: Future[None] | None = None
        self._drivers: dict[str, str] = {}
        """Driver by name of its socket in the registry."""
        self._talking: set[str] = set()
        """Sockets whose registration is under way."""

    @property
    def node(self) -> NodeCalls:
        """The calls to the driver, for ``begin``."""
        return NodeCalls(self.places, self.places.root / "plugins" / self.places.driver / "csi.sock")

    def start(self) -> Kubelet:
        """Make what is missing of its root, register all plugins found, and go on watching for them."""
        self.places.registry.mkdir(0o750, parents=True, exist_ok=True)
        watch = DirectoryWatch(self.places.registry)
        self._watching = self._portal.start_task_soon(self._watch, watch)
        return self

    def stop(self) -> None:
        """End, as by ``systemctl stop``: what is mounted stays, plugins see nothing of it."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        self.registered.clear()
        self._drivers.clear()

    def wait_registered(self) -> csi_pb2.NodeGetInfoResponse:
        """Return who the node is once the driver is registered."""
        return wait_until(
            lambda: self.registered.get(self.places.driver),
            f"{self.places.driver} registers; so far {self.history}",
        )

    def begin(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> Future[T]:
        """Begin a call and return its future result; to cancel it is to hang up."""
        return self._portal.start_task_soon(function, *arguments)

    def stage(self, claim: Claim) -> Path:
        return self.begin(self.node.stage, claim).result(CALL_S)

    def publish(self, claim: Claim, pod: str = "pod") -> Path:
        return self.begin(self.node.publish, claim, pod).result(CALL_S)

    def unpublish(self, claim: Claim, pod: str = "pod") -> None:
        self.begin(self.node.unpublish, claim, pod).result(CALL_S)

    def unstage(self, claim: Claim) -> None:
        self.begin(self.node.unstage, claim).result(CALL_S)

    def expand(self, claim: Claim, size_bytes: int) -> int:
        return self.begin(self.node.expand, claim, size_bytes).result(CALL_S)

    def measure(self, claim: Claim, pod: str = "pod") -> dict[str, csi_pb2.VolumeUsage]:
        return self.begin(self.node.measure, claim, pod).result(CALL_S)

    def ask(self, method: str, request: Any) -> Any:
        """Ask what kubelet itself would not: any request of the node service."""
        return self.begin(self.node.ask, method, request).result(CALL_S)

    async def _watch(self, watch: DirectoryWatch) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                for path in self.places.registry.iterdir():
                    tasks.start_soon(self._register, path)
                async for name, is_there in watch.changes():
                    # A new socket in the place of one that is known is a new plugin.
                    self._deregister(name)
                    if is_there:
                        tasks.start_soon(self._register, self.places.registry / name)
        finally:
            watch.close()

    async def _register(self, socket: Path) -> None:
        """Register whoever listens at a name of the registry; try again while it is there."""
        if socket.name.startswith(".") or socket.name in {*self._drivers, *self._talking}:
            return
        self._talking.add(socket.name)
        try:
            pause_s = FIRST_RETRY_S
            while await anyio.Path(socket).is_socket():
                try:
                    await self._register_once(socket)
                except (OSError, GRPCError, StreamTerminatedError, asyncio.TimeoutError) as error:
                    self.history.append(f"{socket.name}: {error!r}")
                if socket.name in self._drivers:
                    return
                await anyio.sleep(pause_s)
                pause_s *= 2
        finally:
            self._talking.remove(socket.name)

    async def _register_once(self, socket: Path) -> None:
        info = await registry.get_info(socket)
        assert info.type == "CSIPlugin"
        assert list(info.supported_versions) == ["1.0.0"]
        node = await NodeCalls(self.places, Path(info.endpoint)).get_info()
        if self.objection is not None:
            self.history.append(f"refused {info.name}")
            await registry.notify(socket, self.objection)
            return
        await registry.notify(socket, None)
        self.registered[info.name] = node
        self._drivers[socket.name] = info.name
        self.history.append(f"registered {info.name}")

    def _deregister(self, socket_name: str) -> None:
        if (driver := self._drivers.pop(socket_name, None)) is not None:
            del self.registered[driver]
            self.history.append(f"deregistered {driver}")


@contextmanager
def running_kubelet(root: Path, driver: str) -> Iterator[Kubelet]:
    """Give a kubelet that runs, and stop it; what it had mounted is the test's to take down."""
    with start_blocking_portal() as portal:
        kubelet = Kubelet(Places(root, driver), portal).start()
        try:
            yield kubelet
        finally:
            kubelet.stop()
