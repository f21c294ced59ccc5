"""Which node this is: the cluster's file, the instance metadata, the host name and the API, put together.

Pure: parsers of what ``identity_sources`` reads, and one ``merge``. A claim per node follows the instance's
name, so a name is believed only from a source that is proven to speak of this instance; a stale file's is
not.

Sources of facts: resource_config.json as HyperPod writes it; the instance identity document, IMDSv2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from agent.cloud.identity.cloud_identity import (
    CloudIdentity,
    IdentitySource,
    NodeFields,
    Orchestrator,
    SourceAnswer,
    parse_instance_type,
    partition_of_region,
    require_identity,
)
from agent.core.errors import AgentError
from agent.core.replace import replace

__all__ = [
    "CloudIdentity",
    "IdentitySource",
    "Orchestrator",
    "SourceAnswer",
    "merge",
    "parse_cluster_arn",
    "parse_identity_document",
    "parse_instance_id",
    "parse_node_name",
    "parse_resource_config",
    "partition_of_region",
    "require_identity",
]

_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):sagemaker:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12})"
    r":cluster/(?P<cluster>[a-z0-9]{12})",
    re.ASCII,
)
_INSTANCE_ID = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})", re.ASCII)
_NODE_NAME = re.compile(r"hyperpod-(i-(?:[0-9a-f]{8}|[0-9a-f]{17}))(?:\..*)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?", re.ASCII)
_ZONE = re.compile(r"[a-z]{2}(?:-[a-z0-9]+)+-[0-9][a-z]", re.ASCII)
_REGION = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]", re.ASCII)
_EKS_CLUSTER = re.compile(r"[0-9A-Za-z][A-Za-z0-9_-]{0,99}", re.ASCII)
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)

MAX_FILE_BYTES = 16 << 20
"""A cluster of thousands of nodes has a resource_config.json of about a megabyte."""


def parse_instance_id(text: str) -> str:
    """Return ``text`` as an instance ID, or raise: ``i-`` and 8 or 17 hexadecimal digits."""
    if not _INSTANCE_ID.fullmatch(text):
        raise AgentError(
            f"{text!r} is not an EC2 instance ID.",
            hint="An ID is i- followed by 8 or 17 hexadecimal digits, as in i-0123456789abcdef0.",
            retryable=False,
        )
    return text


def parse_cluster_arn(text: str) -> dict[str, str]:
    """Return partition, region, account and cluster of a HyperPod cluster's ARN, or raise."""
    found = _ARN.fullmatch(text)
    if found is None:
        raise AgentError(
            f"{text!r} is not the ARN of a HyperPod cluster.",
            hint="It looks like arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz.",
            retryable=False,
        )
    return found.groupdict()


def parse_node_name(host_name: str) -> SourceAnswer | None:
    """Return what an EKS node's name (``hyperpod-i-0123456789abcdef0``) tells; None for other names."""
    found = _NODE_NAME.fullmatch(host_name)
    if found is None:
        return None
    return SourceAnswer(
        source=IdentitySource.HOST_NAME, instance_id=found[1], hyperpod_sign=f"its host name {host_name}"
    )


def parse_resource_config(content: bytes, addresses: Collection[str]) -> SourceAnswer:
    """Return what HyperPod's file says of the node with one of these IP addresses.

    The file lists every node of the cluster and is read as hostile: it may be half-written, stale, or not
    what it claims. What is wrong with its list of nodes leaves the cluster's own facts as they are; a file
    that names several nodes with our addresses says nothing about any of them. Groups scaled down to nothing
    are listed with null in place of instances, instances that are being made without an address.
    """
    of_cluster = SourceAnswer(source=IdentitySource.RESOURCE_CONFIG, hyperpod_sign="its resource_config.json")
    try:
        config = _read_json(content)
        of_cluster = _read_cluster(config, of_cluster)
        group, instance = _find_instance(config, addresses)
        return replace(
            of_cluster,
            instance_group=_check(_NAME, _take(group, "Name", str), "instance group"),
            instance_name=_check(_NAME, _take(instance, "InstanceName", str), "instance name"),
            instance_id=_check(_INSTANCE_ID, _take(instance, "InstanceId", str), "instance ID"),
            instance_type=parse_instance_type(group.get("InstanceType")),
        )
    except _UnusableError as error:
        return replace(of_cluster, problem=f"resource_config.json {error}")


class _UnusableError(Exception):
    """A clause that says what is wrong with a source."""


def _read_json(content: bytes) -> Any:
    if len(content) > MAX_FILE_BYTES:
        raise _UnusableError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise _UnusableError("is not JSON (half-written?)") from None


def _read_cluster(config: Any, finding: SourceAnswer) -> SourceAnswer:
    """Return the finding with the cluster's own facts in it."""
    cluster = _take(config, "ClusterConfig", dict)
    arn = _take(cluster, "ClusterArn", str)
    found = _ARN.fullmatch(arn)
    if found is None:
        raise _UnusableError(f"has a ClusterArn that is none: {arn[:100]!r}")
    blocks = [
        block for place in (cluster, config) if isinstance(block := place.get("KubernetesConfig"), dict)
    ]
    name = blocks[0].get("EksClusterName") if blocks else None
    is_name = isinstance(name, str) and _EKS_CLUSTER.fullmatch(name)
    return replace(
        finding,
        cluster_arn=arn,
        region=found["region"],
        account=found["account"],
        partition=found["partition"],
        hyperpod_sign=None,
        orchestrator=_find_orchestrator(config, cluster),
        eks_cluster=name if is_name else None,
    )


