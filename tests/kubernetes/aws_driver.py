"""Two controllers for the same claims, as processes here: AWS's own, and ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from grpclib.client import Channel

from agent.csi.volumes.node_info import AWS_DRIVER as DRIVER
from agent.csi.wire.controller_grpc import ControllerStub
from tests.aws.cloud import REGION
from tests.aws.world import CREDENTIALS
from tests.kubernetes import programs
from tests.waiting import until

CLUSTER = "mine"
"""The cluster's ID, in tags of what is made for it."""
AWS, OURS = "AWS's", "ours"


@asynccontextmanager
async def run_controller(whose: str, directory: Path, endpoint: str) -> AsyncIterator[ControllerStub]:
    """Have a controller work, and nobody else; ``endpoint``: of EC2 and SageMaker."""
    path = directory / "csi.sock"
    path.unlink(missing_ok=True)
    argv, environment = tell_how(whose, path, endpoint)
    with (directory / "controller.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 -- returns at once
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=environment,
        )
    try:
        await until(path.exists)
        async with Channel(path=os.fspath(path)) as channel:
            yield ControllerStub(channel)
    finally:
        process.kill()
        process.wait()


def tell_how(whose: str, path: Path, endpoint: str) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return what a controller is run with to listen at a path, and its environment."""
    argv, told = (_start_aws if whose == AWS else _start_ours)(path, endpoint)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return argv, {**plain, **CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true", **told}


def _start_aws(path: Path, endpoint: str) -> tuple[Sequence[str], Mapping[str, str]]:
    arguments = ["controller", f"--endpoint=unix://{path}", f"--k8s-tag-cluster-id={CLUSTER}", "--batching"]
    told = {"AWS_REGION": REGION, "AWS_ENDPOINT_URL": endpoint}
    return [str(programs.get_program(programs.AWS_DRIVER)), *arguments], told


def _start_ours(path: Path, endpoint: str) -> tuple[Sequence[str], Mapping[str, str]]:
    arguments = [
        "--driver",
        DRIVER,
        "--region",
        REGION,
        "--cluster-id",
        CLUSTER,
        "--endpoint",
        f"unix://{path}",
    ]
    told = {"EBS_AGENT_CLOUD_ENDPOINT": endpoint}
    return [sys.executable, "-m", "agent", "csi-controller", *arguments], told
