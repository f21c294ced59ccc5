"""What a migration asks of Kubernetes' API and of EC2, and what for it has to be allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from lightkube.core.resource import Resource, api_info

from agent.cloud.aws.models import CloudSnapshot
from agent.controller.calls import SnapshotCall
from agent.controller.cluster.api import Asker, Operations
from agent.controller.migration.objects import KINDS, Object

YOU = Asker("you", "docs/migrate-rbac.yaml")
AWS_ACTIONS = ("ec2:CreateSnapshot", "ec2:CreateTags", "ec2:DescribeSnapshots")
"""What is to be allowed in AWS where EC2 itself is asked for the snapshots."""
_VERBS = {"post": "create"}


class Readable(Protocol):
    """What is read; each raises ClusterError. Kinds are those of ``agent.controller.migration.objects``."""

    async def list_all(self, kind: type[Any], /) -> tuple[str, Sequence[Any]]:
        """Return the list's version, and all objects of a kind that is in no namespace."""

    async def list_in(self, kind: type[Any], namespace: str, /) -> Sequence[Any]:
        """Return all objects of a kind in a namespace."""

    async def find(self, kind: type[Any], name: str, /) -> Any:
        """Return an object; None where there is none of the name."""

    async def find_in(self, kind: type[Any], name: str, namespace: str, /) -> Any:
        """Return an object of a namespace; None where there is none of the name."""


class Cluster(Readable, Protocol):
    """The API; each raises ClusterError."""

    async def create(self, made: Any, name: str, /) -> None:
        """Make an object in the namespace that it names."""

    async def try_to_create(self, made: Any, name: str, /) -> None:
        """Have all be asked that is asked before an object is made. Makes none."""

    async def create_global(self, made: Any, name: str, /) -> None:
        """Make an object that is in no namespace."""

    async def change(self, kind: type[Any], name: str, operations: Operations, /) -> None:
        """Change an object by a JSON patch: all of it, or nothing."""

    async def delete(
        self, kind: type[Resource], name: str, uid: str, version: str, namespace: str | None = None, /
    ) -> None:
        """Ask for an object's end, unless it is another by now, or changed since it was read."""


class Ec2Snapshots(Protocol):
    """Snapshots of EC2's own, one under each name. Both raise AgentError."""

    async def find(self, call: SnapshotCall, /) -> CloudSnapshot | None:
        """Return the snapshot that was taken under this name; None: none was."""

    async def take(self, call: SnapshotCall, /) -> CloudSnapshot:
        """Return the snapshot of this name as soon as it is begun; ``state`` says whether it is complete."""


def list_rights() -> list[tuple[str, str, list[str]]]:
    """Return what is to be allowed in Kubernetes: API group, resource, and the verbs for it."""
    infos = [api_info(kind) for kind in KINDS]
    return [
        (info.resource.group, info.plural, [_VERBS.get(verb, verb) for verb in info.verbs]) for info in infos
    ]


def guard(thing: Object) -> list[dict[str, Any]]:
    """Return the part of a JSON patch that has it fail unless the object is the one that was read."""
    metadata = thing["metadata"]
    return [
        {"op": "test", "path": f"/metadata/{member}", "value": metadata[member]}
        for member in ("uid", "resourceVersion")
    ]
