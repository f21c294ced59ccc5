from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, StreamTerminatedError

from agent.cloud.aws.call import Make
from agent.controller import program as program_module
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

            await wait_until_ready(channel)
            async with anyio.create_task_group() as calls:
                calls.start_soon(ControllerStub(channel).CreateVolume, create())
                await until(lambda: scripted.asked)
                calls.cancel_scope.cancel()
            os.kill(os.getpid(), signal.SIGTERM)
            channel.close()
    assert not endpoint.exists()
    assert dict(scripted.asked[0].tags) == {"team": "storage"}  # type: ignore[attr-defined]


@dataclass
class Program:
    """A controller that is run until it is told to end, on volumes that a test scripts."""

    scripted: ScriptedCloud
    channel: Channel
    answers: list[str] = field(default_factory=list)
    has_ended: bool = False

    async def ask(self, name: str = "pvc-1") -> None:
        """Ask for a volume, and note what is answered."""
        try:
            await ControllerStub(self.channel).CreateVolume(create(name=name))
        except GRPCError as error:
            self.answers.append(error.status.name)
        except StreamTerminatedError:
            self.answers.append("none")
        else:
            self.answers.append("OK")


async def wait_until_ready(channel: Channel) -> None:
    with anyio.fail_after(60):
        while not (await IdentityStub(channel).Probe(ProbeRequest())).ready.value:  # noqa: ASYNC110
            await anyio.sleep(0.05)  # what the worker does sets no event


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[Program]:
    """Have one run that AWS has answered."""
    endpoint = tmp_path / "csi.sock"
    scripted = ScriptedCloud()
    with AwsServer(Cloud()) as aws:
        settings = ControllerSettings(endpoint, "ebs.csi.aws.com", REGION, cloud_endpoint=aws.endpoint)
        channel = Channel(path=os.fspath(endpoint))
        program = Program(scripted, channel)

        async def run() -> None:
            await run_controller(settings, lambda _make, _settings, _nodes: Parts(scripted, scripted))
            program.has_ended = True

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await until(endpoint.exists)
                await wait_until_ready(channel)
                yield program
        finally:
            channel.close()


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("error", [None, AgentError("AWS is away.")])
async def test_what_was_asked_before_the_end_is_answered(tmp_path: Path, error: AgentError | None) -> None:
    """And what comes while it ends is refused, as something to be asked of another."""
    async with running(tmp_path) as program, anyio.create_task_group() as calls:
        go_on = anyio.Event()

        async def do() -> None:
            await go_on.wait()
            if error is not None:
                raise error

        program.scripted.do = do
        calls.start_soon(program.ask)
        await until(lambda: program.scripted.asked)
        os.kill(os.getpid(), signal.SIGTERM)

        async def is_refused() -> bool:
            with anyio.move_on_after(0.5):
                await program.ask("pvc-2")
            return bool(program.answers)

        with anyio.fail_after(60):
            while not await is_refused():
                pass
        assert program.answers == ["UNAVAILABLE"]
        assert not program.has_ended
        go_on.set()
        await until(lambda: program.has_ended)
        assert program.answers == ["UNAVAILABLE", "OK" if error is None else "UNAVAILABLE"]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("is_told_twice", [False, True])
async def test_what_takes_longer_than_a_pod_has_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_told_twice: bool
) -> None:
    """Or than a person likes, who tells it to end again."""
    if not is_told_twice:
        monkeypatch.setattr(program_module, "GRACE_S", 0.2)
    async with running(tmp_path) as program, anyio.create_task_group() as calls:
        program.scripted.do = anyio.sleep_forever
        calls.start_soon(program.ask)
        await until(lambda: program.scripted.asked)
        os.kill(os.getpid(), signal.SIGTERM)
        if is_told_twice:
            os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: program.has_ended)
        await until(lambda: program.answers)
        assert program.answers == ["UNAVAILABLE"]


async def test_a_socket_that_cannot_be_is_told(tmp_path: Path) -> None:
    """Where the endpoint cannot be made the process ends at once, with the option that names it."""
    (tmp_path / "file").touch()
    settings = ControllerSettings(tmp_path / "file" / "csi.sock", "ebs.csi.aws.com", REGION)
    scripted = ScriptedCloud()
    with pytest.raises(AgentError, match="--endpoint"):
        await run_controller(settings, lambda _make, _settings, _nodes: Parts(scripted, scripted))
