"""Reads what there is to read about this node: the cluster's file, IMDSv2, the host name and the API.

Never raises because a source is missing: what a source did not say is a finding too. Decides nothing;
``whoami`` does.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import psutil
from msgspec import Struct

from agent.base.file_reading import find_directory, read_file
from agent.base.off_loop import Aside, do_here
from agent.cloud.identity import whoami
from agent.cloud.identity.cloud_identity import parse_instance_type
from agent.cloud.identity.metadata import Fetch, fetch_here
from agent.cloud.identity.whoami import CloudIdentity, IdentitySource, SourceAnswer
from agent.core.errors import AgentError

if TYPE_CHECKING:
    from agent.cloud.aws import calls
    from agent.cloud.aws.models import ClusterNode

RESOURCE_CONFIG = Path("/opt/ml/config/resource_config.json")
METADATA_ENDPOINT = "http://169.254.169.254"
HYPERPOD_PLACES = (Path("/opt/ml/config"), Path("/opt/sagemaker"))
"""Directories of HyperPod's images, which are there before the cluster's file is."""
VENDOR = Path("/sys/class/dmi/id/sys_vendor")
EC2_VENDOR = "Amazon EC2"
"""What the firmware of Nitro instances says, which is asked without a network."""
_DOCUMENT_PATH = "/latest/dynamic/instance-identity/document"
_PARTITION_PATH = "/latest/meta-data/services/partition"


class IdentitySources(Struct, frozen=True):
    """Where to look; tests and ``--root`` put other places here."""

    resource_config: Path = RESOURCE_CONFIG
    metadata_endpoint: str | None = METADATA_ENDPOINT
    """None: there is no metadata service to ask."""
    metadata_timeout_s: float = 2.0
    host_name: str = ""
    addresses: frozenset[str] = frozenset()
    aside: Aside = do_here
    """How files are read."""
    fetch: Fetch = fetch_here
    """How the metadata service is asked."""
    is_ec2: bool = False
    """This is an instance of EC2, whether or not its metadata service answers."""
    hyperpod_places: tuple[Path, ...] = ()
    """Directories that show that it is a node of HyperPod, whether or not its file is there."""


IDENTIFY_AGAIN_S, LONGEST_IDENTIFY_S = 5.0, 60.0
"""How soon to ask again which node this is, where the sources of it did not tell; then ever later."""


def choose_pause_s(vainly: int) -> float:
    """Return how long to wait before they are asked again, having been so ``vainly`` times already."""
    return min(IDENTIFY_AGAIN_S * 2.0 ** min(vainly, 10), LONGEST_IDENTIFY_S)


def look_around(aside: Aside = do_here, fetch: Fetch = fetch_here) -> IdentitySources:
    """Return the real surroundings, with the environment's say over where the file and the service are."""
    told = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    metadata = METADATA_ENDPOINT if told is None else told
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        metadata = ""
    return IdentitySources(
        resource_config=Path(os.environ.get("SAGEMAKER_RESOURCE_CONFIG_PATH", RESOURCE_CONFIG)),
        metadata_endpoint=metadata.rstrip("/") or None,
        host_name=socket.gethostname(),
        addresses=_list_addresses(),
        is_ec2=bool(metadata) and (told is not None or _read_vendor() == EC2_VENDOR),
        hyperpod_places=HYPERPOD_PLACES,
        aside=aside,
        fetch=fetch,
    )


def _read_vendor() -> str:
    """Return who made this machine, by its firmware; empty where that says nothing."""
    try:
        return VENDOR.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _list_addresses() -> frozenset[str]:
    return frozenset(
        address.address.partition("%")[0]
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family in {socket.AF_INET, socket.AF_INET6}
    )


