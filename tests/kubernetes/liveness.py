"""Stands in for livenessprobe, whose releases are no Go modules: answers kubelet as the driver answers Probe.

Run by the Python of the controller's image, with livenessprobe's own arguments.
"""

from __future__ import annotations

import argparse
import asyncio

from aiohttp import web
from grpclib.client import Channel
from grpclib.exceptions import GRPCError

from agent.csi.wire.csi_grpc import IdentityStub
from agent.csi.wire.csi_pb2 import ProbeRequest


def main() -> None:
    """Answer until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--csi-address", required=True)
    parser.add_argument("--health-port", type=int, required=True)
    parser.add_argument("--probe-timeout", required=True)
    arguments = parser.parse_args()
    timeout_s = float(arguments.probe_timeout.removesuffix("s"))

    async def answer(_request: web.Request) -> web.Response:
        try:
            async with Channel(path=arguments.csi_address) as channel:
                told = await IdentityStub(channel).Probe(ProbeRequest(), timeout=timeout_s)
        except (OSError, GRPCError, asyncio.TimeoutError) as error:
            return web.Response(status=500, text=str(error))
        return web.Response(status=200 if told.ready.value else 500)

    application = web.Application()
    application.router.add_get("/healthz", answer)
    web.run_app(application, port=arguments.health_port, print=None)


main()
