"""What ten thousand volumes cost the controller to list: seconds, and the memory of it and of its worker.

The command itself runs, asked over its socket as the external-attacher asks each minute. EC2 is a server on
loopback that has its answers ready. The floor is boto3, which reads the same answer in a process of its own
and does nothing with it.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import anyio
from grpclib.client import Channel
from typing_extensions import override

from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.controller_grpc import ControllerStub
from agent.csi.wire.csi_grpc import IdentityStub
from agent.csi.wire.csi_pb2 import ProbeRequest
from bench.processes import read_pss_bytes

COUNTS = (4_000, 10_000)
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "4"))
PAGE = 500
"""Entries that a reader takes at a time who does not take all at once."""
READY_S = 60.0

_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
_IDENTITY = (
    '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
    "<Arn>arn:aws:sts::111122223333:assumed-role/controller/0</Arn><UserId>A:0</UserId>"
    "<Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
)
_CREDENTIALS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_REGION": "us-west-2",
    "AWS_DEFAULT_REGION": "us-west-2",
}


def write_volumes(count: int) -> bytes:
    """Return EC2's answer that has as many volumes of claims, each attached, as botocore reads it."""
    volumes = "".join(map(_write_volume, range(count)))
    answer = f'<DescribeVolumesResponse xmlns="{_NAMESPACE}"><volumeSet>{volumes}</volumeSet>'
    return f"{answer}</DescribeVolumesResponse>".encode()


def _write_volume(number: int) -> str:
    volume_id, claim = f"vol-{number:017x}", f"data-trainer-{number}"
    tags = {
        "CSIVolumeName": f"pvc-{number:08x}-0000-4000-8000-000000000000",
        "ebs.csi.aws.com/cluster": "true",
        "ebs-agent:made-by": "ebs-agent",
        "kubernetes.io/cluster/abcde01234yz": "owned",
        "kubernetes.io/created-for/pvc/name": claim,
        "kubernetes.io/created-for/pvc/namespace": "training",
        "kubernetes.io/created-for/pv/name": f"pvc-{number:08x}-0000-4000-8000-000000000000",
    }
    tag_set = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items())
    return (
        f"<item><volumeId>{volume_id}</volumeId><size>500</size><snapshotId/><availabilityZone>us-west-2a"
        "</availabilityZone><status>in-use</status><createTime>2026-11-01T12:00:00.000Z</createTime>"
        f"<attachmentSet><item><volumeId>{volume_id}</volumeId><instanceId>i-{number // 4:017x}</instanceId>"
        "<device>/dev/xvdaa</device><status>attached</status><attachTime>2026-11-01T12:00:00.000Z</attachTime>"
        "<deleteOnTermination>false</deleteOnTermination></item></attachmentSet>"
        f"<tagSet>{tag_set}</tagSet><volumeType>gp3</volumeType><iops>3000</iops><throughput>125</throughput>"
        "<encrypted>true</encrypted><multiAttachEnabled>false</multiAttachEnabled></item>"
    )


@dataclass
class ReadyAws:
    """EC2 and STS on loopback, whose answers are ready."""

    endpoint: str
    calls: Counter[str]


@contextmanager
def serving_aws(volumes: bytes) -> Iterator[ReadyAws]:
    """Answer DescribeVolumes with these volumes, whatever is asked of it, until the block ends."""
    calls: Counter[str] = Counter()
    answers = {"DescribeVolumes": volumes, "GetCallerIdentity": _IDENTITY.encode()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            (operation,) = parse_qs(body)["Action"]
            calls[operation] += 1
            answer = answers[operation]
            self.send_response(200)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        @override
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield ReadyAws(f"http://127.0.0.1:{server.server_port}", calls)
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def running_controller(endpoint: str, folder: Path) -> Iterator[tuple[int, Path]]:
    """Run ``ebs-agent csi-controller`` until the block ends; gives its process ID and its socket."""
    path = folder / "csi.sock"
    environment = {**os.environ, **_CREDENTIALS, "EBS_AGENT_CLOUD_ENDPOINT": endpoint}
    with (folder / "log").open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "csi-controller", "--endpoint", f"unix://{path}"],
            env=environment,
            stdout=told,
            stderr=told,
        )
        try:
            yield process.pid, path
        finally:
            process.terminate()
            process.wait()


