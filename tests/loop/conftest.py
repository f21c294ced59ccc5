"""Stand-in volumes and a real agent over them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.aws.cloud import Cloud
from tests.aws.files import FileVolumes
from tests.aws.server import AwsServer
from tests.loop.disks import Bench, open_bench


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory whose path leaves room for a control socket's: 107 bytes are all it may have."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give a place for disks and mounts, and take them down."""
    with open_bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def scratch(short_path: Path) -> Iterator[Scratch]:
    """Give directories for an agent, and take down all that was mounted and attached there."""
    scratch = Scratch(short_path).prepare()
    yield scratch
    scratch.clean()


@pytest.fixture
def agent(scratch: Scratch) -> Iterator[AgentProcess]:
    """Give an agent that the test writes a policy for and starts."""
    process = AgentProcess(scratch)
    yield process
    process.end_anyhow()


@pytest.fixture
def files(short_path: Path) -> Iterator[FileVolumes]:
    """Give a place for volumes that AWS has, and take down what was attached of them."""
    yield FileVolumes(short_path / "store")
    # A loop device still stands on the file that was stored away with its volume attached.
    Scratch(short_path).clean()


@pytest.fixture
def aws(files: FileVolumes) -> Iterator[AwsServer]:
    """Give an AWS that has those volumes."""
    with AwsServer(Cloud(files)) as server:
        yield server
