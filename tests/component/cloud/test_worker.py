from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from agent.cloud.aws.calls import DescribeVolumes, GetCallerIdentity, ModifyVolume
from agent.cloud.aws.making_calls import CreateVolume
from agent.cloud.aws_worker.client import CloudClient
from agent.cloud.cloud_loop import CloudLoop
from agent.cloud.errors.explain import CloudError, require_read
from agent.core.errors import AgentError
from agent.core.model import Reason, VolumeId
from tests.aws.cloud import ZONE
from tests.aws.faults import Fault, Kind, deny
from tests.aws.world import CREDENTIALS, World
from tests.waiting import until

NOBODY = (pwd.getpwnam("nobody").pw_uid, 65534)


async def wait_until_ended(pid: int) -> None:
    await until(lambda: not Path(f"/proc/{pid}").exists())


def read_process(pid: int | None) -> dict[str, str]:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)


@pytest.fixture
def python_for_all() -> Iterator[str]:
    """Give a Python that every user can run, with the agent: a venv that lies in nobody's home."""
    if os.geteuid() != 0:
        pytest.skip("only root can choose a user")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        for python in (os.path.realpath(sys.executable), f"/usr/bin/{version}"):
            if not Path(python).exists():
                continue
            made = subprocess.run([python, "-m", "venv", "--without-pip", "--clear", directory], check=False)
            site = Path(directory, "lib", version, "site-packages")
            if made.returncode == 0 and site.exists():
                site.joinpath("agent.pth").write_text("\n".join(path for path in sys.path if path), "utf-8")
                if (
                    run_as(
                        NOBODY, [f"{directory}/bin/python", "-I", "-c", "import agent.cloud.aws_worker.main"]
                    )
                    == ""
                ):
                    yield f"{directory}/bin/python"
                    return
    pytest.skip("no Python of this version, or not this directory, is readable to everybody")


def run_as(user: tuple[int, int], argv: list[str]) -> str:
    """Run a program as a user and one group, and return what it complained of; nothing where it succeeded."""
    uid, gid = user
    try:
        done = subprocess.run(
            argv, user=uid, group=gid, extra_groups=(), capture_output=True, text=True, check=False, cwd="/"
        )
    except PermissionError as error:
        return str(error)
    return done.stderr or "failed" if done.returncode else ""


@pytest.mark.parametrize(
    "module",
    [
        "agent.daemon",
        "agent.cloud.cloud_loop",
        "agent.cloud.aws_worker.client",
        "agent.cloud.identity.identity_sources",
    ],
)
def test_daemon_never_imports_boto3(module: str) -> None:
    """What the daemon imports brings neither boto3 nor botocore into its process."""
    program = f"import sys, {module}; print(sorted({{'boto3', 'botocore'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_worker_lives_while_there_is_something_to_do(world: World) -> None:
    """There is no worker before the first call, one during calls, and none once it was idle."""
    volume_id = world.cloud.make_volume(tags={"role": "db"})
    counts: Counter[tuple[str, str]] = Counter()

    def count(operation: str, outcome: str) -> None:
        counts[operation, outcome] += 1

    async with CloudClient(world.settings(idle_s=0.3), count) as client:
        assert client.started == 0
        (volume,) = require_read(await client.make(DescribeVolumes()))
        assert (volume.volume_id, volume.tag("role")) == (volume_id, "db")
        pid = client.worker_pid
        assert pid is not None
        await client.make(GetCallerIdentity())
        assert client.worker_pid == pid
        await wait_until_ended(pid)
        await client.make(GetCallerIdentity())
        assert client.started == 2
    assert counts == {("DescribeVolumes", "done"): 1, ("GetCallerIdentity", "done"): 2}


async def test_worker_ends_where_looking_is_denied(world: World, tmp_path: Path) -> None:
    """Where the agent may not look at AWS no worker is kept for it, however often it would look."""
    world.aws.faults.add(deny("DescribeVolumes", "ec2:DescribeVolumes"))
    world.use_policy(tmp_path, "volumes: [{name: db, match: {tags: {role: db}}, block: {}}]")
    node = world.add_node(1)

    async def look_on() -> None:
        while True:
            await loop.look()
            await anyio.sleep(0.01)

    async with CloudClient(world.settings(idle_s=0.3)) as client:
        loop = CloudLoop(
            client.make,
            node.identify,
            lambda: world.policy,
            node.hands,
            node.published.append,
            clock=lambda: world.time_s,
        )
        await loop.look()
        assert client.worker_pid is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look_on)
            await wait_until_ended(client.worker_pid)
            tasks.cancel_scope.cancel()
        assert client.started == 1
    assert node.published[-1].endings["db"].reason is Reason.PERMISSION_DENIED


async def test_worker_ends_with_the_client(world: World) -> None:
    """No worker outlives the daemon's client."""
    async with CloudClient(world.settings()) as client:
        await client.make(GetCallerIdentity())
        pid = client.worker_pid
    assert pid is not None
    await wait_until_ended(pid)


async def test_killed_worker_is_replaced(world: World) -> None:
    """A worker killed under a call that may be repeated costs nothing: another answers it."""
    world.aws.faults.add(Fault("DescribeVolumes", Kind.SILENCE, delay_s=3))
    async with CloudClient(world.settings()) as client:
        await client.make(GetCallerIdentity())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.make, DescribeVolumes())
            await until(lambda: world.aws.calls["DescribeVolumes"] > 0)
            os.kill(client.worker_pid or 0, signal.SIGKILL)
        assert client.started == 2


