"""The attachments of a cluster's volumes: made and ended one at a time on each volume."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from agent.cloud.aws.call import Make
from agent.controller.attaching.attach import Attaching, TakeTurn
from agent.controller.attaching.detach import Detaching
from agent.controller.attaching.initialized import FindChecks, Initialized
from agent.controller.attaching.node_calls import NodeCalls
from agent.controller.attaching.sights import FindVolume, Sights
from agent.controller.calls import AttachCall, NodeId, Pairs
from agent.controller.describing.batches import WINDOW_S
from agent.controller.patience import Patience
from agent.core.model import VolumeId


class AskedOfVolumes(Struct, frozen=True):
    """What attachments need to know of volumes."""

    find: FindVolume
    find_checks: FindChecks
    is_deleted: Callable[[VolumeId], bool] = lambda _: False
    """Whether it was deleted here: nothing of it is to be waited for."""


class Attachments:
    """Attaches and detaches, in one region and the account of the controller's role.

    ``window_s``: how long a question about an instance waits for those about others. ``sights`` is for
    whoever else looks at attachments: it knows which have ended.
    """

    def __init__(
        self,
        make: Make,
        volumes: AskedOfVolumes,
        take_turn: TakeTurn,
        region: str,
        patience: Patience | None = None,
        window_s: float = WINDOW_S,
    ) -> None:
        nodes, patience = NodeCalls(make, region, window_s), patience or Patience()
        self.sights = Sights(volumes.find, patience.clock)
        self._attaching = Attaching(nodes, self.sights, take_turn, Initialized(volumes.find_checks), patience)
        self._detaching = Detaching(nodes, self.sights, take_turn, patience, volumes.is_deleted)

    async def attach(self, call: AttachCall) -> Pairs:
        """Return what the node is to be told, once AWS says that the volume is attached to it."""
        return await self._attaching.attach(call)

    async def detach(self, volume_id: VolumeId, node: NodeId | None) -> None:
        """Return once AWS describes no attachment of the volume to the node; None: to any node."""
        await self._detaching.detach(volume_id, node)
