"""What happens when the daemon starts, until it ends: its parts are made, joined and run, in that order."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup, TaskStatus

import agent
from agent.base.error_barrier import Barrier, supervise, supervise_service
from agent.base.log import get_logger
from agent.base.paths import Paths
from agent.base.terminal import Terminal
from agent.cloud.power_off import LIMIT_S, is_going_off
from agent.core.errors import AgentError
from agent.core.model import Seen, VolumeId
from agent.core.plan import needs_proof
from agent.daemon.cloud_half import CloudHalf
from agent.daemon.engine import DaemonEngine
from agent.daemon.faces import Faces
from agent.daemon.in_force import InForce
from agent.daemon.systemd_notify import ServiceNotifier
from agent.loop.device_survey import Surveyor
from agent.loop.goals import Want
from agent.loop.reconcile import Reconciler
from agent.loop.resync import look_periodically
from agent.loop.wake_causes import Cause
from agent.node.device.source import Hint
from agent.node.isolate.forked_zygote import Forked
from agent.node.machine import Machine, open_node
from agent.policy import Policy, PolicyFile
from agent.policy.settings import CsiSettings
from agent.policy.values.csi_fields import POLICY_DRIVER
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventHistory, EventName
from agent.report.control.serve import serve_control
from agent.report.history import FILE_NAME, load_history

if TYPE_CHECKING:
    from agent.csi.face import KubeletFace

FIRST_LOOK_TIMEOUT_S = 30.0
"""One volume that hangs, or takes long to format, must not keep the node from starting."""

LAST_WORDS_S = 1.0
"""For writing down that the agent stopped; a disk that takes longer must not keep it from stopping."""

log = get_logger(__name__)


async def run(
    paths: Paths,
    devices: Path | None = None,
    policy_path: Path | None = None,
    zygote: tuple[Forked, socket] | None = None,
    reader: socket | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT. ``devices``: a directory of files that stand in for volumes.

    ``zygote``: the process that forks workers, made before this module was imported; ``reader``: where one
    that reads the policy waits for it. Raises AgentError where it cannot start: an invalid policy, another
    agent running on the same paths.
    """
    async with open_node(paths, devices, zygote, reader) as node:
        policy_file = PolicyFile(policy_path or paths.policy, node.aside, node.confined)
        policy = await policy_file.load(trust_owner=not paths.is_real)
        history = await load_history(paths.state / FILE_NAME, node.aside)
        await Daemon(policy_file, policy, history, node, has_standins=devices is not None).run()


