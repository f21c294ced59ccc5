"""The controller's process is killed at its calls to AWS, each in turn, through the life of a claim."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError
from typing_extensions import override

from agent.controller.service.codes import UNCERTAIN
from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.controller_grpc import ControllerStub
from agent.csi.wire.csi_pb2 import CapacityRange
from tests.aws.cloud import CLUSTER_ID, REGION, ZONE, Cloud
from tests.aws.server import AwsServer, Environ
from tests.aws.world import CREDENTIALS
from tests.component.controller import quick_program
from tests.unit.controller.service.requests import create
from tests.unit.csi.service.requests import mount
from tests.waiting import until

T = TypeVar("T")

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

GIB = 1 << 30
INSTANCE = "i-0123456789abcdef0"
NODE = f"hyperpod-{CLUSTER_ID}-{INSTANCE}"
MOST_ATTEMPTS = 20
CHANGES = {
    ("create", "CreateVolume"),
    ("attach", "AttachClusterNodeVolume"),
    ("grow", "ModifyVolume"),
    ("modify", "CreateTags"),
    ("take", "CreateSnapshot"),
    ("detach", "DetachClusterNodeVolume"),
    ("delete", "DeleteVolume"),
    ("delete the snapshot", "DeleteSnapshot"),
}
"""What is called in which chapter of the story; all that is looked at comes beside it."""


class DeadlyAws(AwsServer):
    """An AWS at which the controller dies once at each kind of call in each chapter of a story.

    ``number``: it dies at this call of the whole story instead, the first being 1, and at no other.
    """

    def __init__(
        self, cloud: Cloud, kill: Callable[[], None], *, is_after: bool, number: int | None = None
    ) -> None:
        super().__init__(cloud)
        self.chapter = ""
        self.deaths: list[tuple[str, str]] = []
        self.called = 0
        self._kill = kill
        self._is_after = is_after
        self._number = number

    @override
    def _serve(
        self, environ: Environ, operation: str, parameters: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        with self._lock:
            met = self.chapter, operation
            self.called += bool(self.chapter)
            is_due = bool(self.chapter) and self._is_due(met)
            if is_due:
                self.deaths.append(met)
        if not is_due:
            return super()._serve(environ, operation, parameters)
        if self._is_after:
            super()._serve(environ, operation, parameters)
            self.cloud.note_change()
        self._kill()
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError(operation)

    def _is_due(self, met: tuple[str, str]) -> bool:
        return met not in self.deaths if self._number is None else self.called == self._number


class Controller:
    """The process, begun anew whenever it is asked and has died."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "csi.sock"
        self.endpoint = ""
        self._log = directory / "controller.log"
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def ask(self, begin: Callable[[ControllerStub], Awaitable[T]]) -> T:
        """Return what is answered at last; only what may be asked again may be answered before."""
        for _ in range(MOST_ATTEMPTS):
            await self._ensure()
            async with Channel(path=os.fspath(self.socket)) as channel:
                try:
                    return await begin(ControllerStub(channel))
                except GRPCError as error:
                    if error.status not in UNCERTAIN:
                        raise
                except (StreamTerminatedError, ConnectionError, FileNotFoundError):
                    await until(self._has_died)
        raise AssertionError(f"it never became so: {self._log.read_text()}")

    def _has_died(self) -> bool:
        return self._process is None or self._process.poll() is not None

    async def _ensure(self) -> None:
        if not self._has_died():
            return
        self.socket.unlink(missing_ok=True)
        argv = [sys.executable, quick_program.__file__, os.fspath(self.socket), self.endpoint, REGION]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 -- returns at once
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment, **CREDENTIALS},
            )
        # A worker that outlives its controller for a moment may be met by a death, too.
        await until(lambda: self.socket.exists() or self._has_died())


@pytest.mark.parametrize(
    "is_after",
    [
        pytest.param(False, marks=pytest.mark.thorough, id="before AWS hears"),
        pytest.param(True, id="before it answers"),
    ],
)
async def test_killed_at_any_call_nothing_is_twice_or_left(tmp_path: Path, *, is_after: bool) -> None:
    """By SIGKILL, and asked again over the real socket, as sidecars do; no answer on the way is final."""
    assert {*await live_and_die(tmp_path, is_after=is_after)} >= CHANGES


