from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.cloud.aws_worker.main import Caller
from tests.aws.cloud import REGION, Cloud
from tests.aws.server import AwsServer
from tests.aws.world import CREDENTIALS, World


@pytest.fixture(scope="session")
def server() -> Iterator[AwsServer]:
    """One server for all tests: starting it and making boto3's clients takes longer than most of them."""
    with AwsServer(Cloud()) as running:
        yield running


@pytest.fixture(scope="session")
def caller(server: AwsServer) -> Iterator[Caller]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield Caller(REGION, server.endpoint)


@pytest.fixture
def aws(server: AwsServer) -> AwsServer:
    """Return the server with an empty cloud behind it."""
    server.renew(Cloud())
    return server


@pytest.fixture
def cloud(aws: AwsServer) -> Cloud:
    return aws.cloud


@pytest.fixture
def world(aws: AwsServer, caller: Caller) -> World:
    return World(aws, caller)
