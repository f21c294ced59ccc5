"""Another plugin of a driver's name, as the DaemonSet of AWS's driver is; the guest's agent's Python runs it.

``python second_plugin.py DRIVER REGISTRATION_SOCKET ENDPOINT``. It registers and tells a node's ID; kubelet
asks no more of it. Both sockets are gone when it is ended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from agent.csi.wire import csi_pb2, registration_pb2

VERSION = "1.1.0"
"""Higher than the agent's; kubelet keeps the one that it has, unless the newcomer's is higher."""
NODE_ID = "another"


class Answers:
    """Gives each call its answer."""

    def __init__(self, driver: str, endpoint: str) -> None:
        self._info = registration_pb2.PluginInfo(
            type="CSIPlugin", name=driver, endpoint=endpoint, supported_versions=[VERSION]
        )

    def __mapping__(self) -> Mapping[str, Handler]:
        """Return what is answered, by the paths of gRPC."""
        registration, driver = registration_pb2, csi_pb2
        told = registration.RegistrationStatusResponse()
        node = driver.NodeGetInfoResponse(node_id=NODE_ID)
        service = "/pluginregistration.Registration"
        return {
            f"{service}/GetInfo": _answer(registration.InfoRequest, self._info),
            f"{service}/NotifyRegistrationStatus": _answer(registration.RegistrationStatus, told),
            "/csi.v1.Node/NodeGetInfo": _answer(driver.NodeGetInfoRequest, node),
        }


def _answer(request: type[Any], reply: Any) -> Handler:
    async def answer(stream: Stream[Any, Any]) -> None:
        await stream.recv_message()
        await stream.send_message(reply)

    return Handler(answer, Cardinality.UNARY_UNARY, request, type(reply))


async def serve(driver: str, registration: Path, endpoint: Path) -> None:
    """Serve at both sockets until SIGTERM: the endpoint is there first, since kubelet asks it at once."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    endpoint.parent.mkdir(parents=True, exist_ok=True)
    for path in (endpoint, registration):
        path.unlink(missing_ok=True)
        await Server([Answers(driver, str(endpoint))]).start(path=str(path))
    await ended.wait()
    for path in (registration, endpoint):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
