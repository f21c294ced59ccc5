"""What kubelet calls over a socket, and what it is answered."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from structlog.testing import capture_logs

from agent.core.errors import RefusedError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from agent.csi.calls import AccessMode, Capability, ExpandCall, PublishCall, SpaceUsage, StageCall
from agent.csi.service.registration import Registered, RegistrationRefused
from agent.csi.wire import csi_pb2 as wire
from agent.csi.wire import registration_pb2
from tests.component.csi.conftest import DRIVER, Face, serving
from tests.unit.csi.service.requests import STAGING, TARGET, VOLUME, mount, publish, stage
from tests.waiting import until

pytestmark = pytest.mark.anyio

ID = VolumeId(VOLUME)
CAPABILITY = Capability(AccessMode.SINGLE_NODE_WRITER)
MEASURE = wire.NodeGetVolumeStatsRequest(volume_id=VOLUME, volume_path=TARGET)


async def test_each_call_reaches_the_volumes(face: Face) -> None:
    """What kubelet does with a volume in its life is asked in the agent's words, and answered."""
    await face.node.NodeStageVolume(stage())
    await face.node.NodePublishVolume(publish(readonly=True))
    expanded = await face.node.NodeExpandVolume(
        wire.NodeExpandVolumeRequest(volume_id=VOLUME, volume_path=TARGET, volume_capability=mount())
    )
    await face.node.NodeUnpublishVolume(wire.NodeUnpublishVolumeRequest(volume_id=VOLUME, target_path=TARGET))
    await face.node.NodeUnstageVolume(
        wire.NodeUnstageVolumeRequest(volume_id=VOLUME, staging_target_path=STAGING)
    )
    assert face.volumes.asked == [
        StageCall(ID, STAGING, CAPABILITY),
        PublishCall(ID, STAGING, TARGET, CAPABILITY, is_read_only=True),
        ExpandCall(ID, TARGET),
        ("unpublish", ID, TARGET),
        ("unstage", ID, STAGING),
    ]
    assert expanded.capacity_bytes == 2 << 30
    assert {code for _, code in face.counted} == {"OK"}
    assert face.counted.total() == 5


async def test_plugin_says_who_it_is(face: Face) -> None:
    """Name, version and capabilities; that it has no controller, and is ready or not."""
    said = await face.identity.GetPluginInfo(wire.GetPluginInfoRequest())
    assert (said.name, said.vendor_version, dict(said.manifest)) == (DRIVER, "1.2.3", {"commit": "abc"})
    plugin = await face.identity.GetPluginCapabilities(wire.GetPluginCapabilitiesRequest())
    kinds = [one.WhichOneof("type") for one in plugin.capabilities]
    assert kinds == ["service", "volume_expansion"]
    node = await face.node.NodeGetCapabilities(wire.NodeGetCapabilitiesRequest())
    assert {wire.NodeServiceCapability.RPC.Type.Name(one.rpc.type) for one in node.capabilities} == {
        "STAGE_UNSTAGE_VOLUME",
        "EXPAND_VOLUME",
        "GET_VOLUME_STATS",
        "SINGLE_NODE_MULTI_WRITER",
    }
    assert (await face.identity.Probe(wire.ProbeRequest())).ready.value
    face.is_ready = False
    assert not (await face.identity.Probe(wire.ProbeRequest())).ready.value


async def test_node_says_who_it_is(face: Face) -> None:
    """Its ID, its room and its zone."""
    said = await face.node.NodeGetInfo(wire.NodeGetInfoRequest())
    assert (said.node_id, said.max_volumes_per_node) == ("i-0123456789abcdef0", 27)
    assert dict(said.accessible_topology.segments) == {"topology.kubernetes.io/zone": "us-east-1a"}


async def test_usage_is_in_bytes_and_inodes(face: Face) -> None:
    """Of a filesystem both are told, of a device its size."""
    said = await face.node.NodeGetVolumeStats(MEASURE)
    assert [(one.unit, one.total, one.used, one.available) for one in said.usage] == [
        (wire.VolumeUsage.BYTES, 100, 40, 60),
        (wire.VolumeUsage.INODES, 10, 4, 6),
    ]
    face.volumes.usage = SpaceUsage(100)
    said = await face.node.NodeGetVolumeStats(MEASURE)
    assert [(one.unit, one.total) for one in said.usage] == [(wire.VolumeUsage.BYTES, 100)]


async def test_refusal_is_said_with_the_way_out(face: Face) -> None:
    """The answer holds the sentence and the hint, and the code is the reason's."""

    async def refuse() -> None:
        raise RefusedError("The volume has data.", hint="Keep it.", reason=Reason.NOT_BLANK)

    face.volumes.do = refuse
    with pytest.raises(GRPCError) as caught:
        await face.node.NodeStageVolume(stage())
    assert caught.value.status is Status.FAILED_PRECONDITION
    assert caught.value.message == "The volume has data. Keep it."
    assert face.counted == {("NodeStageVolume", "FAILED_PRECONDITION"): 1}


async def test_bad_request_reaches_no_volume(face: Face) -> None:
    """What cannot be meant is refused before anybody is asked."""
    with pytest.raises(GRPCError) as caught:
        await face.node.NodeStageVolume(stage(path="/etc"))
    assert caught.value.status is Status.INVALID_ARGUMENT
    assert "staging_target_path" in str(caught.value.message)
    assert face.volumes.asked == []