async def test_lost_change_is_not_repeated_blindly(world: World) -> None:
    """A worker killed under a call that changes something fails it, retryable; a look finds out the rest."""
    volume_id = VolumeId(world.cloud.make_volume())
    world.aws.faults.add(Fault("ModifyVolume", Kind.LOST_ANSWER, delay_s=3))
    async with CloudClient(world.settings()) as client:
        await client.make(GetCallerIdentity())

        async def modify() -> None:
            with pytest.raises(CloudError) as raised:
                await client.make(ModifyVolume(volume_id, size_gib=2), "the volume")
            assert raised.value.retryable
            assert raised.value.code == "WorkerDied"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(modify)
            await until(lambda: world.cloud.volumes[volume_id].size == 2)
            os.kill(client.worker_pid or 0, signal.SIGKILL)
        assert world.aws.calls["ModifyVolume"] == 1


async def test_stuck_worker_is_abandoned(world: World) -> None:
    """A worker that exceeds its time is ended, and the call fails as retryable."""
    world.aws.faults.add(Fault("CreateVolume", Kind.SILENCE, delay_s=5, times=9))
    call = CreateVolume("token", ZONE, 1, "gp3", ())
    async with CloudClient(world.settings(call_timeout_s=1.5)) as client:
        with pytest.raises(CloudError, match=r"no answer in 2 s") as raised:
            await client.make(call)
        assert raised.value.retryable
        assert client.worker_pid is None


async def test_worker_without_credentials_says_so(world: World) -> None:
    """No credentials is no crash: it is PermissionDenied with what to do."""
    nothing = {**dict.fromkeys(CREDENTIALS, ""), "AWS_EC2_METADATA_DISABLED": "true"}
    async with CloudClient(world.settings(environment=nothing)) as client:
        with pytest.raises(CloudError, match="no AWS credentials") as raised:
            await client.make(DescribeVolumes())
    assert raised.value.reason is Reason.PERMISSION_DENIED


async def test_who_has_to_read_credentials_is_told(world: World, python_for_all: str) -> None:
    """Where a profile is not to be had, the hint names the user that the worker is, whoever that is."""
    profile = {**dict.fromkeys(CREDENTIALS, ""), "AWS_PROFILE": "no-such-profile"}
    for settings, user in (({}, os.geteuid()), ({"user": "daemon", "python": python_for_all}, "daemon")):
        async with CloudClient(world.settings(environment=profile, **settings)) as client:
            with pytest.raises(CloudError, match="no-such-profile") as raised:
                await client.make(DescribeVolumes())
            assert f"be read by user {user};" in str(raised.value.hint)
            with pytest.raises(CloudError) as raised:
                await client.try_out(DescribeVolumes())
            assert f"be read by user {user};" in str(raised.value.hint)


async def test_unreachable_aws_is_told(world: World) -> None:
    """Where nothing answers, the error names the service and what may be missing."""
    async with CloudClient(world.settings(endpoint="http://127.0.0.1:9", attempts=1)) as client:
        with pytest.raises(CloudError, match="did not answer DescribeVolumes") as raised:
            await client.make(DescribeVolumes())
    assert "VPC endpoint for ec2" in str(raised.value.hint)


async def test_unknown_user_is_an_error(world: World) -> None:
    """A worker that should run unprivileged never runs as root instead."""
    if os.geteuid() != 0:
        pytest.skip("only root can choose a user")
    async with CloudClient(world.settings(user="no-such-user")) as client:
        with pytest.raises(AgentError, match="no user no-such-user") as raised:
            await client.make(DescribeVolumes())
    assert "The worker is user no-such-user, who has to exist" in str(raised.value.hint)


async def test_worker_runs_unprivileged(world: World, python_for_all: str) -> None:
    """Under root, the worker is nobody: no capability, no group, no way to gain any."""
    async with CloudClient(world.settings(user="nobody", python=python_for_all)) as client:
        await client.make(GetCallerIdentity())
        facts = read_process(client.worker_pid)
    assert facts["Uid"].split() == [str(NOBODY[0])] * 4
    assert facts["Gid"].split() == [str(NOBODY[1])] * 4
    assert facts["Groups"].split() == []
    assert {facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == "1"


TRY = """
import socket, sys
attempt = open if sys.argv[1] == "read" else socket.socket(socket.AF_UNIX).connect
try:
    attempt(sys.argv[2])
except PermissionError:
    sys.exit(0)
sys.exit("it was allowed to")
"""


async def test_worker_can_do_nothing_of_root_s(world: World, python_for_all: str) -> None:
    """Who runs as the worker does reads no file of root's, and gives the daemon no orders."""
    place, group = Path(python_for_all).parents[1], pwd.getpwnam("daemon").pw_gid
    secret, orders = place / "secret", place / "agent.sock"
    secret.write_text("of root")
    secret.chmod(0o600)
    async with CloudClient(world.settings(user="daemon", python=python_for_all)) as client:
        await client.make(GetCallerIdentity())
        facts = read_process(client.worker_pid)
    worker = int(facts["Uid"].split()[0]), int(facts["Gid"].split()[0])
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(orders))
        listening.listen()
        # As the control socket is: of root, and of the group that is named like the worker's user.
        os.chown(orders, 0, group)
        orders.chmod(0o660)
        assert run_as(worker, [python_for_all, "-I", "-c", TRY, "read", str(secret)]) == ""
        assert run_as(worker, [python_for_all, "-I", "-c", TRY, "order", str(orders)]) == ""
        allowed = run_as((worker[0], group), [python_for_all, "-I", "-c", TRY, "order", str(orders)])
    assert allowed.strip() == "it was allowed to"
