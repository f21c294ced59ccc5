"""Tells people by Kubernetes' events, each thing once."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from lightkube.core.resource import NamespacedResource
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event
from msgspec import Struct

from agent.controller.cluster.api import CONFLICT, ClusterError
from agent.controller.cluster.lease import Lease
from agent.core.units import utc_now

COMPONENT = "ebs-agent-controller"
AGAIN_S = 3600.0
"""Kubernetes forgets an event after an hour; what still is so is told again."""
_MOST_TOLD = 4096
_MESSAGE_LIMIT = 1024
_NAME_LIMIT = 200


class About(Struct, frozen=True):
    """The object that an event is about."""

    kind: str
    name: str
    namespace: str = ""
    """Empty: the object is the cluster's, and its events are in the namespace ``default``."""
    uid: str = ""
    api_version: str = "v1"


class EventApi(Protocol):
    """What keeps events."""

    async def create(self, made: NamespacedResource, name: str, /) -> None:
        """Make it; ClusterError where there is one of its name."""


class Teller:
    """Says each thing of an object once an hour at most, whichever replica says it."""

    def __init__(self, api: EventApi, lease: Lease, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._lease = lease
        self._clock = clock
        self._told: OrderedDict[str, float] = OrderedDict()

    async def warn(self, about: About, reason: str, message: str) -> bool:
        """Return whether it was told now; ClusterError if not, OvertakenError where another replica works.

        ``reason`` is a word in CamelCase, ``message`` the sentence and its hint.
        """
        digest = hashlib.sha256(f"{about} {reason} {message}".encode()).hexdigest()[:16]
        told_at = self._told.get(digest)
        if told_at is not None and self._clock() < told_at + AGAIN_S:
            return False
        name = f"{about.name[:_NAME_LIMIT]}.{digest}"
        async with self._lease.doing(f"tell {about.name} of {reason}"):
            is_new = await self._create(_write(about, name, reason, message), name)
        self._note(digest)
        return is_new

    async def _create(self, event: Event, name: str) -> bool:
        try:
            await self._api.create(event, name)
        except ClusterError as error:
            if error.status != CONFLICT:
                raise
            return False
        return True

    def _note(self, digest: str) -> None:
        self._told[digest] = self._clock()
        self._told.move_to_end(digest)
        while len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)


def _write(about: About, name: str, reason: str, message: str) -> Event:
    now = utc_now().replace(microsecond=0)
    namespace = about.namespace or "default"
    return Event(
        metadata=ObjectMeta(name=name, namespace=namespace),
        involvedObject=ObjectReference(
            apiVersion=about.api_version,
            kind=about.kind,
            name=about.name,
            namespace=about.namespace or None,
            uid=about.uid or None,
        ),
        type="Warning",
        reason=reason,
        message=message[:_MESSAGE_LIMIT],
        source=EventSource(component=COMPONENT),
        firstTimestamp=now,
        lastTimestamp=now,
        count=1,
    )
