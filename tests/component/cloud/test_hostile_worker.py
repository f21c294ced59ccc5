"""What a worker that is somebody else's by now can do to the daemon: fail the calls it was asked, and end."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.base.unit_process import UNITS_VARIABLE
from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.calls import CreateSnapshot, DescribeVolumes, GetCallerIdentity
from agent.cloud.aws_worker import process, stderr_log
from agent.cloud.aws_worker.client import CloudClient
from agent.cloud.aws_worker.process import WorkerSettings
from agent.cloud.errors.explain import CloudError, explain_unread, require_read
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.permissions.doctor_checks import describe_user
from agent.cloud.service import WORKER_USER, choose_worker_settings
from agent.core.model import Reason, VolumeId
from agent.node.isolate.unprivileged import NOBODY_UID
from tests.aws.answers import ANSWERS, VOLUME
from tests.aws.world import World
from tests.waiting import until

HEAD = f"""#!{sys.executable}
import json, os, signal, socket, subprocess, sys, time
stream = socket.socket(fileno=0)
lines = stream.makefile("rb")
def say(**reply):
    stream.sendall(json.dumps(reply).encode() + b"\\n")
"""
REPLY = """
for line in lines:
    asked = json.loads(line)
    {}
"""

MakeClient = Callable[[str], CloudClient]


@pytest.fixture
def make_client(tmp_path: Path) -> MakeClient:
    """Return a client whose worker runs this program in place of its own."""

    def make(program: str) -> CloudClient:
        worker = tmp_path / "worker"
        worker.write_text(HEAD + program)
        worker.chmod(0o755)
        return CloudClient(WorkerSettings(python=str(worker), call_timeout_s=60))

    return make


@asynccontextmanager
async def misunderstanding(operation: str, why: str) -> AsyncIterator[None]:
    with pytest.raises(CloudError, match=why) as raised:
        yield
    assert raised.value.code == "NotUnderstood"
    assert raised.value.reason is Reason.CLOUD_ERROR
    assert raised.value.message.startswith(f"AWS's answer to {operation} is not understood: ")
    assert raised.value.hint


def describe(**members: str) -> str:
    """Return a program that answers with a described volume, some of its members being these expressions."""
    volume = ANSWERS[DescribeVolumes]["Volumes"][0]
    changed = "".join(f"volume[{name!r}] = {value}\n" for name, value in members.items())
    return f"volume = {volume!r}\n{changed}" + REPLY.format(
        'say(id=asked["id"], answer={"Volumes": [volume]})'
    )


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (
            REPLY.format('say(id=asked["id"], answer={"Volumes": {}})'),
            "the Volumes of the answer is an object",
        ),
        (REPLY.format('say(id=asked["id"], answer={})'), "the Volumes of the answer is missing"),
        (REPLY.format('say(id=asked["id"], failure="no")'), "the failure is 'no', which is no object"),
        (REPLY.format('say(id=asked["id"], failure={"code": 3})'), "the code of the failure is 3"),
        (REPLY.format('say(id=asked["id"], failure={"cod": ""})'), "the failure has a member 'cod'"),
    ],
)
async def test_an_answer_that_is_none_fails_its_call(make_client: MakeClient, program: str, why: str) -> None:
    """An answer is read whole before anybody keeps it; the worker that gave it is asked again next time."""
    async with make_client(program) as client:
        for _ in range(2):
            async with misunderstanding("DescribeVolumes", why):
                await client.make(DescribeVolumes())
        assert client.started == 1


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (describe(Tags='[{"Key": "role", "Value": {"a": 1}}]'), "the Value of a tag of vol-"),
        (describe(Size='float("inf")'), "the Size of vol-.* is inf"),
        (describe(Iops='float("nan")'), "the Iops of vol-.* is nan"),
        (describe(Zone="1", State='"x" * 1_000_000'), "the State of vol-.* is 'xxx.*…, and has to be text"),
        (describe(Attachments='[{"State": 7}]'), "the State of an attachment of vol-.* is 7"),
    ],
)
async def test_an_entry_that_is_none_stands_for_itself(
    make_client: MakeClient, program: str, why: str
) -> None:
    """One entry of many that cannot be read is told of by its ID, and fails no call."""
    async with make_client(program) as client:
        (entry,) = await client.make(DescribeVolumes())
    assert isinstance(entry, Unread)
    assert entry.name == VOLUME
    assert re.search(why, entry.problem)
    assert VOLUME in explain_unread(entry).message


async def test_an_answer_in_parts_is_one(make_client: MakeClient) -> None:
    """Its items are one list; of an answer that is no list there are no parts."""
    program = describe().replace(
        'answer={"Volumes": [volume]})',
        'answer={"Volumes": [volume]}, more=True); say(id=asked["id"], answer={"Volumes": [volume] * 2})',
    )
    async with make_client(program) as client:
        assert len(await client.make(DescribeVolumes())) == 3
        assert len(await client.make(DescribeVolumes())) == 3
        with pytest.raises(CloudError, match="it is no list"):
            await client.make(GetCallerIdentity())
        assert client.started == 1


async def test_a_large_answer_is_read_whole(make_client: MakeClient) -> None:
    """As many volumes as an account has are one answer, read beside the event loop."""
    program = describe().replace("[volume]", "[dict(volume, VolumeId=f'vol-{n:017x}') for n in range(5000)]")
    async with make_client(program) as client:
        volumes = await client.make(DescribeVolumes())
    assert len(volumes) == 5000
    assert require_read(volumes)[-1].volume_id == f"vol-{4999:017x}"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ('stream.sendall(b"[" * 100_000 + b"\\n")', "it is not JSON"),
        ('stream.sendall(b"9" * (9 << 20) + b"\\n")', "its line is longer than 8388608 bytes"),
        ('say(id=asked["id"] + 1, answer={})', "nothing was asked under its number"),
        ('say(id=asked["id"], answer={}, failure={})', "it is no reply"),
        ('while True: say(id=asked["id"], answer={"Volumes": []}, more=True)', "has too many parts"),
        (
            'say(id=asked["id"], answer={"Volumes": []}, more=True); say(id=0, answer={})',
            "nothing was asked under its number",
        ),
        ('say(id=asked["id"], answer={"Volumes": [[]] * 2_000_000})', "it has too many members"),
    ],
)
async def test_a_line_that_is_no_reply_ends_the_worker(make_client: MakeClient, reply: str, why: str) -> None:
    """Who does not speak as the worker does is ended, and its call fails at once."""
    async with make_client(REPLY.format(reply)) as client:
        async with misunderstanding("DescribeVolumes", why):
            await client.make(DescribeVolumes())
        assert client.worker_pid is None
        async with misunderstanding("CreateSnapshot", why):
            await client.make(CreateSnapshot(VolumeId(VOLUME), "for a test", ()))
        assert client.started == 2


async def test_a_worker_that_says_more_than_it_was_asked_is_ended(make_client: MakeClient) -> None:
    """There is one line for each call. A flood of them ends at the first too many, whoever is asked for."""
    program = REPLY.format(
        'say(id=asked["id"], answer={"Volumes": []})\n    while True: say(id=1, answer={})'
    )
    async with make_client(program) as client:
        assert await client.make(DescribeVolumes()) == ()
        await until(lambda: client.worker_pid is None)


async def test_what_the_worker_started_ends_with_it(make_client: MakeClient, tmp_path: Path) -> None:
    """Not the process alone is killed but its whole group."""
    note = tmp_path / "child"
    program = f'child = subprocess.Popen(["sleep", "1000"])\nopen({str(note)!r}, "w").write(str(child.pid))\n'
    async with make_client(program + REPLY.format('say(id=asked["id"], answer={"Volumes": []})')) as client:
        await client.make(DescribeVolumes())
        child = int(note.read_text())
        assert is_alive(child)
    await until(lambda: not is_alive(child))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_what_the_worker_complains_of_is_told_as_its_own(make_client: MakeClient) -> None:
    """Its words are one field of an event of their own: cleaned, cut, and not without end."""
    forged = json.dumps({"event": "volume.formatted", "volume_id": VOLUME})
    program = f"""
