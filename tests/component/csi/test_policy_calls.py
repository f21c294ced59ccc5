"""Calls about volumes of the policy, over a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from agent.core.errors import AgentError, RefusedError
from agent.core.model import Reason
from agent.csi.calls import NodeInfo, SpaceUsage
from agent.csi.policy_volumes.calls import EntryName, PublishEntryCall
from agent.csi.policy_volumes.node_service import PolicyNodeService
from agent.csi.service.answering import Answering
from agent.csi.service.identity import IdentityService, Plugin
from agent.csi.service.join import Joining
from agent.csi.service.serve import serve_calls
from agent.csi.wire import csi_pb2 as wire
from agent.csi.wire.csi_grpc import IdentityStub, NodeStub
from agent.policy.values.csi_fields import POLICY_DRIVER
from tests.component.csi.conftest import INFO, OURSELVES, USAGE
from tests.unit.csi.service.requests import PATHS, STAGING, TARGET, mount, publish, stage

pytestmark = pytest.mark.anyio

RPC = wire.NodeServiceCapability.RPC


@dataclass
class ScriptedEntries:
    """Volumes of a policy that do as a test says, and note what they were asked."""

    asked: list[object] = field(default_factory=list)
    failure: AgentError | None = None
    is_slow: bool = False

    async def publish(self, call: PublishEntryCall) -> None:
        self.asked.append(call)
        if self.is_slow:
            await anyio.sleep_forever()
        if self.failure is not None:
            raise self.failure

    async def unpublish(self, entry: EntryName, target_path: str) -> None:
        self.asked.append((entry, target_path))

    async def measure(self, entry: EntryName, target_path: str) -> SpaceUsage:
        self.asked.append((entry, target_path))
        return USAGE

    async def describe_node(self) -> NodeInfo:
        return INFO


@asynccontextmanager
async def serving(volumes: ScriptedEntries, path: Path, limit_s: float = 60.0) -> AsyncIterator[Channel]:
    """Serve at a socket, and give a client's connection to it."""
    answering = Answering()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        async with Joining(limit_s) as joining, anyio.create_task_group() as tasks:
            plugin = Plugin(POLICY_DRIVER, "1.2.3", has_own_volumes=True)
            services = (
                IdentityService(plugin, answering, lambda: True),
                PolicyNodeService(volumes, lambda _: "it is formatted", lambda: PATHS, joining, answering),
            )
            await tasks.start(lambda **status: serve_calls(listener, services, OURSELVES, **status))
            async with Channel(path=os.fspath(path)) as channel:
                yield channel
            tasks.cancel_scope.cancel()


def ask() -> wire.NodePublishVolumeRequest:
    return publish(mount("", access="MULTI_NODE_MULTI_WRITER"), volume="cache", staging="")


async def test_driver_says_what_it_is(tmp_path: Path) -> None:
    """Nothing is staged, grown, counted or in a place: the node is known by its ID and no more."""
    async with serving(ScriptedEntries(), tmp_path / "s") as channel:
        node, identity = NodeStub(channel), IdentityStub(channel)
        info = await node.NodeGetInfo(wire.NodeGetInfoRequest())
        assert (info.node_id, info.max_volumes_per_node) == (INFO.node_id, 0)
        assert not info.HasField("accessible_topology")
        said = await node.NodeGetCapabilities(wire.NodeGetCapabilitiesRequest())
        assert {one.rpc.type for one in said.capabilities} == {
            RPC.GET_VOLUME_STATS,
            RPC.SINGLE_NODE_MULTI_WRITER,
        }
        plugin = await identity.GetPluginCapabilities(wire.GetPluginCapabilitiesRequest())
        assert not plugin.capabilities
        for begin in (
            lambda: node.NodeStageVolume(stage(volume="cache")),
            lambda: node.NodeUnstageVolume(wire.NodeUnstageVolumeRequest(volume_id="cache")),
            lambda: node.NodeExpandVolume(wire.NodeExpandVolumeRequest(volume_id="cache")),
        ):
            with pytest.raises(GRPCError) as caught:
                await begin()
            assert caught.value.status is Status.UNIMPLEMENTED


async def test_calls_reach_the_volumes(tmp_path: Path) -> None:
    """By the name of the entry, whatever it looks like; kubelet's staging path, if any, is not asked for."""
    volumes = ScriptedEntries()
    async with serving(volumes, tmp_path / "s") as channel:
        node = NodeStub(channel)
        await node.NodePublishVolume(ask())
        await node.NodeUnpublishVolume(wire.NodeUnpublishVolumeRequest(volume_id="cache", target_path=TARGET))
        answer = await node.NodeGetVolumeStats(
            wire.NodeGetVolumeStatsRequest(volume_id="cache", volume_path=TARGET)
        )
        assert answer.usage[0].total == USAGE.total_bytes
        with pytest.raises(GRPCError) as caught:
            await node.NodeUnpublishVolume(
                wire.NodeUnpublishVolumeRequest(volume_id="cache", target_path=STAGING)
            )
        assert caught.value.status is Status.INVALID_ARGUMENT
    assert len(volumes.asked) == 3


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (RefusedError("No.", reason=Reason.NOT_IN_POLICY), Status.NOT_FOUND),
        (RefusedError("No.", reason=Reason.NOT_BLANK), Status.FAILED_PRECONDITION),
        (AgentError("No.", reason=Reason.NOT_IN_POLICY), Status.UNAVAILABLE),
        (AgentError("No.", reason=Reason.NOT_ATTACHED), Status.UNAVAILABLE),
        (AgentError("No.", reason=Reason.WAITING_FOR_CLOUD), Status.ABORTED),
        (AgentError("No.", reason=Reason.SHUT_DOWN), Status.UNAVAILABLE),
    ],
)
async def test_each_failure_has_its_code(tmp_path: Path, failure: AgentError, code: Status) -> None:
    """What no repetition brings about is final; all else is asked for again."""
    async with serving(ScriptedEntries(failure=failure), tmp_path / "s") as channel:
        with pytest.raises(GRPCError) as caught:
            await NodeStub(channel).NodePublishVolume(ask())
        assert caught.value.status is code


async def test_long_wait_is_answered_with_what_is_under_way(tmp_path: Path) -> None:
    """Before kubelet gives up; who asks again joins it."""
    volumes = ScriptedEntries(is_slow=True)
    async with serving(volumes, tmp_path / "s", limit_s=0.05) as channel:
        for _ in range(2):
            with pytest.raises(GRPCError, match="formatted") as caught:
                await NodeStub(channel).NodePublishVolume(ask())
            assert caught.value.status is Status.ABORTED
    assert len(volumes.asked) == 1