@dataclass(frozen=True)
class Cost:
    """What a list costs."""

    floor_s: float
    whole_s: float
    paged_s: float
    idle_bytes: int
    own_bytes: int
    """Of the controller, after it was listed over and over."""
    worker_bytes: int
    calls: float
    """To AWS, for each list."""


_READ_ALL = """
import sys, time, boto3
client = boto3.client("ec2", endpoint_url=sys.argv[1])
for _ in range(int(sys.argv[2])):
    began_s = time.perf_counter()
    client.describe_volumes()
    print(time.perf_counter() - began_s)
"""


def _time_floor(endpoint: str) -> float:
    """Return in how many seconds boto3 reads all volumes."""
    argv = [sys.executable, "-c", _READ_ALL, endpoint, str(ROUNDS)]
    told = subprocess.run(argv, env={**os.environ, **_CREDENTIALS}, capture_output=True, check=True)
    return statistics.median(map(float, told.stdout.split()))


async def _list(stub: ControllerStub, most: int) -> int:
    found, token = 0, ""
    while True:
        page = await stub.ListVolumes(wire.ListVolumesRequest(max_entries=most, starting_token=token))
        found, token = found + len(page.entries), page.next_token
        if not token:
            return found


async def _time_lists(stub: ControllerStub, most: int, count: int) -> float:
    took_s = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        found = await _list(stub, most)
        took_s.append(time.perf_counter() - began_s)
        if found != count:
            raise RuntimeError(f"{found} of {count} volumes are listed")
    return statistics.median(took_s)


def _wait_for_socket(path: Path) -> None:
    end_s = time.monotonic() + READY_S
    while not path.exists():
        if time.monotonic() > end_s:
            raise TimeoutError("the controller does not begin")
        time.sleep(0.05)


async def _wait_until_ready(channel: Channel) -> None:
    """Return once AWS has answered the controller."""
    with anyio.fail_after(READY_S):
        while not (await IdentityStub(channel).Probe(ProbeRequest())).ready.value:  # noqa: ASYNC110 -- far away
            await anyio.sleep(0.05)


def measure_listing(count: int) -> Cost:
    """Have a controller list as many volumes, whole and in pages."""

    async def ask(aws: ReadyAws, floor_s: float, pid: int, path: Path) -> Cost:
        channel = Channel(path=os.fspath(path))
        try:
            await _wait_until_ready(channel)
            idle_bytes = read_pss_bytes(pid, is_alone=True)
            stub = ControllerStub(channel)
            whole_s = await _time_lists(stub, 0, count)
            paged_s = await _time_lists(stub, PAGE, count)
        finally:
            channel.close()
        own_bytes = read_pss_bytes(pid, is_alone=True)
        worker_bytes = read_pss_bytes(pid) - own_bytes
        calls = aws.calls["DescribeVolumes"] / ROUNDS / 2
        return Cost(floor_s, whole_s, paged_s, idle_bytes, own_bytes, worker_bytes, calls)

    with (
        tempfile.TemporaryDirectory() as folder,
        serving_aws(write_volumes(count)) as aws,
        running_controller(aws.endpoint, Path(folder)) as (pid, path),
    ):
        floor_s = _time_floor(aws.endpoint)
        aws.calls.clear()
        _wait_for_socket(path)
        return asyncio.run(ask(aws, floor_s, pid, path))


def main() -> None:
    """Print what lists of several lengths cost."""
    heads = ("volumes", "floor s", "whole s", f"by {PAGE} s", "calls", "idle MB", "own MB", "worker MB")
    print("".join(f"{head:>12}" for head in heads))
    for count in COUNTS:
        cost = measure_listing(count)
        print(
            f"{count:12}{cost.floor_s:12.2f}{cost.whole_s:12.2f}{cost.paged_s:12.2f}{cost.calls:12.1f}"
            f"{cost.idle_bytes / 1e6:12.1f}{cost.own_bytes / 1e6:12.1f}{cost.worker_bytes / 1e6:12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
