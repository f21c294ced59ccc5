from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from functools import partial

import anyio
import pytest
from google.protobuf.json_format import MessageToDict
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from agent.controller.calls import AttachCall, NodeId, PublishedVolume, SnapshotQuery
from agent.core.errors import AgentError, RefusedError
from agent.core.reasons import Reason
from agent.csi.service.join import is_waited_for
from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.csi_pb2 import (
    CapacityRange,
    GetPluginCapabilitiesRequest,
    ProbeRequest,
)
from tests.component.controller.conftest import SNAPSHOT, VOLUME, serving
from tests.unit.controller.service.requests import NODE, create, from_snapshot
from tests.unit.csi.service.requests import block, mount
from tests.waiting import until

pytestmark = pytest.mark.anyio

UNKNOWN_LIST = "x.1"


async def test_a_claim_is_told_of_its_volume() -> None:
    """Size, context, topology and source arrive as the provisioner writes them into the volume's object."""
    async with serving() as face:
        answer = await face.controller.CreateVolume(create({"blockSize": "4096"}, source=from_snapshot()))
        assert MessageToDict(answer.volume) == {
            "volumeId": VOLUME.volume_id,
            "capacityBytes": str(10 << 30),
            "volumeContext": {"blocksize": "4096", "ebs-agent/source": SNAPSHOT.snapshot_id},
            "contentSource": {"snapshot": {"snapshotId": SNAPSHOT.snapshot_id}},
            "accessibleTopology": [{"segments": {"z": "a"}}],
        }
        assert face.counted == {("CreateVolume", "OK"): 1}


async def test_a_bad_class_reaches_nothing() -> None:
    """What is refused when it is read is never asked of AWS."""
    async with serving() as face:
        with pytest.raises(GRPCError) as refused:
            await face.controller.CreateVolume(create({"iop": "1"}))
        assert refused.value.status is Status.INVALID_ARGUMENT
        assert "'iop' is not known" in (refused.value.message or "")
        assert face.cloud.asked == []


async def test_identical_calls_share_one_piece_of_work() -> None:
    """A repeated call joins what is under way, even where who asked first has hung up; another does not."""
    async with serving() as face:
        first, both, go_on = anyio.Event(), anyio.Event(), anyio.Event()

        async def work() -> None:
            (both if first.is_set() else first).set()
            await go_on.wait()

        face.cloud.do = work
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(face.controller.CreateVolume, create())
            await first.wait()
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            for name in ("pvc-1", "pvc-1", "pvc-2"):
                tasks.start_soon(face.controller.CreateVolume, create(name=name))
            await both.wait()
            go_on.set()
        assert [call.name for call in face.cloud.asked] == ["pvc-1", "pvc-2"]  # type: ignore[attr-defined]


async def test_work_knows_whether_anybody_waits_for_it() -> None:
    """Who hung up does not, nor who was told that it takes long; who joins does."""
    async with serving(limit_s=1.0) as face:
        begun, go_on = anyio.Event(), anyio.Event()
        probes: list[Callable[[], bool]] = []

        async def work() -> None:
            probes.append(partial(copy_context().run, is_waited_for))
            begun.set()
            await go_on.wait()

        face.cloud.do = work
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(face.controller.CreateVolume, create())
            await begun.wait()
            (is_waited,) = probes
            assert is_waited()
            tasks.cancel_scope.cancel()
        await until(lambda: not is_waited())
        with pytest.raises(GRPCError, match="still being made"):
            await face.controller.CreateVolume(create())
        await until(lambda: not is_waited())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(face.controller.CreateVolume, create())
            await until(is_waited)
            go_on.set()
        assert len(face.cloud.asked) == 1


async def test_what_takes_long_is_asked_for_again() -> None:
    """Before the sidecar gives up it hears that the work goes on: ABORTED, which it takes for just that."""
    async with serving(limit_s=0.05) as face:
        face.cloud.do = anyio.sleep_forever
        with pytest.raises(GRPCError, match="The volume 'pvc-1' is still being made") as late:
            await face.controller.CreateVolume(create())
        assert late.value.status is Status.ABORTED