class Daemon:
    """One running agent: all its parts, and the tasks they run in. It decides nothing."""

    def __init__(
        self,
        policy_file: PolicyFile,
        policy: Policy,
        history: EventHistory,
        node: Machine,
        *,
        has_standins: bool = False,
    ) -> None:
        self._node = node
        self._service = ServiceNotifier()
        self._terminal = Terminal()
        self._is_started = anyio.Event()
        self._has_listened = False
        self._barrier = Barrier()
        board = self._board = Board(history)
        counters = self._counters = Counters()
        reconciler = self._reconciler = Reconciler(node, board, counters, dev_ebs=str(node.paths.dev_ebs))
        self._wake_for_answer = partial(reconciler.wake, cause=Cause.ANSWER)
        self._faces = Faces(node, board, counters, policy, reconciler.wake)
        self._in_force = InForce(
            policy, node, self._faces, self._wake_for_answer, self._refresh, has_standins=has_standins
        )
        self._cloud_half = CloudHalf(
            node, self._faces, self._in_force, policy_file, reconciler, self._refresh
        )
        self._kubelet = self._make_kubelet_face(policy)
        self._surveyor = Surveyor(node, self._assign, reconciler, counters)
        self._engine = DaemonEngine(
            node,
            policy_file,
            self._service,
            self._faces,
            self._in_force,
            self._cloud_half,
            reconciler,
            self._surveyor,
        )
        self._join_node()
        self._in_force.put_policy(policy)
        self._cloud_half.heed_policy()

    def _join_node(self) -> None:
        """Have the machine ask and tell those above it, which it does not know."""
        node, reconciler = self._node, self._reconciler
        node.doubt = self._surveyor.doubt
        node.find_answer = self._in_force.origins.find
        node.may_want_raw = self._in_force.may_want_raw
        node.needs_proof = needs_proof
        node.freezes.hear_thaw = node.rings.call = partial(reconciler.wake, cause=Cause.WAY)
        node.rings.find_path, node.rings.hear_free = reconciler.find_path, reconciler.hear_free

    def _make_kubelet_face(self, policy: Policy) -> KubeletFace | None:
        """Return what serves kubelet, where the policy of the start wants it."""
        settings = policy.agent.csi
        if settings is None or settings.enabled is False:
            return None
        # Imported where it is wanted: most nodes that are not Kubernetes' never need it.
        from agent.csi.face import KubeletFace  # noqa: PLC0415
        from agent.csi.volumes.engine import Engine  # noqa: PLC0415

        engine = Engine(self._reconciler, self._board, self._refresh)
        ask_places = self._cloud_half.ask_places
        return KubeletFace(self._node, engine, self._counters, settings, self._in_force, ask_places)

    async def _let_go_of_kubelet(self) -> None:
        """Tell what an agent before, which served kubelet, has left to it, and take away its sockets."""
        from agent.csi.sockets.fd_store import FdStore  # noqa: PLC0415
        from agent.csi.sockets.keep_sockets import clear_sockets  # noqa: PLC0415
        from agent.csi.tell_unserved import tell_unserved  # noqa: PLC0415

        settings = self._in_force.policy.agent.csi or CsiSettings()
        drivers = (settings.driver, POLICY_DRIVER)
        if self._node.paths.is_real:
            await clear_sockets(settings.root, drivers, FdStore(), self._node.aside)
        await tell_unserved(self._board, self._node.paths.state, settings.driver, self._node.aside)

    def _assign(
        self, present: Mapping[VolumeId, Seen], recorded: Iterable[VolumeId]
    ) -> Mapping[VolumeId, Want]:
        wants = self._cloud_half.assign(present, recorded)
        return wants if self._kubelet is None else self._kubelet.merge(wants, present)

    def _refresh(self) -> None:
        self._surveyor.refresh()

    async def run(self) -> None:
        """Start everything, look at every volume, say that the agent is ready, and stay until told to end."""
        began = monotonic()
        try:
            # From the beginning on, since a signal that nobody heeds ends the process.
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                self._board.record(EventName.AGENT_STARTED, version=agent.__version__)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._heed_signals, signals, tasks.cancel_scope, name="signals")
                    await self._faces.recall_past()
                    await self._start(tasks)
                    self._board.finish_first_look()
                    took_s = round(monotonic() - began, 3)
                    log.info("agent.ready", duration_s=took_s, volumes=len(self._board.statuses()))
                    self._service.tell_ready(self._faces.summarize())
                    self._is_started.set()
                    await anyio.sleep_forever()
        finally:
            self._service.tell_stopping()
            self._board.record(EventName.AGENT_STOPPED)
            with anyio.move_on_after(LAST_WORDS_S, shield=True):
                await self._faces.flush_history()

    async def _start(self, tasks: TaskGroup) -> None:
        tasks.start_soon(supervise, "feed the watchdog", self._service.feed_watchdog, name="watchdog")
        await tasks.start(supervise_service, "answer at the control socket", self._serve_control)
        for name, run in self._faces.list_tasks():
            tasks.start_soon(supervise, name, run, name=name)
        await tasks.start(supervise_service, "follow volumes", self._reconciler.run)
        await tasks.start(supervise_service, "ask devices", self._surveyor.run)
        # Listening comes before listing: what appears in between is announced or listed, or both.
        await tasks.start(supervise_service, "listen for devices", self._watch)
        hands = self._cloud_half.hands
        with self._barrier.containing("thaw what was left frozen"):
            await hands.frozen.thaw_left()
        thaw = hands.frozen.run
        tasks.start_soon(supervise, "thaw what was left frozen", thaw, name="thaw")
        if self._kubelet is not None:
            with self._barrier.containing("find what kubelet has staged"):
                await self._kubelet.load()
        identity = await self._in_force.identify()
        with self._barrier.containing("recall which volumes this node's claims had"):
            self._cloud_half.recall(identity)
        if self._kubelet is not None:
            # Beside the first look: a device that does not answer keeps no node from registering.
            tasks.start_soon(supervise, "serve kubelet", self._kubelet.run, name="kubelet")
        with self._barrier.containing("look at every device"):
            await self._surveyor.look_everywhere()
        let_go = partial(self._in_force.origins.run, self._wake_for_answer)
        tasks.start_soon(supervise, "let volumes go that waited long enough", let_go, name="origins")
        note = hands.note_given_back
        tasks.start_soon(supervise, "note what is given back to the policy", note, name="released")
        tasks.start_soon(self._cloud_half.run, identity, name="cloud")
        ask = self._in_force.asking.run
        tasks.start_soon(supervise, "find out which node this is", ask, name="identity")
        heed = self._cloud_half.interruptions.run
        tasks.start_soon(supervise, "heed what AWS does with this instance", heed, name="interruptions")
        if self._kubelet is not None:
            self._kubelet.heed_calls()
            again = self._kubelet.read_rest
            tasks.start_soon(supervise, "read what kubelet has staged", again, name="kubelet notes")
        else:
            tasks.start_soon(supervise, "let go of kubelet", self._let_go_of_kubelet, name="kubelet")
        await self._reconciler.wait_settled(self._reconciler.list_volumes(), FIRST_LOOK_TIMEOUT_S)
        tasks.start_soon(supervise, "look at volumes now and then", self._look_periodically, name="resync")

    async def _serve_control(self, *, task_status: TaskStatus[None]) -> None:
        count = self._counters.count_connection
        await serve_control(self._engine.make_app, self._node.paths.socket, count, task_status=task_status)

    async def _watch(self, *, task_status: TaskStatus[None]) -> None:
        """Listen for devices; begun anew, look at all, since what happened meanwhile was not heard."""
        has_listened, self._has_listened = self._has_listened, True
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._node.watch, self._surveyor.hear)
            if has_listened:
                self._surveyor.hear(Hint(path=None, action="missed"))
            task_status.started()

    async def _look_periodically(self) -> None:
        await look_periodically(
            self._surveyor, self._reconciler, lambda: self._in_force.policy.agent.resync_s
        )

    async def _heed_signals(self, signals: AsyncIterator[signal.Signals], running: anyio.CancelScope) -> None:
        """Reload on SIGHUP, once the agent has started; end on SIGTERM or SIGINT, at any time.

        What is to be done before the end is given up on another one of these. The SIGHUP of a terminal that
        has closed ends the agent that was run in it.
        """
        is_ending = False
        async with anyio.create_task_group() as tasks:
            async for number in signals:
                if number == signal.SIGHUP and not self._terminal.has_closed:
                    tasks.start_soon(self._reload_on_signal)
                    continue
                log.info("agent.stopping", signal=number.name)
                if is_ending or not self._cloud_half.leaves_at_power_off:
                    running.cancel()
                    return
                is_ending = True
                tasks.start_soon(self._leave_and_end, running)

    async def _leave_and_end(self, running: anyio.CancelScope) -> None:
        """End; where the machine goes off for good, once the volumes have left it, or time is up."""
        with self._barrier.containing("have volumes leave a machine that is powered off"):
            if await is_going_off():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._service.ask_for_time)
                    with anyio.move_on_after(LIMIT_S):
                        await self._is_started.wait()
                        await self._cloud_half.leave_before_power_off()
                    tasks.cancel_scope.cancel()
        running.cancel()

    async def _reload_on_signal(self) -> None:
        await self._is_started.wait()
        # A policy that is rejected is recorded where that is found, and the old one stays.
        with self._barrier.containing("read the policy again"), suppress(AgentError):
            await self._engine.reload()
