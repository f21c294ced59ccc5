"""The cloud half as the daemon has it: what follows when it says something, and its orders on the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from agent.base.error_barrier import supervise
from agent.base.log import get_logger
from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.node_actions import NodeHands
from agent.cloud.power_off import LIMIT_S
from agent.cloud.service import CloudService
from agent.cloud.spot_interruption import Interruption, InterruptionWatch
from agent.cloud.state.state_file import FileStore
from agent.cloud.view.cloud_report import CloudReport, explain_fault
from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces, EndCause, Ending, Seen, VolumeId
from agent.daemon.faces import Faces
from agent.daemon.in_force import InForce
from agent.loop.goals import Want
from agent.loop.reconcile import Reconciler
from agent.loop.wake_causes import Cause
from agent.node.machine import Machine
from agent.policy import Policy, PolicyFile
from agent.report.board.events import EventName

if TYPE_CHECKING:
    from agent.cloud.orders.routes import OrderTaker
    from agent.report.http.app import App

CLOUD_RETRY_S = 60.0

log = get_logger(__name__)


class CloudHalf:
    """Asks AWS and hands on what it says. A fault in it must never take down the half that needs no cloud."""

    def __init__(
        self,
        node: Machine,
        faces: Faces,
        in_force: InForce,
        policy_file: PolicyFile,
        reconciler: Reconciler,
        refresh: Callable[[], None],
    ) -> None:
        self._board = faces.board
        self._in_force = in_force
        self._policy_file = policy_file
        self._reconciler = reconciler
        self._refresh = refresh
        self.hands = NodeHands(node, reconciler, lambda: in_force.present, lambda: in_force.assigned, refresh)
        self._service = CloudService(
            self._get_policy,
            self.hands,
            self._put_report,
            faces.counters.count_cloud_request,
            has_standins=in_force.has_standins,
            surroundings=in_force.look_around,
            claims=FileStore(node.paths.state / "claims.json", node.aside),
            note_by_hand=self.hands.note_by_hand,
            record=self._record,
        )
        self._is_return_meant = False
        """This instance is stopped, not terminated: volumes leave it that come back by themselves."""
        self.interruptions = InterruptionWatch(
            lambda: in_force.identity_sources, self._leave, tell=self._hear_interruption
        )

    async def run(self, identity: CloudIdentity) -> None:
        """Ask AWS while the policy needs it, until cancelled. ``identity``: what is known of the node."""
        known = [identity]

        async def run() -> None:
            # What was known when it failed is asked for again.
            await self._service.run(known.pop() if known else None)

        def tell(error: AgentError) -> None:
            self._board.explain_by_cloud(explain_fault(self._in_force.policy, error), {})

        await supervise("ask AWS", run, retry_s=(CLOUD_RETRY_S,), tell=tell)

    def recall(self, identity: CloudIdentity) -> None:
        """Have claims keep the volumes that AWS described as theirs last, until it is heard."""
        self._in_force.claimed = self._service.recall(identity)

    async def ask_places(self) -> AttachmentPlaces | None:
        """Ask AWS for how many volumes this instance has places, as ``CloudService`` does."""
        return await self._service.ask_places()

    def heed_policy(self) -> None:
        """Look at the cloud as the policy in force says."""
        release_on = self._in_force.policy.agent.cloud.release_on
        self.interruptions.apply(is_wanted=EndCause.SPOT_INTERRUPTION in release_on)
        self._service.wake()

    @property
    def leaves_at_power_off(self) -> bool:
        """Whether volumes are to leave a machine that is powered off: not where nothing could detach them."""
        settings = self._in_force.policy.agent.cloud
        is_possible = settings.enabled is not False and settings.attach_api != "none"
        return is_possible and EndCause.POWER_OFF in settings.release_on

    def assign(
        self, present: Mapping[VolumeId, Seen], recorded: Iterable[VolumeId]
    ) -> Mapping[VolumeId, Want]:
        """Return what is wanted of each volume; of one that is released nothing, whatever the policy says."""
        old, assigned = self._in_force.present.keys(), self._in_force.assigned
        if present.keys() != old:
            if self._board.is_first_look_done:
                self.hands.note_arrived(present.keys() - old)
            self._service.wake()
        wants = self._in_force.assign(present, recorded)
        if self._in_force.assigned != assigned:
            self._service.wake()
        return {volume: self.hands.withhold(volume, want) for volume, want in wants.items()}

    def keep(self, volume_id: VolumeId) -> None:
        """Have a volume that was released used again as the policy says."""
        self.hands.keep(volume_id)
        self._service.wake()

    def add_routes(self, app: App) -> None:
        """Let the control socket take orders for the cloud, and examine what the agent may do there."""
        from agent.cloud.orders.routes import add_cloud_routes  # noqa: PLC0415
        from agent.cloud.permissions.doctor_in_agent import add_examination  # noqa: PLC0415

        add_cloud_routes(app, self._make_order_taker())
        add_examination(app, self._get_policy, self._in_force.look_around)

    def _make_order_taker(self) -> OrderTaker:
        from agent.cloud.orders.routes import OrderTaker  # noqa: PLC0415

        orders, file = self._service.prepare_orders, self._policy_file
        return OrderTaker(self._board, orders, self.keep, self._get_policy, file, self.hands)

    def _get_policy(self) -> Policy:
        return self._in_force.policy

    # -- What the cloud half says ----------------------------------------------------------------------------

    def _put_report(self, report: CloudReport) -> None:
        """Take over what the cloud knows of this node and its volumes; what is wanted may follow from it."""
        changed = self._in_force.origins.put(report.origins, report.untold, report.unread)
        self._in_force.claimed = report.claimed
        self._in_force.account_zone = report.zone or self._in_force.account_zone
        self._in_force.put_facts(report.facts)
        self._board.explain_by_cloud(
            report.endings, report.notices, report.departures, report.drift, report.provisioned
        )
        known = self._in_force.origins.known
        self._board.put_claims({one: origin.claim for one, origin in known.items() if origin.claim})
        self._board.put_snapshots(report.snapshots)
        self._board.put_calls(report.calls, report.places)
        self._board.remarks = report.remarks
        self._board.put_checks(report.checks)
        self._refresh()
        for volume in changed & self._in_force.present.keys():
            self._reconciler.wake(volume, Cause.ANSWER)

    def _record(self, name: str, volume_id: VolumeId | None, /, **fields: Any) -> None:
        """Keep an event of the cloud half, unless it is of the kind that happens once and is kept already."""
        event = EventName(name)
        if not self._board.history.has_once(event, volume_id, fields.get("snapshot_id")):
            self._board.record(event, volume_id, **fields)

    async def leave_before_power_off(self) -> None:
        """Have those volumes leave that come back by themselves when this machine is started again."""
        self._is_return_meant = True
        self._board.record(EventName.INSTANCE_POWERED_OFF)
        self._board.ending = Ending(
            EndCause.POWER_OFF, "This machine is being powered off, and volumes leave it."
        )
        await self._leave("was let go, since this machine is being powered off", LIMIT_S)

    def _hear_interruption(self, notice: Interruption) -> None:
        self._is_return_meant = notice.action == "stop"
        at = notice.at.isoformat()
        self._board.record(EventName.INSTANCE_INTERRUPTED, action=notice.action, time=at)
        if notice.is_end:
            text = f"AWS is about to {notice.action} this instance, at {at}, and volumes leave it."
            self._board.ending = Ending(EndCause.SPOT_INTERRUPTION, text)

    async def _leave(self, why: str, left_s: float) -> None:
        """Have volumes leave this node, whose end is near."""
        from agent.cloud.orders.release.before_end import find_returning, release_before_end  # noqa: PLC0415

        async def tell(text: str | None, _percent: float | None = None) -> None:
            if text is not None:
                log.info("instance.leaving", text=text)

        context = self._make_order_taker().open_node_context(tell)
        if context is not None:
            only = find_returning(self._board, self._in_force.policy) if self._is_return_meant else None
            await release_before_end(context, why, left_s, only=only)