async def test_attach_and_detach() -> None:
    """The node arrives as an ID in two parts, and an empty one as every node."""
    async with serving() as face:
        asked = wire.ControllerPublishVolumeRequest(
            volume_id=VOLUME.volume_id, node_id=NODE, volume_capability=mount()
        )
        answer = await face.controller.ControllerPublishVolume(asked)
        assert dict(answer.publish_context) == {"devicePath": "/dev/xvdaa"}
        for node_id in (NODE, ""):
            await face.controller.ControllerUnpublishVolume(
                wire.ControllerUnpublishVolumeRequest(volume_id=VOLUME.volume_id, node_id=node_id)
            )
        node = NodeId("i-0123456789abcdef0", "abc123def456")
        assert face.cloud.asked == [
            AttachCall(VOLUME.volume_id, node),
            ("detach", VOLUME.volume_id, node),
            ("detach", VOLUME.volume_id, None),
        ]


@pytest.mark.parametrize("node_id", ["hyperpod-x", "i-x", "hyperpod--i-0123456789abcdef0", "../../i-1"])
async def test_a_detach_from_no_node_is_refused(node_id: str) -> None:
    """A node's ID that cannot be is no proof that the volume is free."""
    async with serving() as face:
        with pytest.raises(GRPCError) as refused:
            await face.controller.ControllerUnpublishVolume(
                wire.ControllerUnpublishVolumeRequest(volume_id=VOLUME.volume_id, node_id=node_id)
            )
        assert refused.value.status is Status.INVALID_ARGUMENT
        assert face.cloud.asked == []


async def test_a_refusal_names_the_node_that_has_the_volume() -> None:
    """The message goes into the pod's event as it is, with the way out."""

    async def refuse() -> None:
        raise RefusedError("vol-1 is attached to i-2.", hint="Detach it.", reason=Reason.ATTACHED_ELSEWHERE)

    async with serving() as face:
        face.cloud.do = refuse
        with pytest.raises(GRPCError, match=r"vol-1 is attached to i-2\. Detach it\.") as refused:
            await face.controller.ControllerPublishVolume(
                wire.ControllerPublishVolumeRequest(
                    volume_id=VOLUME.volume_id, node_id=NODE, volume_capability=mount()
                )
            )
        assert refused.value.status is Status.FAILED_PRECONDITION
        assert face.counted == {("ControllerPublishVolume", "FAILED_PRECONDITION"): 1}


async def test_what_cannot_be_is_as_good_as_deleted() -> None:
    """IDs that AWS never gave need no call; a missing one is a mistake."""
    async with serving() as face:
        await face.controller.DeleteVolume(wire.DeleteVolumeRequest(volume_id="nonsense"))
        await face.controller.DeleteSnapshot(wire.DeleteSnapshotRequest(snapshot_id="nonsense"))
        assert face.cloud.asked == []
        for failing in (
            face.controller.DeleteVolume(wire.DeleteVolumeRequest()),
            face.controller.DeleteSnapshot(wire.DeleteSnapshotRequest()),
        ):
            with pytest.raises(GRPCError) as refused:
                await failing
            assert refused.value.status is Status.INVALID_ARGUMENT


async def test_a_size_that_is_usable_is_told() -> None:
    """A filesystem has to grow on the node, a block device has not."""
    async with serving() as face:
        for use, is_left in ((mount(), True), (block(), False)):
            answer = await face.controller.ControllerExpandVolume(
                wire.ControllerExpandVolumeRequest(
                    volume_id=VOLUME.volume_id,
                    capacity_range=CapacityRange(required_bytes=11 << 30),
                    volume_capability=use,
                )
            )
            assert (answer.capacity_bytes, answer.node_expansion_required) == (11 << 30, is_left)


async def test_pages_of_any_size() -> None:
    """Pages of one entry work, a list that is not known any more is ABORTED, a negative size a mistake."""
    async with serving() as face:
        face.cloud.listed = tuple(PublishedVolume(VOLUME, (NodeId(f"i-0000000{n}"),)) for n in range(3))
        nodes, token = [], ""
        while True:
            page = await face.controller.ListVolumes(
                wire.ListVolumesRequest(max_entries=1, starting_token=token)
            )
            nodes += [node for entry in page.entries for node in entry.status.published_node_ids]
            token = page.next_token
            if not token:
                break
        assert nodes == ["i-00000000", "i-00000001", "i-00000002"]
        for request, code in (
            (wire.ListVolumesRequest(max_entries=1, starting_token=UNKNOWN_LIST), Status.ABORTED),
            (wire.ListVolumesRequest(max_entries=-1), Status.INVALID_ARGUMENT),
        ):
            with pytest.raises(GRPCError) as refused:
                await face.controller.ListVolumes(request)
            assert refused.value.status is code


