"""Tells a claim why its volume cannot be attached: the missing permission, the key, the limit.

The provisioner and the resizer tell the claim themselves what was answered to them, and Kubernetes tells the
pod why its volume is not attached. Nobody tells the claim that.
"""

from __future__ import annotations

import re

import anyio

from agent.base.log import get_logger
from agent.controller.care.tell_events import About, Teller
from agent.controller.cluster.api import ClusterApi, ClusterError
from agent.controller.cluster.objects import PersistentVolume, VolumeAttachment
from agent.controller.cluster.watched import Bell, Watched
from agent.core.errors import OvertakenError

LOOK_S = 60.0
PAUSE_S = 5.0
"""After what failed."""
REASON = "AttachFailed"
_ANSWER = re.compile(r"rpc error: code = (?P<code>[A-Za-z]+) desc = (?P<said>.+)", re.DOTALL)
"""How grpc-go writes what a driver answered."""
_PASSING = frozenset({"Aborted", "Canceled", "DeadlineExceeded", "Unavailable"})
"""With these it goes on by itself, and nobody needs to do anything."""

log = get_logger(__name__)


def find_cause(message: str) -> str | None:
    """Return the sentence that a person has to act on; None: it is none."""
    found = _ANSWER.search(message)
    return None if found is None or found["code"] in _PASSING else found["said"].strip()


class ClaimEvents:
    """The claims whose volumes cannot be attached."""

    def __init__(
        self, api: ClusterApi, teller: Teller, driver: str, attachments: Watched[VolumeAttachment]
    ) -> None:
        self._api = api
        self._teller = teller
        self._driver = driver
        self._attachments = attachments
        self._told: dict[str, str] = {}
        self._bell = Bell()
        attachments.add_bell(self._bell)

    async def tend(self) -> None:
        """Tell each claim; never returns."""
        while True:
            attachments = list(self._attachments.known.values())
            if not all([await self._look_at(attachment) for attachment in attachments]):
                await anyio.sleep(PAUSE_S)
            for name in self._told.keys() - self._attachments.known.keys():
                del self._told[name]
            await self._bell.wait(LOOK_S)

    async def _look_at(self, attachment: VolumeAttachment) -> bool:
        """Return whether nothing is left to be told of it."""
        error, name = attachment.status.attach_error, attachment.metadata.name
        cause = find_cause(error.message) if error is not None else None
        if attachment.spec.attacher != self._driver or cause is None or self._told.get(name) == cause:
            return True
        try:
            await self._tell(attachment, cause)
        except (ClusterError, OvertakenError) as failure:
            log.info("care.claim_not_told", attachment=name, error=failure.message, hint=failure.hint)
            return False
        self._told[name] = cause
        return True

    async def _tell(self, attachment: VolumeAttachment, cause: str) -> None:
        volume = await self._api.find(PersistentVolume, attachment.spec.source.persistent_volume_name)
        claim = None if volume is None else volume.spec.claim_ref
        if claim is None or not claim.name:
            return
        about = About("PersistentVolumeClaim", claim.name, claim.namespace, claim.uid)
        sentence = f"The volume cannot be attached to node {attachment.spec.node_name}: {cause}"
        if await self._teller.warn(about, REASON, sentence):
            log.info("care.claim_told", claim=f"{claim.namespace}/{claim.name}", cause=cause)
