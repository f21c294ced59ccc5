"""The Kubernetes face over a real socket, on volumes that a test scripts."""

from __future__ import annotations

import os
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from grpclib.client import Channel

from agent.core.model import VolumeId
from agent.csi.calls import ExpandCall, NodeInfo, PublishCall, SpaceUsage, StageCall
from agent.csi.service.answering import Answering
from agent.csi.service.identity import IdentityService, Plugin
from agent.csi.service.join import Joining
from agent.csi.service.node import NodeService
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.service.registration import Registration, RegistrationService
from agent.csi.service.serve import serve_calls
from agent.csi.wire.csi_grpc import IdentityStub, NodeStub
from agent.csi.wire.registration_grpc import RegistrationStub
from tests.unit.csi.service.requests import PATHS

DRIVER = "ebs.csi.hyperpod-agent"
USAGE = SpaceUsage(100, 40, 60, 10, 4, 6)
INFO = NodeInfo("i-0123456789abcdef0", 27, {"topology.kubernetes.io/zone": "us-east-1a"})
OURSELVES = frozenset({os.getuid()})


async def _succeed() -> None:
    """Do what was asked, at once."""


@dataclass
class ScriptedVolumes:
    """Volumes that do as a test says, and note what they were asked."""

    asked: list[object] = field(default_factory=list)
    do: Callable[[], Awaitable[None]] = _succeed
    usage: SpaceUsage = USAGE
    info: NodeInfo = INFO

    async def stage(self, call: StageCall) -> None:
        await self._do(call)

    async def unstage(self, volume_id: VolumeId, staging_path: str) -> None:
        await self._do(("unstage", volume_id, staging_path))

    async def publish(self, call: PublishCall) -> None:
        await self._do(call)

    async def unpublish(self, volume_id: VolumeId, target_path: str) -> None:
        await self._do(("unpublish", volume_id, target_path))

    async def expand(self, call: ExpandCall) -> int:
        await self._do(call)
        return 2 << 30

    async def measure(self, volume_id: VolumeId, volume_path: str) -> SpaceUsage:
        await self._do(("measure", volume_id, volume_path))
        return self.usage

    async def describe_node(self) -> NodeInfo:
        await self._do("describe")
        return self.info

    async def _do(self, asked: object) -> None:
        self.asked.append(asked)
        await self.do()


@dataclass
class Face:
    """A face that is served, and those who call it."""

    volumes: ScriptedVolumes
    channel: Channel
    path: Path
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    registrations: list[Registration] = field(default_factory=list)
    is_ready: bool = True
    arrived: int = 0
    """Requests about volumes that were begun to be answered."""

    @property
    def node(self) -> NodeStub:
        return NodeStub(self.channel)

    @property
    def identity(self) -> IdentityStub:
        return IdentityStub(self.channel)

    @property
    def registration(self) -> RegistrationStub:
        return RegistrationStub(self.channel)

    def find_paths(self) -> KubeletPaths:
        self.arrived += 1
        return PATHS

    def count(self, method: str, code: str, duration_s: float) -> None:
        assert duration_s >= 0
        self.counted[method, code] += 1


@asynccontextmanager
async def serving(
    *, limit_s: float = 60.0, allowed_uids: frozenset[int] = OURSELVES, progress: str | None = None
) -> AsyncIterator[Face]:
    """Serve scripted volumes at a socket, with a client connected to it."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder, "csi.sock")
        listener.bind(os.fspath(path))
        listener.listen()
        channel = Channel(path=os.fspath(path))
        face = Face(ScriptedVolumes(), channel, path)
        answering = Answering(face.count)
        try:
            async with Joining(limit_s) as joining, anyio.create_task_group() as tasks:
                services = (
                    IdentityService(
                        Plugin(DRIVER, "1.2.3", {"commit": "abc"}), answering, lambda: face.is_ready
                    ),
                    NodeService(face.volumes, face.find_paths, joining, answering, lambda _: progress),
                    RegistrationService(DRIVER, "/endpoint", answering, face.registrations.append),
                )
                await tasks.start(lambda **status: serve_calls(listener, services, allowed_uids, **status))
                yield face
                tasks.cancel_scope.cancel()
        finally:
            channel.close()


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    async with serving() as served:
        yield served
