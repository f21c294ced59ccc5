"""The daemon: wires the parts together, supervises their tasks, and talks to systemd. It decides nothing."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

import agent
from agent.base.error_barrier import Barrier, supervise, supervise_service
from agent.base.log import get_logger
from agent.base.paths import Paths
from agent.cloud.identity.identity_sources import IdentitySources, identify_locally, look_around
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.is_wanted import may_be_wanted
from agent.cloud.node_actions import NodeHands
from agent.cloud.service import CloudService
from agent.cloud.spot_interruption import InterruptionWatch
from agent.cloud.state.state_file import FileStore
from agent.cloud.view.cloud_report import CloudReport, explain_fault, make_facts
from agent.core.errors import AgentError
from agent.core.model import NodeFacts, Seen, VolumeId
from agent.core.plan import needs_proof
from agent.loop.device_survey import Surveyor, look_periodically
from agent.loop.goals import Want
from agent.loop.reconcile import Reconciler
from agent.loop.volume_origins import Origins
from agent.loop.wake_causes import Cause
from agent.node.device.source import Hint
from agent.node.isolate.zygote import Forked
from agent.node.machine import Machine, open_node
from agent.policy import Policy, PolicyFile, describe_seen, diff_policies, tell_expiring, tell_leaving
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventHistory, EventName
from agent.report.board.volume_status import VolumeStatus
from agent.report.health.sampler import Sampler
from agent.report.history import FILE_NAME, HistoryKeeper, load_history
from agent.report.hooks import HookRunner
from agent.report.mqtt.publisher import MqttPublisher
from agent.report.serving.certificates import Tls
from agent.report.serving.serve import HttpFace, serve_control
from agent.report.serving.sockets import Listen
from agent.daemon.systemd_notify import ServiceNotifier

if TYPE_CHECKING:
    from aiohttp import web

FIRST_LOOK_TIMEOUT_S = 30.0
"""One volume that hangs, or takes long to format, must not keep the node from starting."""

CLOUD_RETRY_S = 60.0

LAST_WORDS_S = 1.0
"""For writing down that the agent stopped; a disk that takes longer must not keep it from stopping."""

log = get_logger(__name__)


async def run(
    paths: Paths,
    devices: Path | None = None,
    policy_path: Path | None = None,
    zygote: tuple[Forked, socket] | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT. ``devices``: a directory of files that stand in for volumes.

    ``zygote``: the process that forks workers, made before this module was imported. Raises AgentError where
    it cannot start: an invalid policy, another agent running on the same paths.
    """
    async with open_node(paths, devices, zygote) as node:
        policy_file = PolicyFile(policy_path or paths.policy, node.aside)
        policy = await policy_file.load(trust_owner=not paths.is_real)
        history = await load_history(paths.state / FILE_NAME, node.aside)
        await Daemon(paths, policy_file, policy, history, node, has_standins=devices is not None).run()


