"""The instance metadata service, asked over a real connection."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from agent.cloud.identity.identity_sources import IdentitySources, ask_metadata
from agent.cloud.identity.zone import Zone, ask_zone, choose_zone

pytestmark = pytest.mark.anyio

DOCUMENT = {
    "accountId": "111122223333",
    "availabilityZone": "us-west-2b",
    "instanceId": "i-0123456789abcdef0",
    "instanceType": "ml.g5.xlarge",
    "region": "us-west-2",
}


@asynccontextmanager
async def serving(
    token: str = "a-token",  # noqa: S107 -- no secret
    zone_id: str | None = None,
) -> AsyncIterator[socket.socket]:
    """Be a metadata service of version 2, which answers those alone that have its token."""

    async def give_token(request: web.Request) -> web.Response:
        assert int(request.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        return web.Response(text="a-token")

    async def tell(request: web.Request) -> web.Response:
        if request.headers.get("X-aws-ec2-metadata-token") != token:
            raise web.HTTPUnauthorized
        return web.Response(text=told.get(request.path) or json.dumps(DOCUMENT))

    app = web.Application()
    app.router.add_put("/latest/api/token", give_token)
    app.router.add_get("/latest/dynamic/instance-identity/document", tell)
    told = {"/latest/meta-data/services/partition": "aws"}
    if zone_id is not None:
        told["/latest/meta-data/placement/availability-zone-id"] = zone_id
    for path in told:
        app.router.add_get(path, tell)
    listener = socket.create_server(("127.0.0.1", 0))
    runner = web.AppRunner(app, handle_signals=False)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    yield listener
    await runner.cleanup()


def surround(listener: socket.socket, timeout_s: float = 10.0) -> IdentitySources:
    endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return IdentitySources(Path("/none"), endpoint, metadata_timeout_s=timeout_s)


async def test_the_service_tells_who_the_node_is() -> None:
    """Instance, zone and region are taken from the document, asked for with a session's token."""
    async with serving() as listener:
        finding = await ask_metadata(surround(listener))
    assert finding.problem is None
    assert (finding.instance_id, finding.zone) == (DOCUMENT["instanceId"], DOCUMENT["availabilityZone"])


@pytest.mark.parametrize(
    ("said", "zone_id"),
    [("usw2-az2", "usw2-az2"), ("usw2-lax1-az1", "usw2-lax1-az1"), ("<html>", None), (None, None)],
)
async def test_the_service_tells_the_zones_id(said: str | None, zone_id: str | None) -> None:
    """Where it has one; what is none is not told on."""
    async with serving(zone_id=said) as listener:
        zone = await ask_zone(surround(listener))
    assert zone == Zone(DOCUMENT["availabilityZone"], zone_id)


@pytest.mark.parametrize(
    ("by_policy", "by_account", "is_hyperpod", "name"),
    [
        (None, None, False, "us-west-2b"),
        (None, None, True, None),
        (None, "us-west-2a", True, "us-west-2a"),
        (None, "us-west-2a", False, "us-west-2a"),
        ("us-west-2c", "us-west-2a", True, "us-west-2c"),
        ("us-west-2c", None, False, "us-west-2c"),
    ],
)
def test_zone_is_called_as_the_customer_does(
    by_policy: str | None, by_account: str | None, *, is_hyperpod: bool, name: str | None
) -> None:
    """On HyperPod the metadata's name may be another zone's to the customer; the ID is the same to all."""
    asked = Zone("us-west-2b", "usw2-az2")
    chosen = choose_zone(asked, by_policy=by_policy, by_account=by_account, is_hyperpod=is_hyperpod)
    assert chosen == Zone(name, "usw2-az2")


async def test_a_service_that_refuses_is_a_problem() -> None:
    """An error in place of the document is told, not believed."""
    async with serving(token="another") as listener:  # noqa: S106 -- no secret
        finding = await ask_metadata(surround(listener))
    assert "401" in (finding.problem or "")


async def test_a_service_that_never_answers_is_given_up() -> None:
    """Where packets vanish, and where a connection is taken and nothing said, the time limit holds."""
    with socket.create_server(("127.0.0.1", 0)) as silent, anyio.fail_after(10):
        finding = await ask_metadata(surround(silent, timeout_s=0.1))
    assert "did not answer" in (finding.problem or "")
