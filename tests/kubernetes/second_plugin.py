"""Another plugin of a driver's name, as the DaemonSet of AWS's driver is; the guest's agent's Python runs it.

``python second_plugin.py DRIVER REGISTRATION_SOCKET ENDPOINT LIMIT ZONE``: it registers with a node's ID, a
limit and, where it is not empty, a zone by AWS's labels, and mounts volumes as that one does: told by the
serial, made ext4 where blkid finds nothing. Both sockets are gone when it is ended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

from agent.csi.wire import csi_pb2, registration_pb2

VERSION = "1.1.0"
"""Higher than the agent's; kubelet keeps the one that it has, unless the newcomer's is higher."""
NODE_ID = "another"
ZONES = ("topology.kubernetes.io/zone", "topology.ebs.csi.aws.com/zone")
STAGE = """
serial=$(echo "$1" | tr -d -)
device=$(lsblk --nodeps --noheadings --output PATH,SERIAL | awk -v it="$serial" '$2 == it { print $1 }')
blkid -p "$device" > /dev/null || mkfs.ext4 -q -F -m0 "$device"
mountpoint --quiet "$2" || { mkdir -p "$2"; mount "$device" "$2"; }
"""
PUBLISH = 'mountpoint --quiet "$2" || { mkdir -p "$2"; mount --bind "$1" "$2"; }'
UNMOUNT = 'if mountpoint --quiet "$1"; then umount "$1"; fi; if test -d "$1"; then rmdir "$1"; fi'


class Answers:
    """Gives each call its answer."""

    def __init__(self, driver: str, endpoint: str, limit: int, zone: str) -> None:
        self._info = registration_pb2.PluginInfo(
            type="CSIPlugin", name=driver, endpoint=endpoint, supported_versions=[VERSION]
        )
        place = csi_pb2.Topology(segments=dict.fromkeys(ZONES, zone)) if zone else None
        self._node = csi_pb2.NodeGetInfoResponse(
            node_id=NODE_ID, max_volumes_per_node=limit, accessible_topology=place
        )

    def __mapping__(self) -> Mapping[str, Handler]:
        """Return what is answered, by the paths of gRPC."""
        registration, it = registration_pb2, csi_pb2
        rpc = it.NodeServiceCapability.RPC(type=it.NodeServiceCapability.RPC.STAGE_UNSTAGE_VOLUME)
        able = it.NodeGetCapabilitiesResponse(capabilities=[it.NodeServiceCapability(rpc=rpc)])
        told = registration.RegistrationStatusResponse()
        service = "/pluginregistration.Registration"
        return {
            f"{service}/GetInfo": _answer(registration.InfoRequest, self._info),
            f"{service}/NotifyRegistrationStatus": _answer(registration.RegistrationStatus, told),
            "/csi.v1.Node/NodeGetInfo": _answer(it.NodeGetInfoRequest, self._node),
            "/csi.v1.Node/NodeGetCapabilities": _answer(it.NodeGetCapabilitiesRequest, able),
            "/csi.v1.Node/NodeStageVolume": _answer(
                it.NodeStageVolumeRequest,
                it.NodeStageVolumeResponse(),
                lambda asked: _run(STAGE, asked.volume_id, asked.staging_target_path),
            ),
            "/csi.v1.Node/NodePublishVolume": _answer(
                it.NodePublishVolumeRequest,
                it.NodePublishVolumeResponse(),
                lambda asked: _run(PUBLISH, asked.staging_target_path, asked.target_path),
            ),
            "/csi.v1.Node/NodeUnpublishVolume": _answer(
                it.NodeUnpublishVolumeRequest,
                it.NodeUnpublishVolumeResponse(),
                lambda asked: _run(UNMOUNT, asked.target_path),
            ),
            "/csi.v1.Node/NodeUnstageVolume": _answer(
                it.NodeUnstageVolumeRequest,
                it.NodeUnstageVolumeResponse(),
                lambda asked: _run(UNMOUNT, asked.staging_target_path),
            ),
        }


async def _run(script: str, *arguments: str) -> None:
    """Run a shell script, which has to succeed: kubelet is told of an error, and asks again."""
    process = await asyncio.create_subprocess_exec("sh", "-euc", script, "sh", *arguments)
    if await process.wait() != 0:
        raise RuntimeError(f"failed: {arguments}")


async def _do_nothing(_: Any) -> None:
    pass


def _answer(request: type[Any], reply: Any, do: Callable[[Any], Awaitable[None]] = _do_nothing) -> Handler:
    async def answer(stream: Stream[Any, Any]) -> None:
        await do(await stream.recv_message())
        await stream.send_message(reply)

    return Handler(answer, Cardinality.UNARY_UNARY, request, type(reply))


async def serve(driver: str, registration: Path, endpoint: Path, limit: int, zone: str) -> None:
    """Serve at both sockets until SIGTERM: the endpoint is there first, since kubelet asks it at once."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    endpoint.parent.mkdir(parents=True, exist_ok=True)
    for path in (endpoint, registration):
        path.unlink(missing_ok=True)
        await Server([Answers(driver, str(endpoint), limit, zone)]).start(path=str(path))
    await ended.wait()
    for path in (registration, endpoint):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
