"""Attaches volumes to nodes: looks first, then asks, and is done when AWS describes the attachment.

A lost answer costs a look and nothing else. An attachment that somebody else began is joined.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

from agent.base.log import get_logger
from agent.cloud.aws.models import CloudVolume
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.controller.attaching.initialized import Initialized
from agent.controller.attaching.judge_attachment import (
    Stage,
    describe_place,
    explain_no_node,
    explain_no_volume,
    judge_attach,
    tell_node,
)
from agent.controller.attaching.node_calls import NO_NODE_CODES, NodeCalls
from agent.controller.attaching.sights import LAG_S, Sights
from agent.controller.calls import AttachCall, Pairs
from agent.controller.patience import Patience
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.core.reasons import Reason

TakeTurn: TypeAlias = Callable[[VolumeId], AbstractAsyncContextManager[object]]
"""Enters when all that was asked for the volume earlier is done."""

STUCK_S = 90.0
"""How long an attachment may be ``attaching`` until it is taken back, as AWS's driver does it. Attempts, each
given up by its caller before that, count together."""
LIMIT_S = 300.0
"""How long a volume is waited for that another node has, or of which AWS shows nothing."""
ASK_AGAIN_S = 15.0
"""After AWS took a call, or said that the volume is in use, and still describes it as free."""

_HELD_CODES = frozenset({codes.VOLUME_IN_USE, codes.INCORRECT_STATE})
"""Somebody has it, perhaps this node by a call whose answer was lost: the next look tells who."""

log = get_logger(__name__)


class Attaching:
    """Attaches volumes, one deed on each at a time."""

    def __init__(
        self,
        nodes: NodeCalls,
        sights: Sights,
        take_turn: TakeTurn,
        initialized: Initialized,
        patience: Patience | None = None,
    ) -> None:
        self._nodes = nodes
        self._sights = sights
        self._take_turn = take_turn
        self._initialized = initialized
        self._patience = patience or Patience()

    async def attach(self, call: AttachCall) -> Pairs:
        """Return what the node is to be told, once AWS says that the volume is attached to it."""
        if call.is_initialized_first:  # for hours, in which others have their turn
            await self._initialized.require(await self._look(call.volume_id))
        async with self._take_turn(call.volume_id):
            volume = await self._bring(call)
        return tell_node(volume, call.node)

    async def _look(self, volume_id: VolumeId) -> CloudVolume:
        volume = await self._sights.look(volume_id)
        if volume is None:
            raise explain_no_volume(volume_id)
        return volume

    async def _bring(self, call: AttachCall) -> CloudVolume:
        waiting = self._patience.begin()
        ask_at_s, refusal = 0.0, None
        while True:
            volume = await self._look(call.volume_id)
            stage = judge_attach(volume, call)
            if stage is Stage.ATTACHED:
                return volume
            attaching_s = self._sights.find_attaching_s(volume, call.node.instance_id)
            # A host that lags may not know that it came to its end since the last attempt, here or elsewhere.
            if attaching_s >= STUCK_S and waiting.waited_s >= LAG_S:
                await self._take_back(call, attaching_s)
            if stage is not Stage.ATTACHING and waiting.waited_s >= LIMIT_S:
                raise _explain_slow(volume, call) from refusal
            if stage is Stage.FREE and waiting.waited_s >= ask_at_s:
                refusal = await self._ask(call)
                is_open = refusal is not None and refusal.code not in _HELD_CODES
                ask_at_s = waiting.waited_s + (0.0 if is_open else ASK_AGAIN_S)
            await waiting.pause()

    async def _ask(self, call: AttachCall) -> CloudError | None:
        """Have AWS attach it; returns the error after which only a look tells what became of it."""
        try:
            await self._nodes.attach(call.volume_id, call.node)
        except CloudError as error:
            if error.code in NO_NODE_CODES:
                raise explain_no_node(call.node) from error
            if error.code in _HELD_CODES or error.is_transient or error.code.startswith("Worker"):
                return error
            raise
        log.info("controller.attaching", volume_id=call.volume_id, node=str(call.node))
        return None

    async def _take_back(self, call: AttachCall, attaching_s: float) -> None:
        """Undo an attachment that comes to no end, so that the next attempt begins anew; always raises."""
        with contextlib.suppress(CloudError):  # the next attempt finds the same, and does the same
            await self._nodes.detach(call.volume_id, call.node)
        raise AgentError(
            f"{call.volume_id} was attaching to {call.node} for {attaching_s:.0f} s and did not get there.",
            hint="It is detached again, and attached anew. If it stays so, the node needs a reboot, or to be "
            "replaced.",
            reason=Reason.CLOUD_ERROR,
        )


def _explain_slow(volume: CloudVolume, call: AttachCall) -> AgentError:
    return AgentError(
        f"{volume.volume_id} {describe_place(volume)}, and is not yet attached to {call.node}.",
        hint="It is tried again. A volume that is in use where it is detached from leaves when it is "
        "unmounted there, or the instance ends.",
        reason=Reason.WAITING_FOR_CLOUD,
    )