def _find_orchestrator(config: Mapping[str, Any], cluster: Mapping[str, Any]) -> Orchestrator | None:
    """Return what the file calls the cluster's type, else whose block it has; None where it has neither."""
    words = {"slurm": Orchestrator.SLURM, "kubernetes": Orchestrator.EKS, "eks": Orchestrator.EKS}
    said = words.get(str(cluster.get("ClusterType")).lower())
    if said is not None:
        return said
    blocks = {"KubernetesConfig": Orchestrator.EKS, "SlurmConfig": Orchestrator.SLURM}
    for name, orchestrator in blocks.items():
        if isinstance(cluster.get(name), dict) or isinstance(config.get(name), dict):
            return orchestrator
    return None


def _find_instance(config: Any, addresses: Collection[str]) -> tuple[Any, Any]:
    """Return the one group and instance with one of these addresses."""
    mine = [
        (group, instance)
        for group in _take_list(config, "InstanceGroups")
        for instance in _take_list(group, "Instances")
        if isinstance(instance, dict) and _has_address(instance, addresses)
    ]
    if len(mine) != 1:
        how_many = "does not list" if not mine else f"lists {len(mine)} nodes with"
        raise _UnusableError(f"{how_many} this node's addresses (stale?)")
    return mine[0]


def _has_address(instance: Mapping[str, Any], addresses: Collection[str]) -> bool:
    address = instance.get("CustomerIpAddress")
    return isinstance(address, str) and address in addresses


def _take_list(members: Any, name: str) -> list[Any]:
    """Return a list that may be absent, or null, where there is nothing to list."""
    if isinstance(members, dict) and members.get(name) is None:
        return []
    found: list[Any] = _take(members, name, list)
    return found


def _take(members: Any, name: str, kind: type) -> Any:
    value = members.get(name) if isinstance(members, dict) else None
    if not isinstance(value, kind):
        raise _UnusableError(f"has no proper {name}")
    return value


def _check(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise _UnusableError(f"has an impossible {what}: {text[:100]!r}")
    return text


def parse_identity_document(content: bytes, partition: str | None = None) -> SourceAnswer:
    """Return what ``/latest/dynamic/instance-identity/document`` says: JSON with instanceId, region, ….

    Its accountId is the account the instance runs in, which for HyperPod is AWS's own and not the
    customer's; ``merge`` therefore prefers the cluster's.
    """
    try:
        document = json.loads(content[:MAX_FILE_BYTES])
        return SourceAnswer(
            source=IdentitySource.METADATA,
            instance_id=_check(_INSTANCE_ID, _take(document, "instanceId", str), "instance ID"),
            region=_check(_REGION, _take(document, "region", str), "region"),
            zone=_check(_ZONE, _take(document, "availabilityZone", str), "zone"),
            account=_check(_ACCOUNT, _take(document, "accountId", str), "account"),
            instance_type=parse_instance_type(document.get("instanceType")),
            partition=partition if partition and re.fullmatch(r"aws[a-z-]*", partition) else None,
        )
    except (ValueError, RecursionError):
        return SourceAnswer(
            source=IdentitySource.METADATA, problem="instance metadata did not answer with JSON"
        )
    except _UnusableError as error:
        return SourceAnswer(source=IdentitySource.METADATA, problem=f"instance metadata {error}")


_FIELDS = tuple(name for name in NodeFields.__struct_fields__ if name != "hyperpod_sign")
_NAMES_OF_INSTANCE = ("instance_group", "instance_name", "instance_id", "instance_type")


class _Merged(Struct):
    fields: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, IdentitySource] = field(default_factory=dict)


def merge(findings: Sequence[SourceAnswer]) -> CloudIdentity:
    """Put the findings together: earlier ones win, and a file proven stale keeps only the cluster's facts.

    Stale: metadata, host name or API give another instance ID than the file. Then the file was written for
    a node that had this address before, whose name, and whose volumes, are not ours to take. An ordinary
    instance, for which nothing speaks for HyperPod, has no such file, and lacks nothing.
    """
    is_ordinary = not any(found.cluster_arn or found.hyperpod_sign for found in findings) and any(
        found.instance_id for found in findings
    )
    problems = [
        finding.problem
        for finding in findings
        if finding.problem and not (is_ordinary and finding.source is IdentitySource.RESOURCE_CONFIG)
    ]
    live_id = next(
        (f.instance_id for f in findings if f.instance_id and f.source is not IdentitySource.RESOURCE_CONFIG),
        None,
    )
    merged = _Merged()
    for finding in findings:
        is_stale = bool(live_id and finding.instance_id and finding.instance_id != live_id)
        if is_stale:
            problems.append(
                f"{finding.source} says this node is {finding.instance_id}, but it is {live_id}: "
                "its names for this node are not used"
            )
        for name in _FIELDS:
            value = getattr(finding, name)
            if value is None or name in merged.fields or (is_stale and name in _NAMES_OF_INSTANCE):
                continue
            merged.fields[name] = value
            merged.sources[name] = finding.source
    region = merged.fields.get("region")
    if region and "partition" not in merged.fields:
        merged.fields["partition"] = partition_of_region(region)
        merged.sources["partition"] = merged.sources["region"]
    sign = next((finding.hyperpod_sign for finding in findings if finding.hyperpod_sign), None)
    if sign is not None and "cluster_arn" not in merged.fields:
        problems.append(f"{sign} shows that this is a node of HyperPod, and not yet of which cluster")
        _forget_account(merged)
    return CloudIdentity(
        **merged.fields,
        hyperpod_sign=sign,
        sources=tuple(merged.sources.items()),
        problems=tuple(problems),
    )


def _forget_account(merged: _Merged) -> None:
    """Take back the account that a HyperPod instance's metadata names: it is AWS's own."""
    if merged.sources.get("account") is IdentitySource.METADATA:
        del merged.fields["account"], merged.sources["account"]
