"""Two replicas work at once for a moment: the one that lost its lease is in the middle of a call to AWS.

Its sidecars are gone with the lease, and the other's ask anew; the call under way arrives all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from grpclib.client import Channel
from grpclib.exceptions import GRPCError
from typing_extensions import override

from agent.controller.service.codes import UNCERTAIN
from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.controller_grpc import ControllerStub
from agent.csi.wire.csi_pb2 import CapacityRange
from tests.aws.cloud import CLUSTER_ARN, ZONE, Cloud
from tests.aws.resources import EmulatedAttachment, Pace
from tests.aws.server import AwsServer, Environ
from tests.component.controller.test_kills import GIB, INSTANCE, NODE, Controller
from tests.unit.controller.service.requests import create
from tests.unit.csi.service.requests import mount
from tests.waiting import WAIT_S, until

LEFT = "i-0123456789abcdef1"
"""The node that the volume is leaving."""

T = TypeVar("T")
Ask = Callable[[ControllerStub], Awaitable[T]]

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


class SlowAws(AwsServer):
    """An AWS that one call takes long to reach, or whose answer takes long; others overtake it."""

    def __init__(self, cloud: Cloud, *, is_after: bool) -> None:
        super().__init__(cloud)
        self._is_after = is_after
        self._operation = ""
        self.is_held = False
        self._release = threading.Event()

    def hold(self, operation: str) -> None:
        """Hold the next call of an operation until it is released."""
        self._operation, self.is_held = operation, False
        self._release.clear()

    def release(self) -> None:
        self._release.set()

    @override
    def _serve(
        self, environ: Environ, operation: str, parameters: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        with self._lock:
            is_met = operation == self._operation
            if is_met:
                self._operation = ""
        if not is_met:
            return super()._serve(environ, operation, parameters)
        if not self._is_after:
            self._wait()
            return super()._serve(environ, operation, parameters)
        answer = super()._serve(environ, operation, parameters)
        self.cloud.note_change()
        self._wait()
        return answer

    def _wait(self) -> None:
        self.is_held = True
        assert self._release.wait(WAIT_S)


class Replicas:
    """Two controllers, the first of which is overtaken in the middle of each call."""

    def __init__(self, directory: Path, aws: SlowAws) -> None:
        self._aws = aws
        self.pair: list[Controller] = []
        for name in ("first", "second"):
            (directory / name).mkdir()
            controller = Controller(directory / name)
            controller.endpoint = aws.endpoint
            self.pair.append(controller)

    def end(self) -> None:
        for controller in self.pair:
            controller.kill()

    async def overtake(self, operation: str, begin: Ask[T]) -> T:
        """Have the second one asked while the first is in the middle; return what the second answers."""
        first, second = self.pair
        self._aws.hold(operation)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._ask_once, first, begin)
                await until(lambda: self._aws.is_held)
                answer = await second.ask(begin)
                self._aws.release()
        finally:
            self._aws.release()
        return answer

    async def _ask_once(self, controller: Controller, begin: Ask[Any]) -> None:
        """Ask as a sidecar that does not ask again: nobody may be told for good that it is not so."""
        await controller._ensure()
        async with Channel(path=str(controller.socket)) as channel:
            try:
                await begin(ControllerStub(channel))
            except GRPCError as error:
                if error.status not in UNCERTAIN:
                    raise


@pytest.mark.parametrize("is_after", [False, True], ids=["the call is late", "its answer is late"])
async def test_an_overtaken_replica_does_nothing_twice(tmp_path: Path, *, is_after: bool) -> None:
    """Whichever comes first, a claim has one volume, once attached, grown, and gone."""
    cloud = Cloud()
    cloud.add_node(INSTANCE)
    with SlowAws(cloud, is_after=is_after) as aws:
        replicas = Replicas(tmp_path, aws)
        try:
            volume = await live(replicas, cloud)
        finally:
            replicas.end()
    # EC2 has no token for changes: one that is late is another change, to the same.
    assert len(volume.modifications) == (1 if is_after else 2)
    assert len(cloud.made) == 1
    assert not cloud.volumes


async def live(replicas: Replicas, cloud: Cloud) -> Any:
    """Have a claim made, used, grown and deleted; return what AWS had of its volume."""
    asked = create()
    asked.accessibility_requirements.requisite.add().segments["topology.kubernetes.io/zone"] = ZONE
    made = await replicas.overtake("CreateVolume", lambda stub: stub.CreateVolume(asked))
    (volume,) = cloud.volumes.values()
    assert made.volume.volume_id == volume.id
    publish = wire.ControllerPublishVolumeRequest(
        volume_id=volume.id, node_id=NODE, volume_capability=mount()
    )
    await replicas.overtake("AttachClusterNodeVolume", lambda stub: stub.ControllerPublishVolume(publish))
    assert [(one.holder, one.state) for one in volume.emulated] == [(INSTANCE, "attached")]
    grow = wire.ControllerExpandVolumeRequest(
        volume_id=volume.id, capacity_range=CapacityRange(required_bytes=2 * GIB)
    )
    await replicas.overtake("ModifyVolume", lambda stub: stub.ControllerExpandVolume(grow))
    assert volume.size == 2
    release = wire.ControllerUnpublishVolumeRequest(volume_id=volume.id, node_id=NODE)
    await replicas.overtake("DetachClusterNodeVolume", lambda stub: stub.ControllerUnpublishVolume(release))
    assert not volume.emulated
    delete = wire.DeleteVolumeRequest(volume_id=volume.id)
    await replicas.overtake("DeleteVolume", lambda stub: stub.DeleteVolume(delete))
    return volume


async def test_what_an_overtaken_replica_waits_for_is_not_done_when_it_comes(tmp_path: Path) -> None:
    """Its attacher is gone, the pod too, and the other has answered that the node has no volume."""
    cloud = Cloud()
    cloud.add_node(INSTANCE)
    cloud.add_node(LEFT)
    volume = cloud.volumes[cloud.make_volume()]
    leaving = EmulatedAttachment(volume.id, None, None, f"{CLUSTER_ARN}-{LEFT}", LEFT, Pace(detach_s=1e9))
    leaving.leave()
    volume.hold([leaving])
    asked = wire.ControllerPublishVolumeRequest(volume_id=volume.id, node_id=NODE, volume_capability=mount())
    release = wire.ControllerUnpublishVolumeRequest(volume_id=volume.id, node_id=NODE)
    with SlowAws(cloud, is_after=False) as aws:
        replicas = Replicas(tmp_path, aws)
        first, second = replicas.pair
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(first.ask, lambda stub: stub.ControllerPublishVolume(asked))
                await until(lambda: aws.calls["DescribeVolumes"] > 1)
                tasks.cancel_scope.cancel()
            await second.ask(lambda stub: stub.ControllerUnpublishVolume(release))
            looks = aws.calls["DescribeVolumes"]
            await until(lambda: aws.calls["DescribeVolumes"] > looks + 1)  # the first one still waits
            volume.hold([])
            looks = aws.calls["DescribeVolumes"]
            await until(lambda: aws.calls["DescribeVolumes"] > looks)
            # Its next call, if there were one, would come before what it is asked now.
            await first.ask(lambda stub: stub.ControllerUnpublishVolume(release))
            assert aws.calls["AttachClusterNodeVolume"] == 0
            assert not volume.emulated
            await second.ask(lambda stub: stub.ControllerPublishVolume(asked))
        finally:
            replicas.end()
    assert [one.holder for one in volume.emulated] == [INSTANCE]
