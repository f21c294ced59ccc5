"""The controller over a real socket, on volumes that a test scripts."""

from __future__ import annotations

import os
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import anyio
from grpclib.client import Channel

from agent.cloud.aws.models import CloudSnapshot, CloudVolume
from agent.controller.calls import (
    AttachCall,
    CreateCall,
    ExpandCall,
    MadeVolume,
    ModifyCall,
    NodeId,
    Page,
    Pairs,
    PublishedVolume,
    SnapshotCall,
    SnapshotQuery,
    UseQuestion,
)
from agent.controller.pages import Pages
from agent.controller.service.controller import ControllerService
from agent.core.model import VolumeId
from agent.csi.service.answering import Answering
from agent.csi.service.identity import IdentityService, Plugin
from agent.csi.service.join import Joining
from agent.csi.service.serve import serve_calls
from agent.csi.wire.controller_grpc import ControllerStub
from agent.csi.wire.csi_grpc import IdentityStub

T = TypeVar("T")

VOLUME = CloudVolume(VolumeId("vol-0123456789abcdef0"), "available", 10, "gp3", "us-east-1a")
SNAPSHOT = CloudSnapshot(
    "snap-0123456789abcdef0", VOLUME.volume_id, "completed", "2026-01-02T03:04:05+00:00", 100, 10
)
OURSELVES = frozenset({os.getuid()})


async def _succeed() -> None:
    """Do what was asked, at once."""


@dataclass
class ScriptedCloud:
    """Volumes and snapshots that do as a test says, and note what they were asked."""

    asked: list[object] = field(default_factory=list)
    do: Callable[[], Awaitable[None]] = _succeed
    listed: tuple[PublishedVolume, ...] = (PublishedVolume(VOLUME, (NodeId("i-0123456789abcdef0", "abc"),)),)
    pages: Pages[PublishedVolume] = field(default_factory=Pages)
    misuse: str | None = None

    async def create(self, call: CreateCall) -> MadeVolume:
        return await self._do(call, MadeVolume(VOLUME, (("z", "a"),), call.source, call.context))

    async def delete(self, volume_id: str) -> None:
        await self._do(("delete", volume_id), None)

    async def attach(self, call: AttachCall) -> Pairs:
        return await self._do(call, (("devicePath", "/dev/xvdaa"),))

    async def detach(self, volume_id: VolumeId, node: NodeId | None) -> None:
        await self._do(("detach", volume_id, node), None)

    async def expand(self, call: ExpandCall) -> int:
        return await self._do(call, 11 << 30)

    async def modify(self, call: ModifyCall) -> None:
        await self._do(call, None)

    async def find(self, volume_id: VolumeId) -> PublishedVolume:
        return await self._do(("find", volume_id), self.listed[0])

    async def explain_misuse(self, question: UseQuestion) -> str | None:
        return await self._do(question, self.misuse)

    async def list_volumes(self, most: int | None, token: str | None) -> Page[PublishedVolume]:
        if token is None:
            return self.pages.begin(self.listed, most)
        return self.pages.turn(token, most)

    async def take(self, call: SnapshotCall) -> CloudSnapshot:
        return await self._do(call, SNAPSHOT)

    async def list_snapshots(
        self, query: SnapshotQuery, most: int | None, token: str | None
    ) -> Page[CloudSnapshot]:
        return await self._do((query, most, token), Page((SNAPSHOT,)))

    async def _do(self, asked: object, answer: T) -> T:
        self.asked.append(asked)
        await self.do()
        return answer


@dataclass
class Face:
    """A controller that is served, and those who call it."""

    cloud: ScriptedCloud
    channel: Channel
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    is_ready: bool = True

    @property
    def controller(self) -> ControllerStub:
        return ControllerStub(self.channel)

    @property
    def identity(self) -> IdentityStub:
        return IdentityStub(self.channel)

    def count(self, method: str, code: str, duration_s: float) -> None:
        assert duration_s >= 0
        self.counted[method, code] += 1


@asynccontextmanager
async def serving(*, limit_s: float = 60.0, allowed_uids: frozenset[int] = OURSELVES) -> AsyncIterator[Face]:
    """Serve scripted volumes at a socket, with a client connected to it."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder, "csi.sock")
        listener.bind(os.fspath(path))
        listener.listen()
        channel = Channel(path=os.fspath(path))
        face = Face(ScriptedCloud(), channel)
        answering = Answering(face.count)
        try:
            async with Joining(limit_s) as joining, anyio.create_task_group() as tasks:
                services = (
                    IdentityService(
                        Plugin("ebs.csi.aws.com", "1.2.3", has_controller=True),
                        answering,
                        lambda: face.is_ready,
                    ),
                    ControllerService(face.cloud, face.cloud, joining, answering),
                )
                await tasks.start(lambda **status: serve_calls(listener, services, allowed_uids, **status))
                yield face
                tasks.cancel_scope.cancel()
        finally:
            channel.close()
