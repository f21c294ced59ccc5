"""Stands in for livenessprobe, whose releases are no Go modules: answers kubelet as the driver answers Probe.

Run by the Python of the controller's image, with livenessprobe's own arguments.
"""

from __future__ import annotations

import argparse
import asyncio
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer

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

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_ready = self.path == "/healthz" and asyncio.run(probe(arguments.csi_address, timeout_s))
            self.send_response(HTTPStatus.OK if is_ready else HTTPStatus.INTERNAL_SERVER_ERROR)
            self.end_headers()

    HTTPServer(("", arguments.health_port), Health).serve_forever()


async def probe(address: str, timeout_s: float) -> bool:
    """Ask the driver whether it is ready."""
    try:
        async with Channel(path=address) as channel:
            return (await IdentityStub(channel).Probe(ProbeRequest(), timeout=timeout_s)).ready.value
    except (OSError, GRPCError, asyncio.TimeoutError):
        return False


if __name__ == "__main__":
    main()