class Daemon:
    """One running agent; the control socket's ``Engine``."""

    def __init__(
        self,
        paths: Paths,
        policy_file: PolicyFile,
        policy: Policy,
        history: EventHistory,
        node: Machine,
        *,
        has_standins: bool = False,
    ) -> None:
        self._paths = paths
        self._policy_file = policy_file
        self._node = node
        counters = self._counters = Counters()
        self._service = ServiceNotifier()
        self._board = Board(history)
        self._history_keeper = HistoryKeeper(self._board.history, paths.state / FILE_NAME, node.save)
        self._is_started = anyio.Event()
        self._reloading = anyio.Lock()
        self._barrier = Barrier()
        self._has_listened = False
        self._facts = NodeFacts()
        self._is_identified = False
        """It was asked which node this is, whether or not anything told."""
        self._reconciler = Reconciler(node, self._board, counters, dev_ebs=str(paths.dev_ebs))
        self._sampler = Sampler(node, self._board, self._reconciler.wake)
        retained = FileStore(paths.state / "mqtt.json", node.aside)
        self._mqtt = MqttPublisher(self._board, counters, node.aside, retained)
        self._http = HttpFace(
            self._make_http_app, _choose_listen(policy), counters.count_connection, aside=node.aside
        )
        self._surveyor = Surveyor(node, self._assign, self._reconciler, counters)
        node.doubt = self._surveyor.doubt
        self._origins = Origins()
        node.find_answer = self._origins.find
        node.freezes.hear_thaw = node.rings.call = partial(self._reconciler.wake, cause=Cause.WAY)
        node.rings.find_path, node.rings.hear_free = self._reconciler.find_path, self._reconciler.hear_free
        node.needs_proof = needs_proof
        self._present: Mapping[VolumeId, Seen] = {}
        self._claimed: Mapping[str, VolumeId] = {}
        # Where files stand in for volumes there is no instance whose metadata could be asked.
        self._look_around = partial(look_around, node.aside)
        self._has_standins = has_standins
        self._surroundings = self._find_surroundings()
        self._hands = NodeHands(node, self._reconciler, lambda: self._present, self._surveyor.refresh)
        self._cloud = CloudService(
            lambda: self._policy,
            self._hands,
            self._put_findings,
            counters.count_cloud_request,
            has_standins=has_standins,
            surroundings=self._look_around,
            claims=FileStore(paths.state / "claims.json", node.aside),
            note_by_hand=self._hands.note_by_hand,
            record=self._record,
        )
        self._interruptions = InterruptionWatch(lambda: self._surroundings, self._leave_node)
        self._policy: Policy
        self._put_policy(policy)

    async def run(self) -> None:
        """Start everything, look at every volume, say that the agent is ready, and stay until told to end."""
        began = monotonic()
        try:
            # From the beginning on, since a signal that nobody heeds ends the process.
            with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
                self._board.record(EventName.AGENT_STARTED, version=agent.__version__)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._heed_signals, signals, tasks.cancel_scope, name="signals")
                    await self._start(tasks)
                    self._board.finish_first_look()
                    took_s = round(monotonic() - began, 3)
                    log.info("agent.ready", duration_s=took_s, volumes=len(self._board.statuses()))
                    self._service.tell_ready(self._summarize())
                    self._is_started.set()
                    await anyio.sleep_forever()
        finally:
            self._service.tell_stopping()
            self._board.record(EventName.AGENT_STOPPED)
            with anyio.move_on_after(LAST_WORDS_S, shield=True):
                await self._history_keeper.flush()

    async def _start(self, tasks: TaskGroup) -> None:
        hooks = HookRunner(self._board, self._paths.hooks, lambda: self._facts, aside=self._node.aside)
        tasks.start_soon(supervise, "feed the watchdog", self._service.feed_watchdog, name="watchdog")
        await tasks.start(supervise_service, "answer at the control socket", self._serve_control)
        for name, run in (
            ("answer over HTTP", self._http.run),
            ("run hooks", hooks.run),
            ("write the history down", self._history_keeper.run),
            ("publish over MQTT", self._mqtt.run),
            ("sample how volumes are", self._sampler.run),
        ):
            tasks.start_soon(supervise, name, run, name=name)
        await tasks.start(supervise_service, "follow volumes", self._reconciler.run)
        await tasks.start(supervise_service, "ask devices", self._surveyor.run)
        # Listening comes before listing: what appears in between is announced or listed, or both.
        await tasks.start(supervise_service, "listen for devices", self._watch)
        with self._barrier.containing("thaw what was left frozen"):
            await self._hands.thaw_leftovers()
        identity = CloudIdentity()
        with self._barrier.containing("find out which instance this is"):
            identity = await identify_locally(self._surroundings)
        self._put_facts(make_facts(identity))
        with self._barrier.containing("look at every device"):
            await self._surveyor.look_everywhere()
        let_go = partial(self._origins.run, partial(self._reconciler.wake, cause=Cause.ANSWER))
        tasks.start_soon(supervise, "let volumes go that waited long enough", let_go, name="origins")
        note = self._hands.note_given_back
        tasks.start_soon(supervise, "note what is given back to the policy", note, name="released")
        tasks.start_soon(self._keep_cloud, identity, name="cloud")
        heed = self._interruptions.run
        tasks.start_soon(supervise, "heed what AWS does with this instance", heed, name="interruptions")
        await self._reconciler.wait_settled(self._reconciler.list_volumes(), FIRST_LOOK_TIMEOUT_S)
        tasks.start_soon(supervise, "look at volumes now and then", self._look_periodically, name="resync")

    # -- The control socket's engine -------------------------------------------------------------------------

    async def plan(self) -> tuple[VolumeStatus, ...]:
        """Look at every volume now and return what would be done; changes nothing."""
        return await self._reconciler.look_at_all()

    async def explain(self, volume_id: VolumeId) -> VolumeStatus:
        """Look at one volume now and return its status with every fact; changes nothing."""
        status = await self._reconciler.look(volume_id)
        volume = describe_seen(volume_id, self._present.get(volume_id), self._origins.known)
        matches = self._policy.explain(volume, self._facts, claimed=self._claimed)
        return replace(status, facts=(*status.facts, *(("entry", match.sentence) for match in matches)))

    async def reload(self) -> tuple[str, ...]:
        """Read the policy again, or raise AgentError and keep the one in force; says what will be deleted."""
        async with self._reloading:  # what was read later is in force later
            return await self._reload()

    async def _reload(self) -> tuple[str, ...]:
        self._service.tell_reloading()
        is_trusted = not self._paths.is_real
        try:
            policy = await self._policy_file.load(trust_owner=is_trusted)
        except AgentError as error:
            self._counters.note_policy_reload(is_in_force=False)
            self._board.record(EventName.POLICY_REJECTED, path=str(self._policy_file.path), error=str(error))
            raise
        finally:
            self._service.tell_ready(self._summarize())
        changes = diff_policies(self._policy, policy)
        leaving = (*tell_leaving(self._policy, policy), *tell_expiring(self._policy, policy))
        # MoveClusterNodes takes a running node to another cluster; templates and topics go by what it is now.
        self._surroundings = self._find_surroundings()
        with self._barrier.containing("find out which instance this is"):
            self._put_facts(make_facts(await identify_locally(self._surroundings)))
        self._hands.keep_all()
        self._put_policy(policy)
        self._board.record(
            EventName.POLICY_RELOADED, path=str(self._policy_file.path), changes=changes.describe()
        )
        self._surveyor.refresh()
        self._reconciler.wake_all(Cause.ORDER)
        self._cloud.wake()
        return leaving

    def _find_surroundings(self) -> IdentitySources:
        """Return where to ask who this node is."""
        surroundings = self._look_around()
        return replace(surroundings, metadata_endpoint=None) if self._has_standins else surroundings

    def keep(self, volume_id: VolumeId) -> None:
        """Have a volume that was released used again as the policy says."""
        self._hands.keep(volume_id)
        self._cloud.wake()

    def wake(self, volume_id: VolumeId | None) -> None:
        """Have a volume, or all of them (None), looked at soon, and what is damaged checked again."""
        for volume in self._reconciler.list_volumes() if volume_id is None else (volume_id,):
            self._node.verdicts.forget(volume)
            self._reconciler.wake(volume, Cause.ORDER)

    # -- Tasks -----------------------------------------------------------------------------------------------

    async def _serve_control(self, *, task_status: TaskStatus[None]) -> None:
        count = self._counters.count_connection
        await serve_control(self._make_control_app, self._paths.socket, count, task_status=task_status)

    async def _watch(self, *, task_status: TaskStatus[None]) -> None:
        """Listen for devices; begun anew, look at all, since what happened meanwhile was not heard."""
        has_listened, self._has_listened = self._has_listened, True
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._node.watch, self._surveyor.hear)
            if has_listened:
                self._surveyor.hear(Hint(path=None, action="missed"))
            task_status.started()

    async def _look_periodically(self) -> None:
        await look_periodically(self._surveyor, self._reconciler, lambda: self._policy.agent.resync_s)

    # Imported when somebody asks, as agent.report.serving.serve says.

    def _make_control_app(self) -> web.Application:
        from agent.cloud.orders.routes import add_cloud_routes  # noqa: PLC0415
        from agent.cloud.permissions.doctor_in_agent import add_examination  # noqa: PLC0415
        from agent.report.endpoints.control import make_control_app  # noqa: PLC0415

        app = make_control_app(self._board, self)
        orders, file = self._cloud.prepare_orders, self._policy_file
        add_cloud_routes(app, self._board, orders, self.keep, lambda: self._policy, file, self._hands)
        add_examination(app, lambda: self._policy, partial(look_around, self._node.aside))
        return app

    async def _leave_node(self, why: str, left_s: float) -> None:
        """Have every volume leave this node, whose end is near."""
        from agent.cloud.orders.release_before_end import release_before_end  # noqa: PLC0415
        from agent.cloud.orders.routes import OrderTaker  # noqa: PLC0415

        async def tell(text: str) -> None:
            log.info("instance.leaving", text=text)

        orders, file = self._cloud.prepare_orders, self._policy_file
        taker = OrderTaker(self._board, orders, self.keep, lambda: self._policy, file, self._hands)
        context = taker.open_node_context(tell)
        if context is not None:
            await release_before_end(context, why, left_s)

    def _make_http_app(self) -> web.Application:
        from agent.report.endpoints.http import make_app  # noqa: PLC0415
        from agent.report.metrics.exposition import Exposition  # noqa: PLC0415

        exposition = Exposition(self._board, self._counters, self._node.count_abandoned)
        return make_app(self._board, exposition, self._sampler.readings)

    async def _heed_signals(self, signals: AsyncIterator[signal.Signals], running: anyio.CancelScope) -> None:
        """Reload on SIGHUP, once the agent has started; end on SIGTERM or SIGINT, at any time."""
        async with anyio.create_task_group() as reloads:
            async for number in signals:
                if number != signal.SIGHUP:
                    log.info("agent.stopping", signal=number.name)
                    running.cancel()
                    return
                reloads.start_soon(self._reload_on_signal)

    async def _reload_on_signal(self) -> None:
        await self._is_started.wait()
        # A policy that is rejected is recorded where that is found, and the old one stays.
        with self._barrier.containing("read the policy again"), suppress(AgentError):
            await self.reload()

    async def _keep_cloud(self, identity: CloudIdentity | None) -> None:
        """Keep the cloud half going. A fault in it must never take down the half that needs no cloud."""
        known = [identity]

        async def run() -> None:
            # What was known when it failed is asked for again.
            await self._cloud.run(known.pop() if known else None)

        def tell(error: AgentError) -> None:
            self._board.explain_by_cloud(explain_fault(self._policy, error), {})

        await supervise("ask AWS", run, retry_s=(CLOUD_RETRY_S,), tell=tell)

    # -- Policy ----------------------------------------------------------------------------------------------

    def _put_policy(self, policy: Policy) -> None:
        self._policy = policy
        self._node.allow_roots(policy.agent.allowed_roots)
        self._sampler.interval_s = policy.agent.health.interval_s
        self._sampler.may_write = policy.agent.health.write_probe
        if self._is_identified:  # before, it would be published under another name
            self._mqtt.apply(policy.agent.mqtt, self._facts)
        self._http.apply(_choose_listen(policy))
        self._interruptions.apply(is_wanted="spot-interruption" in policy.agent.cloud.release_on)
        self._counters.note_policy_reload(is_in_force=True)
        self._board.expect(policy.expected(self._facts))
        self._expect_origins()

    def _assign(
        self, present: Mapping[VolumeId, Seen], recorded: Iterable[VolumeId]
    ) -> Mapping[VolumeId, Want]:
        """Return what the policy wants of each volume that is here, or that it or a record names."""
        if present.keys() != self._present.keys():
            if self._is_started.is_set():
                self._hands.note_arrived(present.keys() - self._present.keys())
            self._cloud.wake()
        self._present = present
        self._origins.see(present.keys())
        wants = self._policy.assign(
            present,
            self._facts,
            held=self._list_held(),
            claimed=self._claimed,
            origins=self._origins.known,
            also=tuple(recorded),
        )
        return {volume: self._hands.withhold(volume, want) for volume, want in wants.items()}

    def _put_findings(self, findings: CloudReport) -> None:
        """Take over what the cloud knows of this node and its volumes; what is wanted may follow from it."""
        changed = self._origins.put(findings.origins, findings.untold, findings.unread)
        self._claimed = findings.claimed
        self._put_facts(findings.facts)
        self._board.explain_by_cloud(
            findings.endings, findings.notices, findings.departures, findings.drift, findings.provisioned
        )
        self._board.put_snapshots(findings.snapshots)
        self._board.next_calls, self._board.attachments = findings.calls, findings.attachments
        self._board.put_checks(findings.checks)
        self._surveyor.refresh()
        for volume in changed & self._present.keys():
            self._reconciler.wake(volume, Cause.ANSWER)

    def _record(self, name: str, volume_id: VolumeId | None, /, **fields: Any) -> None:
        """Keep an event of the cloud half, unless it is of the kind that happens once and is kept already."""
        event = EventName(name)
        if not self._board.history.has_once(event, volume_id, fields.get("snapshot_id")):
            self._board.record(event, volume_id, **fields)

    def _put_facts(self, facts: NodeFacts) -> None:
        """Take over what is known of this node now; nothing that was known is forgotten."""
        self._facts = facts.or_else(self._facts)
        self._is_identified = True
        self._mqtt.apply(self._policy.agent.mqtt, self._facts)
        self._board.expect(self._policy.expected(self._facts))
        self._expect_origins()

    def _expect_origins(self) -> None:
        """Have volumes wait for what AWS says of them, or not any more: policy or node may have changed."""
        is_asked = may_be_wanted(
            self._policy,
            self._facts,
            has_standins=self._has_standins,
            is_ec2=self._surroundings.is_ec2,
        )
        limit_s = self._policy.agent.cloud.format_without_origin_after_s
        if self._origins.expect(is_asked=is_asked, limit_s=limit_s):
            for volume in self._present:
                self._reconciler.wake(volume, Cause.ANSWER)

    def _list_held(self) -> dict[str, VolumeId]:
        return {
            status.name: status.volume_id
            for status in self._board.statuses()
            if status.name is not None and status.volume_id is not None and status.device is not None
        }

    def _summarize(self) -> str:
        statuses = self._board.statuses()
        usable = sum(status.condition.is_usable for status in statuses)
        return f"{usable} of {len(statuses)} volumes usable"


def _choose_listen(policy: Policy) -> Listen:
    http = policy.agent.http
    if http.tls is None:
        return Listen(http.host, http.port)
    client_ca = None if http.tls.client_ca is None else Path(http.tls.client_ca)
    return Listen(http.host, http.port, Tls(Path(http.tls.cert), Path(http.tls.key), client_ca))
