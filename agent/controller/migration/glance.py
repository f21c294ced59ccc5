"""A cluster as it is at one moment, for plans of many claims: what is listed is asked for once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.controller.migration.cluster import Cluster
from agent.controller.migration.objects import PersistentVolume, name_of


class Glance:
    """What is read of a cluster, and of PersistentVolumes only what was listed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._listed: dict[tuple[type[Any], str], Sequence[Any]] = {}
        self._volumes: dict[str, Any] | None = None

    async def list_all(self, kind: type[Any]) -> tuple[str, Sequence[Any]]:
        """Return all objects of a kind; of no version, since they may be older."""
        if (kind, "") not in self._listed:
            self._listed[kind, ""] = (await self._cluster.list_all(kind))[1]
        return "", self._listed[kind, ""]

    async def list_in(self, kind: type[Any], namespace: str) -> Sequence[Any]:
        """Return all objects of a kind in a namespace."""
        if (kind, namespace) not in self._listed:
            self._listed[kind, namespace] = await self._cluster.list_in(kind, namespace)
        return self._listed[kind, namespace]

    async def find(self, kind: type[Any], name: str) -> Any:
        """Return an object; None where there is none of the name."""
        if kind is not PersistentVolume:
            return await self._cluster.find(kind, name)
        if self._volumes is None:
            self._volumes = {name_of(volume): volume for volume in (await self.list_all(kind))[1]}
        return self._volumes.get(name)

    async def find_in(self, kind: type[Any], name: str, namespace: str) -> Any:
        """Return an object of a namespace; None where there is none of the name."""
        return await self._cluster.find_in(kind, name, namespace)
