"""The instance metadata service, asked over a real connection."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import anyio
import pytest

from agent.cloud.sources import Surroundings, ask_metadata
from agent.report.web import App, Request, Response, serve_app

pytestmark = pytest.mark.anyio

DOCUMENT = {
    "accountId": "111122223333",
    "availabilityZone": "us-west-2b",
    "instanceId": "i-0123456789abcdef0",
    "instanceType": "ml.g5.xlarge",
    "region": "us-west-2",
}


def make_service(token: str = "a-token") -> App:  # noqa: S107 -- no secret
    """Return a metadata service of version 2, which answers those alone that have its token."""
    app = App()

    async def give_token(request: Request) -> Response:
        assert int(request.headers["x-aws-ec2-metadata-token-ttl-seconds"]) > 0
        return Response(b"a-token")

    async def tell(request: Request) -> Response:
        assert request.headers["x-aws-ec2-metadata-token"] == token
        is_partition = request.path.endswith("/partition")
        return Response(b"aws" if is_partition else json.dumps(DOCUMENT).encode())

    app.add("PUT", "/latest/api/token", give_token)
    app.add("GET", "/latest/dynamic/instance-identity/document", tell)
    app.add("GET", "/latest/meta-data/services/partition", tell)
    return app


def surround(listener: socket.socket, timeout_s: float = 10.0) -> Surroundings:
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return Surroundings(Path("/none"), endpoint, metadata_timeout_s=timeout_s)


async def test_the_service_tells_who_the_node_is() -> None:
    """Instance, zone and region are taken from the document, asked for with a session's token."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with serve_app(make_service(), listener):
        finding = await ask_metadata(surround(listener))
    assert finding.problem is None
    assert (finding.instance_id, finding.zone) == (DOCUMENT["instanceId"], DOCUMENT["availabilityZone"])


async def test_a_service_that_refuses_is_a_problem() -> None:
    """An error in place of the document is told, not believed."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with serve_app(make_service(token="another"), listener):  # noqa: S106 -- no secret
        finding = await ask_metadata(surround(listener))
    assert "500" in (finding.problem or "")


async def test_a_service_that_never_answers_is_given_up() -> None:
    """Where packets vanish, and where a connection is taken and nothing said, the time limit holds."""
    with socket.create_server(("127.0.0.1", 0)) as silent, anyio.fail_after(10):
        finding = await ask_metadata(surround(silent, timeout_s=0.1))
    assert "did not answer" in (finding.problem or "")
