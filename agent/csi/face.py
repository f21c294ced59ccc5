"""The Kubernetes face of a running agent: what kubelet wants beside the policy, and where it asks for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import anyio

import agent
from agent.base.error_barrier import supervise
from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces, VolumeId
from agent.csi.calls import NodeInfo
from agent.csi.instance_room import InstanceRoom
from agent.csi.last_word import LastWord
from agent.csi.node_answer import NodeAnswer, Surroundings
from agent.csi.policy_volumes.entries import Entries
from agent.csi.policy_volumes.entry_volumes import Kubelet, PolicyVolumes
from agent.csi.policy_volumes.records import PublishedRecords
from agent.csi.real_paths import RealPaths
from agent.csi.served_driver import MakePlugin, ServedDriver
from agent.csi.sockets.fd_store import FdStore
from agent.csi.sockets.keep_sockets import KubeletSockets, clear_sockets
from agent.csi.volumes.engine import Engine
from agent.csi.volumes.forgotten_staging import ForgottenStaging
from agent.csi.volumes.kubelet_volumes import KubeletVolumes
from agent.csi.volumes.kubelet_wants import KubeletWants
from agent.csi.volumes.staged_records import StagedRecords
from agent.loop.goals import Want
from agent.loop.wake_causes import Cause
from agent.node.machine import Machine
from agent.node.mounts.pod_views import View, remove_view
from agent.node.state.volume_records import read_machine_id
from agent.policy.settings import CsiSettings
from agent.policy.values.csi_fields import POLICY_DRIVER
from agent.report.agent_counters import Counters

if TYPE_CHECKING:
    from agent.csi.service.identity import Plugin
    from agent.csi.service.plugin import MakeNode, NodePlugin
    from agent.csi.service.registration import Registration


REREAD_S = 2.0
"""Until a note is looked at again that the node was short of something to read."""


class KubeletFace:
    """Serves kubelet where the policy wants it. ``settings``: those of the start, until a restart.

    ``ask_places`` asks AWS for how many volumes the instance has places.
    """

    def __init__(
        self,
        node: Machine,
        engine: Engine,
        counters: Counters,
        settings: CsiSettings,
        around: Surroundings,
        ask_places: Callable[[], Awaitable[AttachmentPlaces | None]],
    ) -> None:
        self._node = node
        self._engine = engine
        self._counters = counters
        self._settings = settings
        self._paths = RealPaths(settings.root, settings.root)
        boot_id, machine_id = node.boot_id, read_machine_id()
        self._staged = StagedRecords(node.paths.state, node, boot_id, machine_id)
        self._published = PublishedRecords(node.paths.state, node, boot_id, machine_id)
        self._staged.hear_change = self._published.hear_change = self._name_volumes
        self._wants = KubeletWants(self._staged.all, self._paths.resolve, self._staged.faults)
        self._entries = Entries(engine.board)
        # Before any program is started, which would be handed what systemd kept.
        self._store = FdStore()
        self._registered: dict[str, bool] = {}
        """By driver."""
        self._answer = NodeAnswer(around, engine.board, settings, self._refresh)
        self._room = InstanceRoom(engine.board, ask_places)
        self._last_words: dict[str, LastWord] = {}
        """By driver, too."""
        self._drivers = tuple(self._list_drivers())
        resolve, path_of = self._paths.resolve, self._staged.path_of
        self._forgotten = ForgottenStaging(self._staged.all, resolve, node.aside, engine.board, path_of)
        known = self._are_devices_known = anyio.Event()
        self._volumes = KubeletVolumes(
            engine, self._staged, self._wants, node.sample, self._describe_node, known
        )
        kubelet = Kubelet(self._paths.resolve, self._remove_target, node.sample, self._say_who, known)
        self._policy_volumes = PolicyVolumes(engine, self._entries, self._published, kubelet)
        node.find_shown = partial(self._published.find_shown, resolve=self._paths.resolve)

    def _list_drivers(self) -> Iterator[ServedDriver]:
        plugins: dict[str, MakePlugin] = {self._settings.driver: self._make_plugin}
        if self._settings.policy_volumes:
            plugins[POLICY_DRIVER] = self._make_policy_plugin
        for driver, make in plugins.items():
            self._registered[driver] = False
            last_word = LastWord(self._node.paths.runtime, driver, partial(self._answer.find_told, driver))
            self._last_words[driver] = last_word
            yield ServedDriver(
                driver,
                make,
                self._open_sockets,
                self._engine.board,
                last_word,
                self._note_served,
                self._count_registered,
            )

    def _open_sockets(
        self,
        driver: str,
        tell: Callable[[AgentError | None], None],
        is_current: Callable[[socket.socket], bool],
    ) -> KubeletSockets:
        settings, aside = self._settings, self._node.aside
        is_expected = settings.enabled is True
        return KubeletSockets(
            settings.root, driver, self._store, aside, tell, is_expected=is_expected, is_current=is_current
        )

    def _count_registered(self, driver: str, is_registered: bool) -> None:  # noqa: FBT001 -- the value itself
        """Have it counted whether kubelet takes the agent for the plugin of all that it serves."""
        self._registered[driver] = is_registered
        self._counters.note_csi_registration(is_registered=all(self._registered.values()))

    def _note_root(self, real: str) -> None:
        """Have kubelet's paths lead below ``real``, which is found by whoever may wait for its disk."""
        self._paths.real = self._node.kubelet_root = real

    def _note_served(self, real: str) -> None:
        """Note that there is a kubelet whose paths lead below ``real``, which may ask or has asked."""
        self._note_root(real)
        self._room.want()

    async def load(self) -> None:
        """Find out what kubelet has staged since the node was started; before the first look."""
        root = self._settings.root
        self._note_root(await self._node.aside(os.path.realpath, root, subject=root))
        await self._staged.load()
        await self._published.load()

    async def read_rest(self) -> None:
        """Read what of kubelet's could not be read at the start, until all of it is."""
        for notes in (self._staged, self._published):
            while not notes.is_read:
                await anyio.sleep(REREAD_S)
                await notes.load()
                self._engine.refresh()
        # Those that pods have are known by now to be the policy's.
        for volume in self._published.all:
            self._engine.passes.wake(volume, Cause.ORDER)

    def heed_calls(self) -> None:
        """Do what kubelet calls for, which has waited until now: every device was asked who it is."""
        self._are_devices_known.set()

    def _name_volumes(self) -> None:
        """Have it told which PersistentVolumes the volumes are."""
        names = {volume: record.persistent_volume for volume, record in self._published.all.items()}
        names |= {volume: record.persistent_volume for volume, record in self._staged.all.items()}
        self._engine.board.put_persistent_volumes({volume: name for volume, name in names.items() if name})

    def merge(self, wants: Mapping[VolumeId, Want], present: Collection[VolumeId]) -> Mapping[VolumeId, Want]:
        """Return what is wanted of each volume, by the policy and by kubelet."""
        merged = self._wants.merge(wants, present)
        return self._entries.see(merged, self._published.all)

    async def _describe_node(self) -> NodeInfo:
        if self._settings.attach_limit is None:
            await self._room.wait_asked()
        info = await self._answer.describe()
        self._last_words[self._settings.driver].note_told(info)
        return info

    async def _say_who(self) -> NodeInfo:
        info = await self._answer.say_who()
        self._last_words[POLICY_DRIVER].note_told(info)
        return info

    def _refresh(self) -> None:
        """Have worked out anew what is wanted of each volume, once all that are here are known."""
        if self._are_devices_known.is_set():
            self._engine.refresh()

    async def _remove_target(self, path: str) -> None:
        await self._node.aside(remove_view, View(path, frozenset(), None), (self._paths.real,), subject=path)

    async def run(self) -> None:
        """Serve kubelet until cancelled: it may register the agent before its calls are heeded."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(supervise, "let go of drivers that are not served", self._let_go)
            tasks.start_soon(supervise, "look for what kubelet has forgotten", self._forgotten.run)
            if self._settings.attach_limit is None:
                tasks.start_soon(supervise, "find out how many volumes the instance takes", self._room.run)
            for one in self._drivers:
                tasks.start_soon(supervise, f"serve kubelet as {one.driver}", one.run)

    async def _let_go(self) -> None:
        """Take away what an agent before has left that served other drivers."""
        served = {one.driver for one in self._drivers}
        await clear_sockets(
            self._settings.root, {POLICY_DRIVER} - served, self._store, self._node.aside, served
        )

    def _make_plugin(self, tell: Callable[[Registration], None]) -> NodePlugin:
        # With the libraries that speak gRPC, which no node without kubelet is to hold.
        from agent.csi.service.identity import Plugin  # noqa: PLC0415
        from agent.csi.service.node import NodeService  # noqa: PLC0415

        node = partial(NodeService, self._volumes, tell_progress=self._tell_progress)
        return self._wrap(Plugin(self._settings.driver, agent.__version__), node, tell)

    def _make_policy_plugin(self, tell: Callable[[Registration], None]) -> NodePlugin:
        from agent.csi.policy_volumes.node_service import PolicyNodeService  # noqa: PLC0415
        from agent.csi.service.identity import Plugin  # noqa: PLC0415

        node = partial(PolicyNodeService, self._policy_volumes, self._policy_volumes.tell_progress)
        return self._wrap(Plugin(POLICY_DRIVER, agent.__version__, has_own_volumes=True), node, tell)

    def _wrap(self, plugin: Plugin, make_node: MakeNode, tell: Callable[[Registration], None]) -> NodePlugin:
        from agent.csi.service.plugin import NodePlugin  # noqa: PLC0415

        return NodePlugin(
            plugin,
            make_node,
            self._settings.root,
            is_ready=lambda: self._engine.board.is_first_look_done,
            tell_registration=tell,
            count=self._counters.count_csi_call,
        )

    def _tell_progress(self, volume: VolumeId) -> str | None:
        status = self._engine.board.get(volume)
        return None if status is None else status.message.removesuffix(".")
