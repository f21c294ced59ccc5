from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest
from grpclib.client import Channel

from agent.cloud.aws.call import Make
from agent.controller.program import ControllerSettings, Parts, run_controller
from agent.controller.volumes.listing import KnowNodes
from agent.core.errors import AgentError
from agent.csi.wire.controller_grpc import ControllerStub
from agent.csi.wire.csi_grpc import IdentityStub
from agent.csi.wire.csi_pb2 import ProbeRequest
from tests.aws.cloud import REGION, Cloud
from tests.aws.server import AwsServer
from tests.aws.world import CREDENTIALS
from tests.component.controller.conftest import ScriptedCloud
from tests.unit.controller.service.requests import create
from tests.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials as a pod has them: in the environment, which the worker keeps."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("environment")
async def test_it_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    """The socket is there at once, ready when AWS has answered, and gone at the end, whatever goes on."""
    endpoint = tmp_path / "csi" / "csi.sock"
    scripted = ScriptedCloud(do=anyio.sleep_forever)

    def compose(_make: Make, _settings: ControllerSettings, _know_nodes: KnowNodes) -> Parts:
        return Parts(scripted, scripted)

    with AwsServer(Cloud()) as aws:
        settings = ControllerSettings(
            endpoint,
            "ebs.csi.aws.com",
            REGION,
            extra_tags=(("team", "storage"),),
            cloud_endpoint=aws.endpoint,
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_controller, settings, compose)
            await until(endpoint.exists)
            channel = Channel(path=os.fspath(endpoint))

            async def is_ready() -> bool:
                return (await IdentityStub(channel).Probe(ProbeRequest())).ready.value

            with anyio.fail_after(60):
                while not await is_ready():  # noqa: ASYNC110 -- what the worker does sets no event
                    await anyio.sleep(0.05)
            async with anyio.create_task_group() as calls:
                calls.start_soon(ControllerStub(channel).CreateVolume, create())
                await until(lambda: scripted.asked)
                calls.cancel_scope.cancel()
            os.kill(os.getpid(), signal.SIGTERM)
            channel.close()
    assert not endpoint.exists()
    assert dict(scripted.asked[0].tags) == {"team": "storage"}  # type: ignore[attr-defined]


async def test_a_socket_that_cannot_be_is_told(tmp_path: Path) -> None:
    """Where the endpoint cannot be made the process ends at once, with the option that names it."""
    (tmp_path / "file").touch()
    settings = ControllerSettings(tmp_path / "file" / "csi.sock", "ebs.csi.aws.com", REGION)
    scripted = ScriptedCloud()
    with pytest.raises(AgentError, match="--endpoint"):
        await run_controller(settings, lambda _make, _settings, _nodes: Parts(scripted, scripted))