@pytest.mark.parametrize("number", [4, 9, 16])
async def test_killed_at_one_call_of_a_life(tmp_path: Path, number: int) -> None:
    """The controller that goes on knows from AWS alone all that came before."""
    assert len(await live_and_die(tmp_path, is_after=number % 2 == 0, number=number)) == 1


@pytest.mark.thorough
async def test_killed_at_each_call_of_a_life(tmp_path: Path) -> None:
    """One death a life, each a call later, by turns before it is heard and after, to the last call."""
    number = 1
    while await live_and_die(tmp_path, is_after=number % 2 == 0, number=number):
        number += 1
    assert number > MOST_ATTEMPTS


async def live_and_die(
    directory: Path, *, is_after: bool, number: int | None = None
) -> list[tuple[str, str]]:
    """Live a whole story with deaths, of which one volume comes and nothing is left; return the deaths."""
    cloud = Cloud()
    cloud.add_node(INSTANCE)
    controller = Controller(directory)
    with DeadlyAws(cloud, controller.kill, is_after=is_after, number=number) as aws:
        controller.endpoint = aws.endpoint
        try:
            await live(controller, aws)
        finally:
            controller.kill()
    assert len(cloud.made) == 1
    assert not cloud.volumes
    assert not cloud.ec2.snapshots
    return aws.deaths


async def live(controller: Controller, aws: DeadlyAws) -> None:
    """Have a claim made, used, changed, copied, and deleted."""
    aws.chapter = "create"
    asked = create()
    asked.accessibility_requirements.requisite.add().segments["topology.kubernetes.io/zone"] = ZONE
    made = await controller.ask(lambda stub: stub.CreateVolume(asked))
    (volume,) = aws.cloud.volumes.values()
    assert made.volume.volume_id == volume.id
    publish = wire.ControllerPublishVolumeRequest(
        volume_id=volume.id, node_id=NODE, volume_capability=mount()
    )
    aws.chapter = "attach"
    await controller.ask(lambda stub: stub.ControllerPublishVolume(publish))
    assert [(one.holder, one.state) for one in volume.emulated] == [(INSTANCE, "attached")]
    grow = wire.ControllerExpandVolumeRequest(
        volume_id=volume.id, capacity_range=CapacityRange(required_bytes=2 * GIB)
    )
    aws.chapter = "grow"
    grown = await controller.ask(lambda stub: stub.ControllerExpandVolume(grow))
    assert (grown.capacity_bytes, volume.size, len(volume.modifications)) == (2 * GIB, 2, 1)
    modify = wire.ControllerModifyVolumeRequest(
        volume_id=volume.id, mutable_parameters={"tagSpecification_1": "team=b"}
    )
    aws.chapter = "modify"
    await controller.ask(lambda stub: stub.ControllerModifyVolume(modify))
    assert ("team", "b") in {(tag["key"], tag["value"]) for tag in volume.get_tags()}
    take = wire.CreateSnapshotRequest(source_volume_id=volume.id, name="snapshot-1")
    aws.chapter = "take"
    taken = await controller.ask(lambda stub: stub.CreateSnapshot(take))
    snapshot_id = taken.snapshot.snapshot_id
    assert list(aws.cloud.ec2.snapshots) == [snapshot_id]
    release = wire.ControllerUnpublishVolumeRequest(volume_id=volume.id, node_id=NODE)
    aws.chapter = "detach"
    await controller.ask(lambda stub: stub.ControllerUnpublishVolume(release))
    assert not volume.emulated
    aws.chapter = "delete"
    await controller.ask(lambda stub: stub.DeleteVolume(wire.DeleteVolumeRequest(volume_id=volume.id)))
    aws.chapter = "delete the snapshot"
    forget = wire.DeleteSnapshotRequest(snapshot_id=snapshot_id)
    await controller.ask(lambda stub: stub.DeleteSnapshot(forget))
