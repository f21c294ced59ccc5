"""Which node this is: the cluster's file, the instance metadata, the host name and the API, put together.

Pure: parsers of what ``sources`` read, and one ``merge``. A claim per node follows the instance's name, so a
name is believed only from a source that is proven to speak of this instance; a stale file's is not.

Sources of facts: resource_config.json as HyperPod writes it; the instance identity document, IMDSv2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from typing_extensions import override

from agent.errors import AgentError
from agent.model import Reason

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
_ACCOUNT = re.compile(r"[0-9]{12}", re.ASCII)

MAX_FILE_BYTES = 16 << 20
"""A cluster of thousands of nodes has a resource_config.json of about a megabyte."""


class Source(str, Enum):
    """Where a fact about this node came from, best first."""

    RESOURCE_CONFIG = "resource_config.json"
    METADATA = "instance metadata"
    HOST_NAME = "host name"
    API = "API"

    @override
    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Finding:
    """What one source said of this node; ``problem`` is a clause where it said nothing usable."""

    source: Source
    cluster_arn: str | None = None
    instance_group: str | None = None
    instance_name: str | None = None
    instance_id: str | None = None
    region: str | None = None
    account: str | None = None
    zone: str | None = None
    partition: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class CloudIdentity:
    """The node as AWS knows it. A field is None where no source could be believed."""

    cluster_arn: str | None = None
    instance_group: str | None = None
    instance_name: str | None = None
    instance_id: str | None = None
    region: str | None = None
    account: str | None = None
    zone: str | None = None
    partition: str | None = None
    sources: tuple[tuple[str, Source], ...] = ()
    """(field, where its value came from)"""
    problems: tuple[str, ...] = ()
    """Sentences: sources that are missing, stale or contradict each other."""

    @property
    def cluster_id(self) -> str | None:
        """The twelve characters at the end of the cluster's ARN."""
        return self.cluster_arn.rpartition("/")[2] if self.cluster_arn else None

    @property
    def is_hyperpod(self) -> bool:
        return self.cluster_arn is not None

    def source_of(self, name: str) -> Source | None:
        return next((source for found, source in self.sources if found == name), None)


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


def parse_node_name(host_name: str) -> Finding | None:
    """Return what an EKS node's name (``hyperpod-i-0123456789abcdef0``) tells; None for other names."""
    found = _NODE_NAME.fullmatch(host_name)
    return Finding(source=Source.HOST_NAME, instance_id=found[1]) if found else None


def parse_resource_config(content: bytes, addresses: Collection[str]) -> Finding:
    """Return what HyperPod's file says of the node with one of these IP addresses.

    The file lists every node of the cluster and is read as hostile: it may be half-written, stale, or not
    what it claims. A file that names several nodes with our addresses says nothing about any of them.
    """
    try:
        return _parse_resource_config(content, addresses)
    except _UnusableError as error:
        return Finding(source=Source.RESOURCE_CONFIG, problem=f"resource_config.json {error}")


class _UnusableError(Exception):
    """A clause that says what is wrong with a source."""


