"""Who this node is to AWS, as values: what one source found, and what all of them come to."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

from msgspec import Struct
from typing_extensions import override

from agent.core.errors import AgentError
from agent.core.model import Reason

_INSTANCE_TYPE = re.compile(r"(?:ml\.)?([a-z][a-z0-9-]{0,30}\.[a-z0-9-]{1,30})", re.ASCII)


class IdentitySource(str, Enum):
    """Where a fact about this node came from, best first."""

    RESOURCE_CONFIG = "resource_config.json"
    METADATA = "instance metadata"
    HOST_NAME = "host name"
    API = "API"

    @override
    def __str__(self) -> str:
        return self.value


class Orchestrator(str, Enum):
    """What schedules work on a HyperPod cluster. HyperPod attaches volumes to nodes of EKS's only."""

    EKS = "EKS"
    SLURM = "Slurm"

    @override
    def __str__(self) -> str:
        return self.value


class NodeFields(Struct, frozen=True):
    """What a source may tell of a node, and what is known of it in the end."""

    cluster_arn: str | None = None
    instance_group: str | None = None
    instance_name: str | None = None
    instance_id: str | None = None
    region: str | None = None
    account: str | None = None
    zone: str | None = None
    partition: str | None = None
    orchestrator: Orchestrator | None = None
    instance_type: str | None = None
    """As EC2 calls it: without the ``ml.`` that SageMaker puts before it."""
    eks_cluster: str | None = None
    """The name of the EKS cluster that orchestrates it."""
    hyperpod_sign: str | None = None
    """What shows that this is a node of HyperPod, be it known or not of which cluster."""


class SourceAnswer(NodeFields, frozen=True, kw_only=True):
    """What one source said of this node; ``problem`` is a clause where it said nothing usable."""

    source: IdentitySource
    problem: str | None = None


class CloudIdentity(NodeFields, frozen=True):
    """The node as AWS knows it. A field is None where no source could be believed."""

    sources: tuple[tuple[str, IdentitySource], ...] = ()
    """(field, where its value came from)"""
    problems: tuple[str, ...] = ()
    """Sentences: sources that are missing, stale or contradict each other."""

    @property
    def cluster_id(self) -> str | None:
        """The twelve characters at the end of the cluster's ARN."""
        return self.cluster_arn.rpartition("/")[2] if self.cluster_arn else None

    @property
    def is_hyperpod(self) -> bool:
        """Whether it is a node of HyperPod, be it known or not of which cluster."""
        return self.cluster_arn is not None or self.hyperpod_sign is not None

    @property
    def is_complete(self) -> bool:
        """Whatever entries and calls may need of it is known; until then it is worth asking again.

        An ordinary instance has no group and no cluster, and is taken for one only where nothing speaks
        for HyperPod.
        """
        if self.instance_id is None or self.region is None:
            return False
        return not self.is_hyperpod or None not in {self.cluster_arn, self.instance_group}


def partition_of_region(region: str) -> str:
    """Return the partition a region lies in, by its name's beginning."""
    beginnings = {
        "cn-": "aws-cn",
        "us-gov-": "aws-us-gov",
        "us-iso-": "aws-iso",
        "us-isob-": "aws-iso-b",
        "us-isof-": "aws-iso-f",
        "eu-isoe-": "aws-iso-e",
        "eusc-": "aws-eusc",
    }
    return next((name for start, name in beginnings.items() if region.startswith(start)), "aws")


def parse_instance_type(value: Any) -> str | None:
    """Return EC2's name of an instance type, which SageMaker's begins with ``ml.``; None of anything else."""
    found = _INSTANCE_TYPE.fullmatch(value) if isinstance(value, str) else None
    return None if found is None else found[1]


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