os.write(2, {forged.encode()!r} + b"\\n\\x1b[2J\\xff" + b"x" * 2000 + b"\\n")
try:
    while True: os.write(2, b"noise\\n" * 100)
except BrokenPipeError:
    pass
"""
    with capture_logs() as logs:
        async with make_client(
            program + REPLY.format('say(id=asked["id"], answer={"Volumes": []})')
        ) as client:
            assert await client.make(DescribeVolumes()) == ()
    told = [line for line in logs if line["event"] == "cloud.worker_said"]
    assert told[0]["text"] == forged
    assert "\x1b" not in told[1]["text"]
    assert len(told[1]["text"]) == stderr_log.LINE_LIMIT
    assert len(told) <= stderr_log.LINES_LIMIT
    assert [line["event"] for line in logs if line not in told] == ["cloud.worker_silenced"]


async def test_the_worker_takes_little_of_the_node(world: World) -> None:
    """Memory, descriptors and a core file are bounded, and the kernel may end it for memory before a job."""
    async with CloudClient(world.settings()) as client:
        await client.make(GetCallerIdentity())
        process = Path(f"/proc/{client.worker_pid}")
        limits = {
            line[:25].strip(): line[25:].split()[:2] for line in (process / "limits").read_text().splitlines()
        }
        assert (process / "oom_score_adj").read_text() == "0\n"
        assert os.getpgid(client.worker_pid or 0) == client.worker_pid
    assert limits["Max address space"] == [str(1 << 30)] * 2
    assert limits["Max open files"] == ["256"] * 2
    assert limits["Max core file size"] == ["0"] * 2


def test_the_worker_is_never_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its user is missing it is the kernel's nobody, and the log says so; emulations are not AWS."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with capture_logs() as logs:
        assert choose_worker_settings(CloudIdentity(), "no-such-user").user == NOBODY_UID
    assert [line["event"] for line in logs] == ["cloud.worker_user_missing"]
    assert choose_worker_settings(CloudIdentity(), "daemon").user == "daemon"
    for endpoint in (
        "https://ec2.us-west-2.amazonaws.com",
        "http://10.0.0.1:1",
        "http://localhost.evil:1",
        "x",
    ):
        monkeypatch.setenv("EBS_AGENT_CLOUD_ENDPOINT", endpoint)
        assert choose_worker_settings(CloudIdentity(), "no-such-user").user == NOBODY_UID
    (told,) = describe_user(NOBODY_UID)
    assert told.is_ok is None
    assert str(told.mend).startswith("useradd --system")
    monkeypatch.setenv("EBS_AGENT_CLOUD_ENDPOINT", "http://127.0.0.1:1")
    assert choose_worker_settings(CloudIdentity(), "no-such-user").user is None


def test_the_worker_in_a_unit_is_the_unit_s_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of it names that user, also where another would do for a worker without a unit."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(process, "COMMON_USER", "daemon")
    assert choose_worker_settings(CloudIdentity(), "no-such-user").worker == "user daemon"
    monkeypatch.setenv(UNITS_VARIABLE, "/run/ebs-agent-faces")
    assert choose_worker_settings(CloudIdentity()).worker == f"user {WORKER_USER}"
    assert choose_worker_settings(CloudIdentity(), "no-such-user").worker == "user no-such-user"
