"""The one place where the present state of every volume is kept, and read from by all faces.

The engine publishes; metrics, HTTP, MQTT and the command line read. Reading does no I/O and never waits.
Everything runs on the daemon's event loop, so there are no locks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from agent.base.log import get_logger
from agent.core.model import (
    AttachmentPlaces,
    Attachments,
    AwsChecks,
    Condition,
    Difference,
    Ending,
    Expected,
    NextCall,
    NodePlace,
    Provisioned,
    Reason,
    SnapshotFacts,
    VolumeId,
)
from agent.core.replace import replace
from agent.core.steps import Degrade, Refuse, Wait
from agent.core.units import utc_now
from agent.report.board.aws_checks import add_checks
from agent.report.board.changes import Change, Readers, Subscription
from agent.report.board.events import Event, EventHistory, EventName
from agent.report.board.node_conditions import NodeConditions
from agent.report.board.readings import Health
from agent.report.board.timelines import PastOfVolumes, Timelines
from agent.report.board.volume_status import SaidByCloud, VolumeStatus, combine, list_missing

log = get_logger(__name__)


class Board:
    """Present state of all volumes, recent events, and whether the node was looked at once as a whole."""

    def __init__(self, history: EventHistory | None = None, now: Callable[[], datetime] = utc_now) -> None:
        self.history = history or EventHistory()
        self.is_first_look_done = False
        self._now = now
        self._statuses: dict[VolumeId, VolumeStatus] = {}
        self._told: dict[VolumeId, VolumeStatus] = {}
        """What the engine said last of each."""
        self._healths: dict[VolumeId, Health] = {}
        self._checks: Mapping[VolumeId, AwsChecks] = {}
        self._settled: dict[VolumeId, tuple[Condition, Reason | None]] = {}
        """How each was when it was last not on its way to something else."""
        self._expected: tuple[Expected, ...] = ()
        self._said = SaidByCloud()
        self.provisioned: Mapping[VolumeId, Provisioned] = {}
        self._snapshots: Mapping[VolumeId, SnapshotFacts] = {}
        self.next_calls: tuple[NextCall, ...] = ()
        """What the cloud half has decided on and not seen to have happened."""
        self.persistent_volumes: Mapping[VolumeId, str] = {}
        """Of the volumes that kubelet asked for, their names in Kubernetes."""
        self._claims: Mapping[VolumeId, str] = {}
        self.place = NodePlace()
        self.places: AttachmentPlaces | None = None
        self.remarks: tuple[str, ...] = ()
        """Sentences about this instance and its volumes that are no defect of any."""
        self.ending: Ending | None = None
        """That this instance ends, once it is heard of."""
        self.node_conditions = NodeConditions(now, lambda: self._readers.tell(Change(None, None)))
        """What is wrong with the node as a whole."""
        self._readers = Readers()
        self._timelines = Timelines(now)

    def publish(self, status: VolumeStatus) -> None:
        """Show what the engine says of a volume from now on, where its health says nothing worse."""
        if status.volume_id is None:
            raise ValueError("a status has a place on the board under its volume's ID only")
        self._told[status.volume_id] = status
        self._show(status.volume_id)

    def judge(self, volume_id: VolumeId, health: Health | None) -> None:
        """Show what sampling found of a volume the engine has told of; None: nothing is known any more."""
        if volume_id not in self._told:
            return
        if health is None:
            self._healths.pop(volume_id, None)
        else:
            self._healths[volume_id] = health
        self._show(volume_id)

    def put_checks(self, checks: Mapping[VolumeId, AwsChecks]) -> None:
        """Show what AWS's own status checks found of volumes; of those left out nothing is known."""
        old, self._checks = self._checks, dict(checks)
        self._show_changed(old, checks)

    def put_persistent_volumes(self, names: Mapping[VolumeId, str]) -> None:
        """Show what the volumes that kubelet asked for are called in Kubernetes."""
        old, self.persistent_volumes = self.persistent_volumes, dict(names)
        self._show_changed(old, names)

    def put_claims(self, claims: Mapping[VolumeId, str]) -> None:
        """Show which claims of Kubernetes volumes were made for: ``namespace/name``."""
        old, self._claims = self._claims, dict(claims)
        self._show_changed(old, claims)

    def _show_changed(self, old: Mapping[VolumeId, object], new: Mapping[VolumeId, object]) -> None:
        for volume_id in self._told:
            if old.get(volume_id) != new.get(volume_id):
                self._show(volume_id)

    def complete(self, fresh: VolumeStatus) -> VolumeStatus:
        """Return what the engine finds of a volume just now with all that is known of it beside.

        As ``find`` would show it once it was published; nothing is shown or dated by this.
        """
        if fresh.volume_id is None:
            return self._said.give_reason(fresh)
        status = self._said.give_reason(self._put_together(fresh, fresh.volume_id))
        shown = self.find(fresh.volume_id)
        is_same = shown is not None and _is_in_same_state(shown, status)
        return replace(status, since=shown.since if shown is not None and is_same else self._now())

    def _put_together(self, told: VolumeStatus, volume_id: VolumeId) -> VolumeStatus:
        """Add to what the engine tells what sampling, AWS and Kubernetes say of the volume."""
        told = replace(told, checks=self._checks.get(volume_id))
        return replace(
            combine(told, add_checks(self._healths.get(volume_id), told)),
            snapshots=self._snapshots.get(volume_id),
            persistent_volume=self.persistent_volumes.get(volume_id),
            persistent_volume_claim=self._claims.get(volume_id),
        )

    def _show(self, volume_id: VolumeId) -> None:
        """Put together what is known. ``since`` is kept while condition and reason stay the same."""
        status = self._put_together(self._told[volume_id], volume_id)
        old = self._statuses.get(volume_id)
        is_same = old is not None and _is_in_same_state(old, status)
        status = replace(status, since=old.since if old is not None and is_same else self._now())
        if status == old:
            return
        self._statuses[volume_id] = status
        self._readers.tell(Change(volume_id, self._explain(status)))

    def settle(self, status: VolumeStatus) -> bool:
        """Note a condition that lasts; tell whether it, or its reason, is another than the last such one."""
        if status.volume_id is None:
            raise ValueError("only a volume settles")
        settled = (status.condition, status.reason)
        is_news = self._settled.get(status.volume_id) != settled
        self._settled[status.volume_id] = settled
        return is_news

    def remove(self, volume_id: VolumeId) -> None:
        """Forget a volume that is neither attached nor spoken of by the policy."""
        self._told.pop(volume_id, None)
        self._healths.pop(volume_id, None)
        self._settled.pop(volume_id, None)
        if self._statuses.pop(volume_id, None) is not None:
            self._readers.tell(Change(volume_id, None))

    def expect(self, expected: Iterable[Expected]) -> None:
        """Replace the list of volumes the policy speaks of."""
        self._expected = tuple(expected)
        self._readers.tell(Change(None, None))

    def explain_by_cloud(
        self,
        absences: Mapping[str, Wait | Refuse],
        notices: Mapping[str, Wait | Refuse],
        departures: Mapping[VolumeId, str] | None = None,
        drift: Mapping[str, tuple[Difference, ...]] | None = None,
        provisioned: Mapping[VolumeId, Provisioned] | None = None,
    ) -> None:
        """Say, by entry name, why volumes are not here, and what about those that are cannot be as wanted.

        ``departures``: of volumes that are going to be deleted, when and why. ``drift``: by entry name, in
        what a volume is not as its claim says. ``provisioned``: what volumes are given, where AWS told.
        """
        self._said = replace(
            self._said,
            absences=dict(absences),
            notices=dict(notices),
            departures=dict(departures or {}),
            drift=dict(drift or {}),
        )
        self.provisioned = dict(provisioned or {})
        self._readers.tell(Change(None, None))
        for status in self._statuses.values():
            if status.name is not None or status.volume_id in self.departures:
                self._readers.tell(Change(status.volume_id, self._explain(status)))

    def put_volume_notices(self, notices: Mapping[VolumeId, Degrade]) -> None:
        """Say of volumes that are Ready by themselves what about them is not as it should be."""
        old = self._said.volume_notices
        self._said = replace(self._said, volume_notices=dict(notices))
        for volume_id in old.keys() | notices.keys():
            status = self._statuses.get(volume_id)
            if status is not None and old.get(volume_id) != notices.get(volume_id):
                self._readers.tell(Change(volume_id, self._explain(status)))

    def put_snapshots(self, snapshots: Mapping[VolumeId, SnapshotFacts]) -> None:
        """Show from now on how the scheduled snapshots of volumes are; of the others nothing is known."""
        old, self._snapshots = self._snapshots, dict(snapshots)
        self._show_changed(old, snapshots)

    def put_calls(self, calls: tuple[NextCall, ...], places: AttachmentPlaces | None) -> None:
        """Show what is going to be asked of AWS, and the instance's places; None: as many as before."""
        known = None if self.places is None else replace(self.places, attached=frozenset())
        self.next_calls, self.places = calls, places or known

    @property
    def departures(self) -> Mapping[VolumeId, str]:
        """Of volumes that the cloud half is going to delete, when and why."""
        return self._said.departures

    @property
    def attachments(self) -> Attachments | None:
        """How many volumes this instance has, of those it has room for; None where that is not known."""
        present = (volume_id for volume_id, one in self._statuses.items() if one.device is not None)
        return None if self.places is None else self.places.count(present)

    def finish_first_look(self) -> None:
        """Note that every attached volume was looked at once since the agent started."""
        self.is_first_look_done = True
        self._readers.tell(Change(None, None))

    @property
    def expected(self) -> tuple[Expected, ...]:
        return self._expected

    def get(self, volume_id: VolumeId) -> VolumeStatus | None:
        """Return what is known of a volume here; ``find`` and ``statuses`` add what the cloud says."""
        return self._statuses.get(volume_id)

    def find(self, text: str) -> VolumeStatus | None:
        """Return the status of the volume whose ID, policy name, device or path is ``text``.

        A name goes before a device and a path; where several volumes have that device or path, none is meant.
        """
        by_id = self._statuses.get(VolumeId(text))
        if by_id is not None:
            return self._explain(by_id)
        statuses = self.statuses()
        by_name = next((status for status in statuses if status.name == text), None)
        if by_name is not None or not text.startswith("/"):
            return by_name
        place = text.rstrip("/")
        at_place = [status for status in statuses if place in {status.device, status.path}]
        return at_place[0] if len(at_place) == 1 else None

    def statuses(self) -> tuple[VolumeStatus, ...]:
        """Return every volume known, and every policy entry whose name none has; by name, unmanaged last."""
        missing = list_missing(self._expected, self._statuses)
        known = [self._explain(status) for status in (*self._statuses.values(), *missing)]
        self._timelines.keep_only(known)
        return tuple(sorted(known, key=lambda s: (s.name is None, s.name or "", s.label)))

    def recall(self, past: PastOfVolumes) -> None:
        """Go on with how volumes were before this agent began."""
        self._timelines.recall(past)

    def list_past(self) -> PastOfVolumes:
        """Return how each volume was in the last hour, by its key."""
        self.statuses()  # dates what the cloud has said since
        return self._timelines.list_past()

    def subscribe(self) -> AbstractContextManager[Subscription]:
        """Give an endless iterator of changes from now on, coalesced per volume; bounded in memory."""
        return self._readers.subscribe()

    def record(self, name: EventName, volume_id: VolumeId | None = None, /, **fields: Any) -> Event:
        """Keep an event, log it, and return it. ``fields`` are JSON values."""
        event = Event(name, self._now(), volume_id, fields, self.history.next_number)
        self.history.append(event)
        about = {} if volume_id is None else {"volume_id": volume_id}
        getattr(log, name.level)(name.value, **about, **fields)
        return event

    def _explain(self, status: VolumeStatus) -> VolumeStatus:
        """Return the status as it is shown: with the cloud's reason, and since when it is so."""
        return self._timelines.date(self._said.give_reason(status))


def _is_in_same_state(one: VolumeStatus, other: VolumeStatus) -> bool:
    return (one.condition, one.reason) == (other.condition, other.reason)