@pytest.mark.parametrize("method", ["NodeUnstageVolume", "NodeGetVolumeStats"])
async def test_fault_of_our_own_is_an_answer(face: Face, method: str) -> None:
    """An error that nobody meant is told as such, its traceback is in the log, and the face goes on."""

    async def fail() -> None:
        raise KeyError("oops")

    face.volumes.do = fail
    request = {
        "NodeUnstageVolume": wire.NodeUnstageVolumeRequest(volume_id=VOLUME, staging_target_path=STAGING),
        "NodeGetVolumeStats": MEASURE,
    }[method]
    with capture_logs() as logs, pytest.raises(GRPCError) as caught:
        await getattr(face.node, method)(request)
    assert caught.value.status is Status.INTERNAL
    assert "KeyError" in str(caught.value.message)
    assert [line["event"] for line in logs] == ["agent.fault", "csi.failed"]
    assert (await face.identity.Probe(wire.ProbeRequest())).ready.value


async def test_identical_requests_join() -> None:
    """Fifty at once are one piece of work, and all have its result."""
    async with serving() as face:
        may_end = anyio.Event()
        face.volumes.do = may_end.wait
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(face.node.NodePublishVolume, publish())
            await until(lambda: len(face.volumes.asked) > 0)
            tasks.start_soon(face.node.NodePublishVolume, publish(target=f"{TARGET}2"))
            await until(lambda: len(face.volumes.asked) > 1 and face.arrived == 51)
            may_end.set()
        assert len(face.volumes.asked) == 2
        assert face.counted == {("NodePublishVolume", "OK"): 51}


async def test_hanging_up_leaves_the_work_going() -> None:
    """Who asks again joins what the first call began, though that one was given up."""
    async with serving() as face:
        may_end = anyio.Event()
        face.volumes.do = may_end.wait
        asking = asyncio.create_task(face.node.NodeStageVolume(stage()))
        await until(lambda: face.volumes.asked)
        asking.cancel()
        await until(lambda: face.counted[("NodeStageVolume", "CANCELLED")])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(face.node.NodeStageVolume, stage())
            await until(lambda: face.arrived == 2)
            may_end.set()
        assert len(face.volumes.asked) == 1
        assert face.counted[("NodeStageVolume", "OK")] == 1


async def test_deadline_of_the_caller_leaves_the_work_going() -> None:
    """A caller that waits less than the agent would is told so by code, and may join later."""
    async with serving() as face:
        may_end = anyio.Event()
        face.volumes.do = may_end.wait
        # In a task of its own, which grpclib cancels.
        asking = asyncio.create_task(face.node.NodeStageVolume(stage(), timeout=0.5))
        await until(lambda: face.volumes.asked)
        with pytest.raises((GRPCError, asyncio.TimeoutError)):
            await asking
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(face.node.NodeStageVolume, stage())
            await until(lambda: face.arrived == 2)
            may_end.set()
        assert len(face.volumes.asked) == 1


async def test_long_work_is_answered_with_how_far_it_is() -> None:
    """Before kubelet gives up, it is told what is under way; the work goes on, and the next call joins it."""
    async with serving(limit_s=0.05, progress="formatting, 40 %") as face:
        may_end = anyio.Event()
        face.volumes.do = may_end.wait
        for _ in range(2):
            with pytest.raises(GRPCError) as caught:
                await face.node.NodeStageVolume(stage())
            assert caught.value.status is Status.ABORTED
            assert f"{VOLUME} is still being made ready: formatting, 40 %." in str(caught.value.message)
        assert len(face.volumes.asked) == 1


async def test_failure_that_nobody_waits_for_is_no_fault() -> None:
    """Work whose callers are gone may fail; whoever asks next begins it anew."""
    async with serving(limit_s=0.05) as face:
        may_end = anyio.Event()

        async def fail() -> None:
            await may_end.wait()
            raise RefusedError("No.", reason=Reason.NOT_BLANK)

        face.volumes.do = fail
        with pytest.raises(GRPCError):
            await face.node.NodeStageVolume(stage())
        may_end.set()
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(GRPCError) as caught:
            await face.node.NodeStageVolume(stage())
        assert caught.value.status is Status.FAILED_PRECONDITION
        assert len(face.volumes.asked) == 2


async def test_stranger_is_refused() -> None:
    """Who may not call is told so, named in the log, and asks nothing of any volume."""
    async with serving(allowed_uids=frozenset({4_000_000})) as face:
        with capture_logs() as logs, pytest.raises(GRPCError) as caught:
            await face.node.NodeGetVolumeStats(MEASURE)
        assert caught.value.status is Status.PERMISSION_DENIED
        assert face.volumes.asked == []
        [line] = [line for line in logs if line["event"] == "csi.stranger"]
        assert "python" in line["caller"]


async def test_kubelet_registers_the_plugin(face: Face) -> None:
    """It is told what is at which socket, and says what came of it."""
    info = await face.registration.GetInfo(registration_pb2.InfoRequest())
    assert (info.type, info.name, info.endpoint) == ("CSIPlugin", DRIVER, "/endpoint")
    assert list(info.supported_versions) == ["1.0.0"]
    await face.registration.NotifyRegistrationStatus(
        registration_pb2.RegistrationStatus(plugin_registered=True)
    )
    assert face.registrations == [Registered(DRIVER)]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (
            "Another driver with the same name is already registered with a higher supported version",
            "DaemonSet",
        ),
        (
            'detected topology value collision: driver reported "topology.kubernetes.io/zone":"us-east-1b"',
            "label",
        ),
        ("something else", "journalctl"),
    ],
)
async def test_refused_registration_has_a_remedy(face: Face, error: str, remedy: str) -> None:
    """Each of kubelet's reasons comes with what a person can do."""
    await face.registration.NotifyRegistrationStatus(
        registration_pb2.RegistrationStatus(plugin_registered=False, error=error)
    )
    [refused] = face.registrations
    assert isinstance(refused, RegistrationRefused)
    assert refused.error == error
    assert remedy in refused.remedy
