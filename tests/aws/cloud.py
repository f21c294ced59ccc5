"""The state of the emulated cloud: moto's volumes and cluster, with what happens in time, which moto omits.

Beside ``hyperpod`` and ``resources`` this adds client tokens, the limit of a day's modifications, and
descriptions that lag behind. Hooks let real devices follow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from moto.core.utils import utcnow
from moto.ec2.models import ec2_backends
from moto.sagemaker.models import ClusterNode, sagemaker_backends

from tests.aws.checks import StatusChecks
from tests.aws.errors import CallError
from tests.aws.hyperpod import HyperPod
from tests.aws.keeping import Keeping
from tests.aws.past import Past
from tests.aws.resources import EmulatedModification, EmulatedVolume, Pace

ACCOUNT = "123456789012"
"""moto's own account."""
REGION = "us-west-2"
ZONE = "us-west-2a"
OTHER_ZONE = "us-west-2b"
CLUSTER_ID = "abcde01234yz"
CLUSTER_ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:cluster/{CLUSTER_ID}"
DAY = timedelta(days=1)


class Hooks(Protocol):
    """What real devices do when the cloud does something; in the server's thread, before the answer.

    ``source_id``: the snapshot, or the volume, that a new volume begins as a copy of.
    """

    def create(self, volume_id: str, size_gib: int, source_id: str | None) -> None: ...
    def attach(self, volume_id: str, instance_id: str, device: str) -> None: ...
    def detach(self, volume_id: str, instance_id: str) -> None: ...
    def grow(self, volume_id: str, size_gib: int) -> None: ...
    def snapshot(self, volume_id: str, snapshot_id: str) -> None: ...


class NoHooks:
    """No devices follow."""

    def create(self, volume_id: str, size_gib: int, source_id: str | None) -> None: ...
    def attach(self, volume_id: str, instance_id: str, device: str) -> None: ...
    def detach(self, volume_id: str, instance_id: str) -> None: ...
    def grow(self, volume_id: str, size_gib: int) -> None: ...
    def snapshot(self, volume_id: str, snapshot_id: str) -> None: ...


