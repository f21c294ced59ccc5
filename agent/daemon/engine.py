"""What the daemon does when somebody asks at the control socket: plan, explain, reload, wake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from msgspec import Struct, field

from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.core.replace import replace
from agent.daemon.cloud_half import CloudHalf
from agent.daemon.faces import Faces
from agent.daemon.in_force import InForce
from agent.daemon.systemd_notify import ServiceNotifier
from agent.loop.device_survey import Surveyor
from agent.loop.reconcile import Reconciler
from agent.loop.wake_causes import Cause
from agent.node.machine import Machine
from agent.policy import PolicyFile, diff_policies, tell_expiring, tell_leaving
from agent.report.board.events import EventName
from agent.report.board.volume_status import VolumeStatus

if TYPE_CHECKING:
    from agent.report.http.app import App


class DaemonEngine(Struct):
    """The control socket's ``Engine``."""

    node: Machine
    policy_file: PolicyFile
    service: ServiceNotifier
    faces: Faces
    in_force: InForce
    cloud_half: CloudHalf
    reconciler: Reconciler
    surveyor: Surveyor
    _reloading: anyio.Lock = field(default_factory=anyio.Lock)

    def make_app(self) -> App:
        """Return the application of the control socket."""
        # Imported when somebody asks, as agent.report.control.serve says.
        from agent.report.endpoints.control import make_control_app  # noqa: PLC0415

        app = make_control_app(self.faces.board, self)
        self.cloud_half.add_routes(app)
        return app

    async def plan(self) -> tuple[VolumeStatus, ...]:
        """Look at every volume now and return what would be done; changes nothing."""
        return await self.reconciler.look_at_all()

    async def explain(self, volume_id: VolumeId) -> VolumeStatus:
        """Look at one volume now and return its status with every fact; changes nothing."""
        status = await self.reconciler.look(volume_id)
        matches = self.in_force.explain(volume_id)
        return replace(status, facts=(*status.facts, *(("entry", match.sentence) for match in matches)))

    def wake(self, volume_id: VolumeId | None) -> None:
        """Have a volume, or all of them (None), looked at soon, and what is damaged checked again."""
        for volume in self.reconciler.list_volumes() if volume_id is None else (volume_id,):
            self.node.remember(volume).forget_check()
            self.reconciler.wake(volume, Cause.ORDER)

    async def reload(self) -> tuple[str, ...]:
        """Read the policy again, or raise AgentError and keep the one in force; says what will be deleted."""
        async with self._reloading:  # what was read later is in force later
            return await self._reload()

    async def _reload(self) -> tuple[str, ...]:
        self.service.tell_reloading()
        board, path = self.faces.board, str(self.policy_file.path)
        try:
            policy = await self.policy_file.load(trust_owner=not self.node.paths.is_real)
        except AgentError as error:
            self.faces.counters.note_policy_reload(is_in_force=False)
            board.record(EventName.POLICY_REJECTED, path=path, error=str(error))
            raise
        finally:
            self.service.tell_ready(self.faces.summarize())
        old = self.in_force.policy
        changes = diff_policies(old, policy)
        leaving = (*tell_leaving(old, policy), *tell_expiring(old, policy))
        # MoveClusterNodes takes a running node to another cluster; templates and topics go by what it is now.
        await self.in_force.identify()
        self.cloud_half.hands.keep_all()
        self.in_force.put_policy(policy)
        board.record(EventName.POLICY_RELOADED, path=path, changes=changes.describe())
        self.surveyor.refresh()
        self.reconciler.wake_all(Cause.ORDER)
        self.cloud_half.heed_policy()
        return leaving
