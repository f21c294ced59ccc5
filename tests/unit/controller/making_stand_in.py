"""An EC2 of volumes in memory: tokens, lag, full zones, bad keys, and modifications that take time."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from agent.cloud.aws.call import Call, Make, Within
from agent.cloud.aws.calls import (
    CreateTags,
    DeleteTags,
    DeleteVolume,
    DescribeSnapshots,
    DescribeVolumes,
    DescribeVolumesModifications,
    ModifyVolume,
)
from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume
from agent.cloud.aws.models import CloudAttachment, CloudSnapshot, CloudVolume, Modification
from agent.cloud.aws.zones import DescribeAvailabilityZones, Zone
from agent.cloud.errors.explain import Failure, explain_failure
from agent.controller.describing.describing import Describing
from agent.controller.patience import Patience
from agent.controller.turns import Turns
from agent.controller.volumes.cluster_volumes import ClusterVolumes
from agent.core.model import VolumeId
from agent.core.replace import replace
from tests.unit.controller.stand_in import KilledError

T = TypeVar("T")

ZONES = (
    Zone("us-west-2a", "usw2-az2"),
    Zone("us-west-2b", "usw2-az1"),
    Zone("us-west-2-lax-1a", "usw2-lax1-az1", is_ordinary=False),
)
BURNT = "The client token you have provided is associated with a resource that is already deleted."


@dataclass
class Ec2:
    """Volumes in time that passes only where somebody waits."""

    time_s: float = 1000.0
    lag_s: float = 0.0
    make_s: float = 3.0
    modify_s: float = 3.0
    optimize_s: float = 60.0
    volumes: dict[VolumeId, CloudVolume] = field(default_factory=dict)
    made_at_s: dict[VolumeId, float] = field(default_factory=dict)
    tokens: dict[str, tuple[Call[Any], VolumeId]] = field(default_factory=dict)
    modified: dict[VolumeId, tuple[Modification, float]] = field(default_factory=dict)
    snapshots: dict[str, CloudSnapshot] = field(default_factory=dict)
    taken_at_s: dict[str, float] = field(default_factory=dict)
    """Of snapshots that are not there since ever."""
    full_zones: set[str] = field(default_factory=set)
    broken_keys: set[str] = field(default_factory=set)
    refusals: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    """Which changes are done and not answered, by their number."""
    kill: tuple[int, bool] | None = None
    """(number, whether after AWS did it) of the change at which the controller dies."""
    changes: list[Call[Any]] = field(default_factory=list)
    looks: list[Call[Any]] = field(default_factory=list)
    answered_state: str = "creating"
    """What AWS says of a volume that it is about to make."""
    fails_modifications: bool = False

    def start(self, cluster_id: str | None = None, make: Make | None = None) -> ClusterVolumes:
        """Return the volumes of a controller that has just begun; ``make`` is what its calls go through."""
        describing = Describing(self.make, window_s=0.0)
        patience = Patience(lambda: self.time_s, self._sleep)
        make = make or self.make
        return ClusterVolumes(make, describing, Turns(), "us-west-2", cluster_id, patience=patience)

    async def _sleep(self, pause_s: float) -> None:
        for _ in range(8):  # whoever has something to say now says it before time passes
            await asyncio.sleep(0)
        self.time_s += pause_s

    def add(self, **facts: Any) -> VolumeId:
        """Have a volume be there since ever."""
        volume_id = VolumeId(f"vol-{len(self.made_at_s):017x}")
        known = CloudVolume(volume_id, "available", 10, "gp3", "us-west-2a", 3000, 125)
        self.volumes[volume_id] = replace(known, **facts)
        self.made_at_s[volume_id] = self.time_s - 1000
        return volume_id

    def hold(self, volume_id: VolumeId, state: str = "attached") -> None:
        held = (CloudAttachment(state, "i-0123456789abcdef0", "/dev/sdf", "2026-01-01"),)
        self.volumes[volume_id] = replace(self.volumes[volume_id], state="in-use", attachments=held)

    def release(self, volume_id: VolumeId) -> None:
        self.volumes[volume_id] = replace(self.volumes[volume_id], state="available", attachments=())

    async def make(self, call: Call[T], /, *, within: Within = nullcontext) -> T:
        async with within():
            await asyncio.sleep(0)
            return cast("T", self._serve(call))

    def _serve(self, call: Call[Any]) -> Any:
        if call.operation.startswith("Describe"):
            self.looks.append(call)
            return self._describe(call)
        number = len(self.changes)
        self.changes.append(call)
        if self.kill == (number, False):
            raise KilledError
        failures = self.refusals.get(call.operation)
        if failures:
            raise self._fail(call, *failures.pop(0))
        answer = self._change(call)
        if self.kill == (number, True):
            raise KilledError
        if number in self.lost:
            raise self._fail(call, "ReadTimeoutError", "no answer")
        return answer

    def _describe(self, call: Call[Any]) -> Any:
        if isinstance(call, DescribeAvailabilityZones):
            return ZONES
        if isinstance(call, DescribeSnapshots):
            wanted = call.filters[0][1]
            hidden = {one for one, at_s in self.taken_at_s.items() if at_s > self.time_s - self.lag_s}
            return tuple(one for key, one in self.snapshots.items() if key in wanted and key not in hidden)
        if isinstance(call, DescribeVolumesModifications):
            known = {
                one: at_s for one, (_, at_s) in self.modified.items() if at_s <= self.time_s - self.lag_s
            }
            return tuple(self._show_change(one) for one in call.volume_ids if one in known)
        assert isinstance(call, DescribeVolumes)
        shown = [self._show(one) for one in self.volumes if self.made_at_s[one] <= self.time_s - self.lag_s]
        if not call.filters:
            return tuple(shown)
        (name, values), *_ = call.filters
        key = name.removeprefix("tag:")
        return tuple(one for one in shown if (one.tag(key) if key != name else one.volume_id) in values)

    def _show(self, volume_id: VolumeId) -> CloudVolume:
        volume = self.volumes[volume_id]
        is_new = volume.state == "available" and self.time_s < self.made_at_s[volume_id] + self.make_s
        return replace(volume, state="creating") if is_new else volume

    def _show_change(self, volume_id: VolumeId) -> Modification:
        modification, at_s = self.modified[volume_id]
        if self.time_s < at_s + self.modify_s:
            return modification
        if modification.state == "modifying" and self.fails_modifications:
            return replace(modification, state="failed", message="out of luck")
        volume = self.volumes[volume_id]
        self.volumes[volume_id] = replace(
            volume,
            size_gib=modification.target_size_gib or volume.size_gib,
            type=modification.target_type or volume.type,
            iops=modification.target_iops,
            throughput=modification.target_throughput,
        )
        is_done = self.time_s >= at_s + self.modify_s + self.optimize_s
        return replace(modification, state="completed" if is_done else "optimizing", progress_percent=40)

    def _change(self, call: Call[Any]) -> Any:
        if isinstance(call, (CreateVolume, CopyVolumes)):
            return self._make_volume(call)
        if isinstance(call, DeleteVolume):
            if call.volume_id not in self.volumes:
                raise self._fail(call, "InvalidVolume.NotFound", "no such volume")
            if self.volumes[call.volume_id].attachments:
                raise self._fail(call, "VolumeInUse", "it is attached")
            del self.volumes[call.volume_id]
            return None
        if isinstance(call, ModifyVolume):
            return self._modify(call)
        assert isinstance(call, (CreateTags, DeleteTags))
        volume = self.volumes[VolumeId(call.resource_id)]
        tags = dict(volume.tags)
        if isinstance(call, CreateTags):
            tags |= dict(call.tags)
        else:
            tags = {key: value for key, value in tags.items() if key not in call.keys}
        self.volumes[volume.volume_id] = replace(volume, tags=tuple(sorted(tags.items())))
        return None

    def _make_volume(self, call: CreateVolume | CopyVolumes) -> CloudVolume:
        known = self.tokens.get(call.client_token)
        if known is not None and known[1] not in self.volumes:
            raise self._fail(call, "IdempotentParameterMismatch", BURNT)
        if known is not None and known[0] != call:
            raise self._fail(call, "IdempotentParameterMismatch", "The token was used otherwise before.")
        if known is not None:
            return self._show(known[1])
        if isinstance(call, CopyVolumes) and call.source_volume_id not in self.volumes:
            raise self._fail(call, "InvalidVolume.NotFound", "no such volume")
        if isinstance(call, CreateVolume) and call.snapshot_id not in {None, *self.snapshots}:
            raise self._fail(call, "InvalidSnapshot.NotFound", "no such snapshot")
        zone = call.zone if isinstance(call, CreateVolume) else self.volumes[call.source_volume_id].zone
        if zone in self.full_zones:
            raise self._fail(call, "InsufficientVolumeCapacity", f"no room in {zone}")
        volume_id = VolumeId(f"vol-{len(self.made_at_s):017x}")
        self.made_at_s[volume_id] = self.time_s
        self.tokens[call.client_token] = call, volume_id
        volume = CloudVolume(
            volume_id,
            "available",
            call.size_gib or 1,
            call.type,
            zone,
            call.iops,
            call.throughput,
            bool(call.is_encrypted),
            call.kms_key_id,
            call.snapshot_id if isinstance(call, CreateVolume) else None,
            call.source_volume_id if isinstance(call, CopyVolumes) else None,
            call.is_multi_attach,
            call.tags,
            created_at=f"{self.time_s:010.3f}",
        )
        if call.kms_key_id not in self.broken_keys:
            self.volumes[volume_id] = volume
        return replace(volume, state=self.answered_state, tags=())

    def _modify(self, call: ModifyVolume) -> Modification:
        volume = self.volumes.get(call.volume_id)
        if volume is None:
            raise self._fail(call, "InvalidVolume.NotFound", "no such volume")
        if call.volume_id in self.modified and self._show_change(call.volume_id).is_under_way:
            raise self._fail(call, "IncorrectModificationState", "it is being modified")
        is_new_kind = call.type is not None
        modification = Modification(
            call.volume_id,
            "modifying",
            0,
            call.size_gib or volume.size_gib,
            call.type or volume.type,
            call.iops or (3000 if is_new_kind else volume.iops),
            call.throughput or (125 if is_new_kind else volume.throughput),
            f"{self.time_s:010.3f}",
        )
        self.modified[call.volume_id] = modification, self.time_s
        return modification

    @staticmethod
    def _fail(call: Call[Any], code: str, message: str) -> Exception:
        return explain_failure(Failure(call.service, call.operation, code, message))