class Cloud:
    """One cluster in one account and region, on top of moto's backends."""

    def __init__(self, hooks: Hooks | None = None, pace: Pace | None = None) -> None:
        self.hooks: Hooks = hooks or NoHooks()
        self.pace = pace or Pace()
        self.attachment_limit = 27
        self.lock = threading.RLock()
        self.tokens: dict[str, tuple[dict[str, Any], str]] = {}
        self.made: list[str] = []
        """Every volume ever made by a call, deleted ones too."""
        self.broken_keys: set[str] = set()
        """KMS keys that cannot be used: a volume made with one is answered for, and vanishes."""
        self.full_zones: set[str] = set()
        """Zones that have no room for another volume."""
        self.volume_quota: int | None = None
        """How many volumes the account may have; None: any number."""
        self.keeping = Keeping()
        self.checks = StatusChecks()
        self.now: Callable[[], datetime] = utcnow
        """AWS's clock, which dates snapshots and ends locks."""
        self.ec2 = ec2_backends[ACCOUNT][REGION]
        self.sagemaker = sagemaker_backends[ACCOUNT][REGION]
        self.ec2.reset()
        self.sagemaker.reset()
        self.sagemaker.create_cluster(CLUSTER_ID, [], {}, None)
        self.past = Past(self.ec2)
        self.hyperpod = HyperPod(self, CLUSTER_ARN)
        self.zones: dict[str, str] = {}

    # -- Nodes ------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> dict[str, Any]:
        return self.sagemaker.clusters[CLUSTER_ID].nodes

    def add_node(self, instance_id: str, group: str = "compute", zone: str = ZONE) -> None:
        self.zones[instance_id] = zone
        self.nodes[instance_id] = ClusterNode(
            region_name=REGION,
            account_id=ACCOUNT,
            cluster_name=CLUSTER_ID,
            instance_group_name=group,
            instance_type="ml.m5.xlarge",
            life_cycle_config={},
            execution_role="",
            node_id=instance_id,
        )

    def remove_node(self, instance_id: str, *, keeps_attachments: bool = False) -> None:
        """Take a node away, as its replacement does; its volumes are detached, sooner or later."""
        del self.nodes[instance_id]
        if not keeps_attachments:
            for volume in self.volumes.values():
                volume.drop(instance_id)
        self.note_change()

    # -- Volumes ----------------------------------------------------------------------------------------

    @property
    def volumes(self) -> dict[str, Any]:
        return self.ec2.volumes

    def make_volume(self, size_gib: int = 1, zone: str = ZONE, **wanted: Any) -> str:
        """Make a volume as a person would, outside of the agent; returns its ID.

        ``source_volume_id``: as a copy, which moto knows nothing of.
        """
        tags, source = wanted.pop("tags", {}), wanted.pop("source_volume_id", None)
        volume: Any = self.ec2.create_volume(size_gib, zone, volume_type=wanted.pop("type", "gp3"), **wanted)
        volume.add_tags(tags)
        EmulatedVolume.adopt(volume, self.pace)
        volume.source_volume_id = source
        self.hooks.create(volume.id, size_gib, source)
        self.note_change()
        return str(volume.id)

    def adopt_volume(self, volume_id: str) -> None:
        """Take over a volume that a call has just had moto make."""
        EmulatedVolume.adopt(self.volumes[volume_id], self.pace)
        self.made.append(volume_id)

    @contextmanager
    def described(self) -> Iterator[None]:
        """Show the world as it was ``lag_s`` ago, as an eventually consistent API describes it."""
        if not self.pace.lag_s:
            yield
            return
        with self.lock, self.past.shown(self.pace.clock() - self.pace.lag_s):
            yield

    def note_change(self) -> None:
        """Take note that something was changed, for descriptions that lag behind."""
        if self.pace.lag_s:
            with self.lock:
                self.past.remember(self.pace.clock())

    # -- What EC2 does and moto does not --------------------------------------------------------------------

    def find_by_token(self, token: str, parameters: dict[str, Any]) -> str | None:
        """Return the volume made with this token before; other parameters, or its deletion, are errors.

        Source of the words: kubernetes-sigs/aws-ebs-csi-driver#1428.
        """
        known = self.tokens.get(token)
        if known is None:
            return None
        if known[1] not in self.volumes:
            raise CallError(
                "IdempotentParameterMismatch",
                "The client token you have provided is associated with a resource that is already deleted. "
                "Please use a different client token.",
            )
        if known[0] != parameters:
            raise CallError(
                "IdempotentParameterMismatch", "Client token was used with other parameters before."
            )
        return known[1]

    def check_room(self, zone: str) -> None:
        """Refuse a volume for which the account has no quota, or the zone no room."""
        if self.volume_quota is not None and len(self.volumes) >= self.volume_quota:
            raise CallError(
                "VolumeLimitExceeded", f"You have exceeded your limit of {self.volume_quota} volumes."
            )
        if zone in self.full_zones:
            message = f"There is not enough capacity to fulfill your EBS volume creation request in {zone}."
            raise CallError("InsufficientVolumeCapacity", message)

    def check_modification(self, parameters: dict[str, Any]) -> None:
        """Refuse what EC2 refuses: shrinking, and modifying again too soon, or too often in a day."""
        volume = self.volumes.get(parameters["VolumeId"])
        if volume is None:
            raise CallError(
                "InvalidVolume.NotFound", f"The volume '{parameters['VolumeId']}' does not exist."
            )
        if int(parameters.get("Size", volume.size)) < volume.size:
            raise CallError("InvalidParameterValue", "New size cannot be smaller than existing size")
        for modification in volume.modifications[-1:]:
            if modification.modification_state not in {"completed", "failed"}:
                raise CallError("IncorrectModificationState", "Cannot modify volume in its current state")
        ends = [one.start_time.replace(tzinfo=timezone.utc) + DAY for one in volume.modifications]
        counted = sorted(end for end in ends if end > self.now().replace(tzinfo=timezone.utc))
        if len(counted) >= self.pace.modifications_a_day:
            free_at = counted[-self.pace.modifications_a_day]
            raise CallError(
                "VolumeModificationRateExceeded",
                "You've reached the maximum modification rate per volume limit. "
                f"You can modify it again at {free_at:%Y-%m-%dT%H:%M:%SZ}.",
            )

    def check_deletion(self, volume_id: str) -> None:
        """Refuse to delete what a node of the cluster has; moto knows only its own instances."""
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.emulated:
            raise CallError("VolumeInUse", f"Volume {volume_id} is currently attached to a node.")

    def adopt_modification(self, volume_id: str) -> None:
        """Take over a modification that a call has just had moto complete."""
        volume = self.volumes[volume_id]
        EmulatedModification.adopt(volume.modifications[-1], self.pace)
        volume.modifications[-1].start_time = self.now().replace(tzinfo=None)
        self.hooks.grow(volume_id, volume.size)
