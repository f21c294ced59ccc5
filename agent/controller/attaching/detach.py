"""Detaches volumes from nodes, and is done when AWS describes no attachment any more.

What AWS answers to the call proves nothing: it calls a volume that another node has, and one that is not yet
described, by the same code. Where no attachment is described AWS is asked to detach nevertheless, since one
may be on its way that an earlier controller began.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from agent.base.log import get_logger
from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.controller.attaching.attach import TakeTurn
from agent.controller.attaching.judge_attachment import describe_place, name_holder
from agent.controller.attaching.node_calls import NO_NODE_CODES, NodeCalls
from agent.controller.attaching.sights import Sights
from agent.controller.calls import NodeId
from agent.controller.node_ids import find_node
from agent.controller.patience import Patience, Waiting
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.core.reasons import Reason

LIMIT_S = 300.0
"""How long a volume is waited for that does not leave; a node that still uses it keeps it."""
ASK_AGAIN_S = 30.0
"""After AWS took the call, or refused it, and still describes the volume as attached."""
SETTLE_S = 10.0
"""How long nothing must be described after AWS has detached what it did not describe before, and no volume at
all before it is taken for deleted: a host that lags does not know a volume that was made a moment ago."""

_NONE_CODES = NO_NODE_CODES | {codes.INCORRECT_STATE, codes.NO_ATTACHMENT, codes.NO_VOLUME}
"""With these AWS says that it finds no such attachment; a look tells whether there is one."""

log = get_logger(__name__)


class _Release(Struct):
    """How far one volume is on its way from one node, or from all."""

    volume_id: VolumeId
    node: NodeId | None
    waiting: Waiting
    seen: set[CloudAttachment] = field(default_factory=set)
    ask_at_s: dict[NodeId, float] = field(default_factory=dict)
    """From when on AWS may be asked again, by node; those that are in here were asked."""
    done_at_s: float = 0.0
    """From when on a description without an attachment is believed."""
    lost_at_s: float | None = None
    """Since when the volume itself is not described."""
    refusal: CloudError | None = None

    def list_held(self, volume: CloudVolume) -> tuple[CloudAttachment, ...]:
        """Return the attachments that are to end."""
        if self.node is None:
            return volume.attachments
        held = volume.attachment_to(self.node.instance_id)
        return () if held is None else (held,)


class Detaching:
    """Detaches volumes, one deed on each at a time."""

    def __init__(
        self,
        nodes: NodeCalls,
        sights: Sights,
        take_turn: TakeTurn,
        patience: Patience,
        is_deleted: Callable[[VolumeId], bool],
    ) -> None:
        self._nodes = nodes
        self._sights = sights
        self._take_turn = take_turn
        self._patience = patience
        self._is_deleted = is_deleted

    async def detach(self, volume_id: VolumeId, node: NodeId | None) -> None:
        """Return once AWS describes no attachment of the volume to the node; None: to any node."""
        async with self._take_turn(volume_id):
            release = _Release(volume_id, node, self._patience.begin())
            while not await self._is_released(release):
                await release.waiting.pause()
            self._sights.note_gone(volume_id, release.seen)

    async def _is_released(self, release: _Release) -> bool:
        """Look, and ask AWS for what is still to be asked; returns whether all has ended."""
        volume = await self._sights.look(release.volume_id)
        if volume is None and self._is_deleted(release.volume_id):
            return True
        if volume is None:
            now_s = release.waiting.waited_s
            release.lost_at_s = now_s if release.lost_at_s is None else release.lost_at_s
            return now_s >= release.lost_at_s + SETTLE_S
        release.lost_at_s = None
        held = release.list_held(volume)
        release.seen.update(held)
        if not held:
            return await self._is_surely_free(release)
        for attachment in held:
            await self._end(release, attachment)
        if release.waiting.waited_s >= LIMIT_S:
            raise _explain_slow(volume, held[0]) from release.refusal
        return False

    async def _is_surely_free(self, release: _Release) -> bool:
        """Return whether nothing is on its way to the node, of which nothing is described."""
        if release.node is not None and release.node not in release.ask_at_s and not release.seen:
            await self._ask_to_be_sure(release, release.node)
            return False
        return release.waiting.waited_s >= release.done_at_s

    async def _ask_to_be_sure(self, release: _Release, node: NodeId) -> None:
        release.ask_at_s[node] = release.waiting.waited_s + ASK_AGAIN_S
        try:
            await self._nodes.detach(release.volume_id, node)
        except CloudError as error:
            # Whoever may not detach the volume did not attach it either.
            if error.code not in _NONE_CODES and error.reason is not Reason.PERMISSION_DENIED:
                raise
        else:
            release.done_at_s = release.waiting.waited_s + SETTLE_S

    async def _end(self, release: _Release, attachment: CloudAttachment) -> None:
        """Have AWS end an attachment, unless it is at it."""
        node = find_node(attachment)
        if node is None:
            raise RefusedError(
                f"{release.volume_id} is attached to {attachment.holder}, which is no node of a cluster.",
                hint="Detach it there by hand.",
                reason=Reason.ATTACHED_ELSEWHERE,
            )
        is_due = release.waiting.waited_s >= release.ask_at_s.get(node, 0.0)
        if attachment.state == "detaching" or not is_due:
            return
        release.ask_at_s[node] = release.waiting.waited_s + ASK_AGAIN_S
        try:
            await self._nodes.detach(release.volume_id, node)
        except CloudError as error:
            if error.code not in _NONE_CODES and not error.is_transient:
                raise
            release.refusal = error
        else:
            log.info("controller.detaching", volume_id=release.volume_id, node=str(node))


def _explain_slow(volume: CloudVolume, attachment: CloudAttachment) -> AgentError:
    return AgentError(
        f"{volume.volume_id} {describe_place(volume)}, and does not leave {name_holder(attachment)}.",
        hint="It is tried again. What still uses it there keeps it: it is to be unmounted, or the instance "
        "to be ended.",
        reason=Reason.WAITING_FOR_CLOUD,
    )