async def test_snapshots_are_taken_and_listed() -> None:
    """A snapshot says when it was begun, how large a volume of it is, and that it can be used."""
    async with serving() as face:
        taken = await face.controller.CreateSnapshot(
            wire.CreateSnapshotRequest(source_volume_id=VOLUME.volume_id, name="nightly")
        )
        said = {
            "snapshotId": SNAPSHOT.snapshot_id,
            "sourceVolumeId": VOLUME.volume_id,
            "sizeBytes": str(10 << 30),
            "creationTime": "2026-01-02T03:04:05Z",
            "readyToUse": True,
        }
        assert MessageToDict(taken.snapshot) == said
        page = await face.controller.ListSnapshots(
            wire.ListSnapshotsRequest(max_entries=2, snapshot_id="none", starting_token=UNKNOWN_LIST)
        )
        assert [MessageToDict(entry.snapshot) for entry in page.entries] == [said]
        assert face.cloud.asked[-1] == (SnapshotQuery("none", None), 2, UNKNOWN_LIST)


async def test_a_use_is_confirmed_as_it_was_asked() -> None:
    """What can be is answered with the question's own words, what cannot with a sentence."""
    async with serving() as face:
        asked = wire.ValidateVolumeCapabilitiesRequest(
            volume_id=VOLUME.volume_id,
            volume_capabilities=[mount()],
            volume_context={"a": "b"},
            parameters={"type": "gp3"},
        )
        answer = await face.controller.ValidateVolumeCapabilities(asked)
        assert answer.confirmed.volume_capabilities == asked.volume_capabilities
        assert dict(answer.confirmed.parameters) == {"type": "gp3"}
        face.cloud.misuse = "It has no multi-attach."
        answer = await face.controller.ValidateVolumeCapabilities(asked)
        assert (answer.HasField("confirmed"), answer.message) == (False, "It has no multi-attach.")


async def test_a_volume_and_its_nodes() -> None:
    """Node IDs are byte for byte those of CSINode."""
    async with serving() as face:
        answer = await face.controller.ControllerGetVolume(
            wire.ControllerGetVolumeRequest(volume_id=VOLUME.volume_id)
        )
        assert list(answer.status.published_node_ids) == ["hyperpod-abc-i-0123456789abcdef0"]


async def test_the_plugin_says_what_it_can() -> None:
    """The sidecars begin by asking: a controller, zones, growth while in use, and all that is served."""
    async with serving() as face:
        plugin = await face.identity.GetPluginCapabilities(GetPluginCapabilitiesRequest())
        assert MessageToDict(plugin)["capabilities"] == [
            {"service": {"type": "VOLUME_ACCESSIBILITY_CONSTRAINTS"}},
            {"service": {"type": "CONTROLLER_SERVICE"}},
            {"volumeExpansion": {"type": "ONLINE"}},
        ]
        answer = await face.controller.ControllerGetCapabilities(wire.ControllerGetCapabilitiesRequest())
        kinds = {one["rpc"]["type"] for one in MessageToDict(answer)["capabilities"]}
        assert {"CREATE_DELETE_VOLUME", "LIST_VOLUMES_PUBLISHED_NODES", "MODIFY_VOLUME"} <= kinds
        assert "PUBLISH_READONLY" not in kinds
        face.is_ready = False
        assert not (await face.identity.Probe(ProbeRequest())).ready.value


async def test_strangers_are_refused() -> None:
    """The socket is root's and the controller's own user's, whatever its file's mode."""
    async with serving(allowed_uids=frozenset({4_000_000_000})) as face:
        with pytest.raises(GRPCError, match="own user may call") as refused:
            await face.controller.DeleteVolume(wire.DeleteVolumeRequest(volume_id=VOLUME.volume_id))
        assert refused.value.status is Status.PERMISSION_DENIED
        assert face.cloud.asked == []


async def test_a_fault_costs_its_own_call_alone() -> None:
    """An error that nobody foresaw ends one call, and the next is answered."""

    async def fail() -> None:
        raise AgentError("AWS is away.")

    async with serving() as face:
        face.cloud.do = fail
        with pytest.raises(GRPCError) as failed:
            await face.controller.CreateVolume(create())
        assert failed.value.status is Status.UNAVAILABLE
        assert (await face.controller.ListVolumes(wire.ListVolumesRequest())).entries