def _parse_resource_config(content: bytes, addresses: Collection[str]) -> Finding:
    if len(content) > MAX_FILE_BYTES:
        raise _UnusableError(f"is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        raise _UnusableError("is not JSON (half-written?)") from None
    cluster = _take(config, "ClusterConfig", dict)
    arn = _take(cluster, "ClusterArn", str)
    found = _ARN.fullmatch(arn)
    if found is None:
        raise _UnusableError(f"has a ClusterArn that is none: {arn[:100]!r}")
    of_cluster = Finding(
        source=Source.RESOURCE_CONFIG,
        cluster_arn=arn,
        region=found["region"],
        account=found["account"],
        partition=found["partition"],
    )
    mine = [
        (group, instance)
        for group in _take(config, "InstanceGroups", list)
        for instance in _take(group, "Instances", list)
        if _take(instance, "CustomerIpAddress", str) in addresses
    ]
    if len(mine) != 1:
        how_many = "does not list" if not mine else f"lists {len(mine)} nodes with"
        problem = f"resource_config.json {how_many} this node's addresses (stale?)"
        return _replace(of_cluster, problem=problem)
    group, instance = mine[0]
    return _replace(
        of_cluster,
        instance_group=_check(_NAME, _take(group, "Name", str), "instance group"),
        instance_name=_check(_NAME, _take(instance, "InstanceName", str), "instance name"),
        instance_id=_check(_INSTANCE_ID, _take(instance, "InstanceId", str), "instance ID"),
    )


def _replace(finding: Finding, **fields: str) -> Finding:
    return Finding(**{**vars(finding), **fields})


def _take(members: Any, name: str, kind: type) -> Any:
    value = members.get(name) if isinstance(members, dict) else None
    if not isinstance(value, kind):
        raise _UnusableError(f"has no proper {name}")
    return value


def _check(pattern: re.Pattern[str], text: str, what: str) -> str:
    if not pattern.fullmatch(text):
        raise _UnusableError(f"has an impossible {what}: {text[:100]!r}")
    return text


def parse_identity_document(content: bytes, partition: str | None = None) -> Finding:
    """Return what ``/latest/dynamic/instance-identity/document`` says: JSON with instanceId, region, ….

    Its accountId is the account the instance runs in, which for HyperPod is AWS's own and not the
    customer's; ``merge`` therefore prefers the cluster's.
    """
    try:
        document = json.loads(content[:MAX_FILE_BYTES])
        return Finding(
            source=Source.METADATA,
            instance_id=_check(_INSTANCE_ID, _take(document, "instanceId", str), "instance ID"),
            region=_check(_REGION, _take(document, "region", str), "region"),
            zone=_check(_ZONE, _take(document, "availabilityZone", str), "zone"),
            account=_check(_ACCOUNT, _take(document, "accountId", str), "account"),
            partition=partition if partition and re.fullmatch(r"aws[a-z-]*", partition) else None,
        )
    except (ValueError, RecursionError):
        return Finding(source=Source.METADATA, problem="instance metadata did not answer with JSON")
    except _UnusableError as error:
        return Finding(source=Source.METADATA, problem=f"instance metadata {error}")


def partition_of_region(region: str) -> str:
    """Return the partition a region lies in, by its name's beginning."""
    beginnings: Mapping[str, str] = {
        "cn-": "aws-cn",
        "us-gov-": "aws-us-gov",
        "us-iso-": "aws-iso",
        "us-isob-": "aws-iso-b",
        "us-isof-": "aws-iso-f",
        "eu-isoe-": "aws-iso-e",
        "eusc-": "aws-eusc",
    }
    return next((name for start, name in beginnings.items() if region.startswith(start)), "aws")


_FIELDS = (
    "cluster_arn",
    "instance_group",
    "instance_name",
    "instance_id",
    "region",
    "account",
    "zone",
    "partition",
)
_NAMES_OF_INSTANCE = ("instance_group", "instance_name", "instance_id")


@dataclass
class _Merged:
    fields: dict[str, str] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)


def merge(findings: Sequence[Finding]) -> CloudIdentity:
    """Put the findings together: earlier ones win, and a file proven stale keeps only the cluster's facts.

    Stale: metadata, host name or API give another instance ID than the file. Then the file was written for
    a node that had this address before, whose name, and whose volumes, are not ours to take.
    """
    problems = [finding.problem for finding in findings if finding.problem]
    live_id = next(
        (f.instance_id for f in findings if f.instance_id and f.source is not Source.RESOURCE_CONFIG), None
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
    return CloudIdentity(**merged.fields, sources=tuple(merged.sources.items()), problems=tuple(problems))


def require_identity(identity: CloudIdentity, *names: str) -> None:
    """Raise unless these fields are known, in a sentence that says what the sources said."""
    missing = [name for name in names if getattr(identity, name) is None]
    if missing:
        said = "; ".join(identity.problems) or "no source of it answered"
        raise AgentError(
            f"This node's {' and '.join(missing).replace('_', ' ')} is not known: {said}.",
            hint="`ebs-agent doctor` shows what each source said. On HyperPod, "
            "/opt/ml/config/resource_config.json has to list this node.",
            reason=Reason.WAITING_FOR_CLOUD,
        )