async def identify_node(
    surroundings: IdentitySources,
    describe_node: Callable[[calls.DescribeClusterNode], Awaitable[ClusterNode]] | None = None,
) -> CloudIdentity:
    """Ask every local source, then the API for what they left open; returns what can be believed."""
    findings: list[SourceAnswer] = []

    async def add(find: Callable[[IdentitySources], Awaitable[SourceAnswer]]) -> None:
        findings.append(await find(surroundings))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(add, read_resource_config)
        tasks.start_soon(add, ask_metadata)
    by_name = whoami.parse_node_name(surroundings.host_name)
    if by_name is not None:
        findings.append(by_name)
    findings.sort(key=lambda finding: list(IdentitySource).index(finding.source))
    identity = whoami.merge(findings)
    is_enough = identity.zone is not None and identity.instance_group is not None
    if describe_node is None or is_enough or not (identity.cluster_arn and identity.instance_id):
        return identity
    return whoami.merge([*findings, await _ask_api(identity, describe_node)])


async def identify_locally(surroundings: IdentitySources) -> CloudIdentity:
    """Return what this node knows of itself: the cluster's file, and the metadata service only without it.

    For the start, when mount paths wait for it and the network may be absent: takes no longer than reading a
    file where HyperPod left one, and the metadata service's time limit otherwise.
    """
    finding = await read_resource_config(surroundings)
    if finding.problem is None:
        return whoami.merge([finding])
    return await identify_node(surroundings)


async def _ask_api(
    identity: CloudIdentity,
    describe_node: Callable[[calls.DescribeClusterNode], Awaitable[ClusterNode]],
) -> SourceAnswer:
    from agent.cloud.aws import calls  # noqa: PLC0415 -- all of AWS's, for one that is made now and then

    call = calls.DescribeClusterNode(
        cluster=identity.cluster_arn or "", instance_id=identity.instance_id or ""
    )
    try:
        node = await describe_node(call)
    except AgentError as error:
        return SourceAnswer(
            source=IdentitySource.API, problem=f"the API did not tell about this node: {error.message}"
        )
    return SourceAnswer(
        source=IdentitySource.API,
        instance_group=node.instance_group,
        instance_id=node.instance_id,
        zone=node.zone,
        instance_type=parse_instance_type(node.instance_type),
    )


async def read_resource_config(surroundings: IdentitySources) -> SourceAnswer:
    """Return what the cluster's file says. It is not world readable, and not there on other instances."""
    path = surroundings.resource_config
    try:
        found = await surroundings.aside(read_file, str(path), whoami.MAX_FILE_BYTES + 1, subject=str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        sign, problem = await _find_sign(surroundings), error.strerror
    except (AgentError, OSError) as error:
        sign, problem = f"its {path}", getattr(error, "strerror", None) or str(error)
    else:
        return whoami.parse_resource_config(found.content, surroundings.addresses)
    problem = f"{path} cannot be read: {problem}"
    return SourceAnswer(source=IdentitySource.RESOURCE_CONFIG, hyperpod_sign=sign, problem=problem)


async def _find_sign(surroundings: IdentitySources) -> str | None:
    places = [str(place) for place in surroundings.hyperpod_places]
    try:
        found = await surroundings.aside(find_directory, places, subject="the directories of HyperPod")
    except AgentError:
        return None
    return found and f"its {found}"


async def ask_metadata(surroundings: IdentitySources) -> SourceAnswer:
    """Return what the instance metadata service (version 2, with a session token) says."""
    endpoint = surroundings.metadata_endpoint
    if endpoint is None:
        return SourceAnswer(source=IdentitySource.METADATA, problem="instance metadata is disabled")
    paths = (_DOCUMENT_PATH, _PARTITION_PATH)
    try:
        document, partition = await surroundings.fetch(endpoint, paths, surroundings.metadata_timeout_s)
        content = document.take()
    except (OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        return SourceAnswer(
            source=IdentitySource.METADATA, problem=f"instance metadata did not answer: {why}"
        )
    # Where the partition is not told, the region tells it as well.
    told = partition.content if partition.status == HTTPStatus.OK else b""
    return whoami.parse_identity_document(content, told.decode("ascii", "replace").strip())
