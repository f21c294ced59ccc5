"""The Kubernetes face of a running agent: what kubelet wants beside the policy, and where it asks for it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Protocol

import anyio

import agent
from agent.base.log import get_logger
from agent.cloud.identity.identity_sources import IdentitySources
from agent.cloud.identity.zone import Zone, ask_zone, choose_zone
from agent.core.errors import AgentError
from agent.core.model import NodeFacts, VolumeId
from agent.csi.calls import NodeInfo
from agent.csi.real_paths import RealPaths
from agent.csi.sockets.fd_store import FdStore
from agent.csi.sockets.keep_sockets import KubeletSockets, Listeners
from agent.csi.tell_registration import tell_obstacle, tell_registration
from agent.csi.volumes.engine import Engine
from agent.csi.volumes.kubelet_volumes import KubeletVolumes
from agent.csi.volumes.kubelet_wants import KubeletWants
from agent.csi.volumes.node_info import describe_node
from agent.csi.volumes.staged_records import StagedRecords
from agent.loop.goals import Want
from agent.node.machine import Machine
from agent.node.state.volume_records import read_machine_id
from agent.policy.settings import CsiSettings
from agent.report.agent_counters import Counters

if TYPE_CHECKING:
    from agent.csi.service.registration import Registration

REREAD_S = 2.0
"""Until a note is looked at again that the node was short of something to read."""

log = get_logger(__name__)


class Surroundings(Protocol):
    """What is known of the node."""

    @property
    def facts(self) -> NodeFacts:
        """Who it is."""

    @property
    def has_standins(self) -> bool:
        """Files stand in for its volumes."""

    @property
    def identity_sources(self) -> IdentitySources:
        """Where it may be asked who the node is."""

    @property
    def account_zone(self) -> str | None:
        """Its zone as AWS calls it to the account that has the volumes; None: not told."""

    @property
    def is_hyperpod(self) -> bool:
        """It is a node of HyperPod, whose metadata speaks as another account."""


class KubeletFace:
    """Serves kubelet where the policy wants it. ``settings``: those of the start, until a restart."""

    def __init__(
        self, node: Machine, engine: Engine, counters: Counters, settings: CsiSettings, around: Surroundings
    ) -> None:
        self._node = node
        self._engine = engine
        self._counters = counters
        self._settings = settings
        self._around = around
        self._paths = RealPaths(settings.root, settings.root)
        self._records = StagedRecords(node.paths.state, node, node.boot_id, read_machine_id())
        self._records.hear_change = self._name_volumes
        self._wants = KubeletWants(self._records.all, self._paths.resolve, self._records.faults)
        self._zone = Zone()
        """As the metadata service has told it."""
        self._registration: Registration | None = None
        # Before any program is started, which would be handed what systemd kept.
        store = FdStore()
        self._sockets = KubeletSockets(
            settings.root,
            settings.driver,
            store,
            node.aside,
            self._note_obstacle,
            is_expected=settings.enabled is True,
        )
        self._are_devices_known = anyio.Event()
        self._volumes = KubeletVolumes(
            engine, self._records, self._wants, node.sample, self._describe_node, self._are_devices_known
        )

    def _note_root(self, real: str) -> None:
        """Have kubelet's paths lead below ``real``, which is found by whoever may wait for its disk."""
        self._paths.real = self._node.kubelet_root = real

    async def load(self) -> None:
        """Find out what kubelet has staged since the node was started; before the first look."""
        root = self._settings.root
        self._note_root(await self._node.aside(os.path.realpath, root, subject=root))
        await self._records.load()

    async def read_rest(self) -> None:
        """Read what of kubelet's could not be read at the start, until all of it is."""
        while not self._records.is_read:
            await anyio.sleep(REREAD_S)
            await self._records.load()
            self._engine.refresh()

    def heed_calls(self) -> None:
        """Do what kubelet calls for, which has waited until now: every device was asked who it is."""
        self._are_devices_known.set()

    def _name_volumes(self) -> None:
        """Have it told which PersistentVolumes the volumes are."""
        names = {volume: record.persistent_volume for volume, record in self._records.all.items()}
        self._engine.board.persistent_volumes = {volume: name for volume, name in names.items() if name}

    def merge(self, wants: Mapping[VolumeId, Want], present: Collection[VolumeId]) -> Mapping[VolumeId, Want]:
        """Return what is wanted of each volume, by the policy and by kubelet."""
        return self._wants.merge(wants, present)

    async def _describe_node(self) -> NodeInfo:
        board = self._engine.board
        return describe_node(
            self._around.facts,
            board.attachments,
            board.statuses(),
            self._settings,
            zone=await self._find_zone(),
            has_standins=self._around.has_standins,
        )

    async def _find_zone(self) -> Zone:
        """Return the node's zone as the cluster may know it; the metadata service is asked until it tells."""
        around, by_policy = self._around, self._settings.zone
        if self._zone.zone_id is None or self._zone.name is None:
            self._zone = await ask_zone(around.identity_sources)
        return choose_zone(
            self._zone, by_policy=by_policy, by_account=around.account_zone, is_hyperpod=around.is_hyperpod
        )

    async def run(self) -> None:
        """Serve kubelet until cancelled: it may register the agent before its calls are heeded."""
        # With the libraries that speak gRPC, which no node without kubelet is to hold.
        from agent.csi.service.identity import Plugin  # noqa: PLC0415
        from agent.csi.service.plugin import NodePlugin  # noqa: PLC0415

        plugin = NodePlugin(
            Plugin(self._settings.driver, agent.__version__),
            self._volumes,
            self._settings.root,
            is_ready=lambda: self._engine.board.is_first_look_done,
            tell_registration=self._note_registration,
            tell_progress=self._tell_progress,
            count=self._counters.count_csi_call,
        )

        async def serve(listeners: Listeners) -> None:
            self._note_root(listeners.places.root)
            await plugin.serve(listeners)

        await self._sockets.run(serve)

    def _tell_progress(self, volume: VolumeId) -> str | None:
        status = self._engine.board.get(volume)
        return None if status is None else status.message.removesuffix(".")

    def _note_registration(self, registration: Registration) -> None:
        """Say whether kubelet takes the agent for the plugin; the same as before is no news."""
        from agent.csi.service.registration import Registered  # noqa: PLC0415

        self._counters.note_csi_registration(is_registered=isinstance(registration, Registered))
        if registration == self._registration:
            return
        self._registration = registration
        tell_registration(self._engine.board, registration)

    def _note_obstacle(self, error: AgentError | None) -> None:
        """Say what is in the way of the sockets; without them kubelet finds no plugin."""
        is_news = tell_obstacle(self._engine.board, self._settings.driver, error)
        if error is not None and is_news:
            # What it said of them before is no news once it says it of others.
            self._registration = None
            self._counters.note_csi_registration(is_registered=False)
            log.warning("csi.unreachable", error=error.message, hint=error.hint)
