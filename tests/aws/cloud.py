"""The state of the emulated cloud: moto's volumes and clusters, with what happens in time, which moto omits.

Added to moto: HyperPod's attach and detach with their limits and errors, attachments and modifications that
take a while, client tokens, the cool-down between modifications, several attachments of one volume, and
descriptions that lag behind. Hooks let real devices follow.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from moto.core.utils import utcnow
from moto.ec2.models import ec2_backends
from moto.ec2.models.elastic_block_store import Volume, VolumeModification
from moto.sagemaker.models import ClusterNode, sagemaker_backends
from typing_extensions import override

ACCOUNT = "123456789012"
"""moto's own account."""
REGION = "us-west-2"
ZONE = "us-west-2a"
OTHER_ZONE = "us-west-2b"
CLUSTER_ID = "abcde01234yz"
CLUSTER_ARN = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:cluster/{CLUSTER_ID}"


class CallError(Exception):
    """An error AWS answers with."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status = status


class Hooks(Protocol):
    """What real devices do when the cloud does something; in the server's thread, before the answer."""

    def create(self, volume_id: str, size_gib: int, snapshot_id: str | None) -> None: ...
    def attach(self, volume_id: str, instance_id: str, device: str) -> None: ...
    def detach(self, volume_id: str, instance_id: str) -> None: ...
    def grow(self, volume_id: str, size_gib: int) -> None: ...
    def snapshot(self, volume_id: str, snapshot_id: str) -> None: ...


class NoHooks:
    """No devices follow."""

    def create(self, volume_id: str, size_gib: int, snapshot_id: str | None) -> None: ...
    def attach(self, volume_id: str, instance_id: str, device: str) -> None: ...
    def detach(self, volume_id: str, instance_id: str) -> None: ...
    def grow(self, volume_id: str, size_gib: int) -> None: ...
    def snapshot(self, volume_id: str, snapshot_id: str) -> None: ...


@dataclass
class Pace:
    """How long AWS takes, in seconds; zero makes everything happen at once."""

    create_s: float = 0.0
    attach_s: float = 0.0
    modify_s: float = 0.0
    optimize_s: float = 0.0
    cool_down_s: float = 0.0
    lag_s: float = 0.0
    """A volume or snapshot just made is not described for so long."""


@dataclass
class EmulatedAttachment:
    """One attachment; moto's serializer reads its attributes under the names of the service model."""

    volume_id: str
    device: str | None
    instance_id: str | None
    associated_resource: str | None
    holder: str
    ready_at_s: float
    attach_time: Any = field(default_factory=utcnow)
    delete_on_termination: bool = False

    @property
    def state(self) -> str:
        return "attached" if time.monotonic() >= self.ready_at_s else "attaching"


class EmulatedVolume(Volume):
    """moto's volume with several attachments and a creation that takes time."""

    emulated: list[EmulatedAttachment]
    usable_at_s: float
    visible_at_s: float

    @property
    @override
    def attachments(self) -> list[Any]:
        return list(self.emulated) or super().attachments  # EC2's own attach is moto's

    def hold(self, attachments: list[EmulatedAttachment]) -> None:
        self.emulated = attachments
        self.attachment = attachments[0] if attachments else None  # type: ignore[assignment]  # quacks

    @property
    @override
    def status(self) -> str:
        if time.monotonic() < self.usable_at_s:
            return "creating"
        return "in-use" if self.attachments else "available"


class EmulatedModification(VolumeModification):
    """moto's modification with the states AWS goes through."""

    began_s: float
    pace: Pace

    @property
    @override
    def modification_state(self) -> str:
        took_s = time.monotonic() - self.began_s
        if took_s < self.pace.modify_s:
            return "modifying"
        return "optimizing" if took_s < self.pace.modify_s + self.pace.optimize_s else "completed"

    @property
    @override
    def progress(self) -> int:
        whole_s = self.pace.modify_s + self.pace.optimize_s
        return 100 if whole_s <= 0 else min(100, int(100 * (time.monotonic() - self.began_s) / whole_s))


class Cloud:
    """One cluster in one account and region, on top of moto's backends."""

    def __init__(self, hooks: Hooks | None = None, pace: Pace | None = None) -> None:
        self.hooks: Hooks = hooks or NoHooks()
        self.pace = pace or Pace()
        self.clock: Callable[[], float] = time.monotonic
        """What :attr:`Pace.lag_s` is counted by; a test whose agent has a clock of its own gives that one."""
        self.attachment_limit = 27
        self.lock = threading.RLock()
        self.tokens: dict[str, tuple[dict[str, Any], str]] = {}
        self.snapshot_visible_at_s: dict[str, float] = {}
        self.locked_snapshots: set[str] = set()
        self.fast_restores: list[tuple[str, str]] = []
        """(snapshot ID, zone)"""
        self.ec2 = ec2_backends[ACCOUNT][REGION]
        self.sagemaker = sagemaker_backends[ACCOUNT][REGION]
        self.ec2.reset()
        self.ec2.snapshots.clear()  # moto begins with those of public images
        self.sagemaker.reset()
        self.sagemaker.create_cluster(CLUSTER_ID, [], {}, None)
        self.zones: dict[str, str] = {}
        self._validator = ParamValidator()
        self._model = ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")

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
                self._drop(volume, instance_id)

    # -- Volumes ----------------------------------------------------------------------------------------

    @property
    def volumes(self) -> dict[str, Any]:
        return self.ec2.volumes

    def adopt_volume(self, volume_id: str) -> None:
        """Give a volume moto just made the behaviour it lacks."""
        volume = self.volumes[volume_id]
        volume.__class__ = EmulatedVolume
        volume.hold([])
        volume.usable_at_s = time.monotonic() + self.pace.create_s
        volume.visible_at_s = self.clock() + self.pace.lag_s

    def make_volume(self, size_gib: int = 1, zone: str = ZONE, **wanted: Any) -> str:
        """Make a volume as a person would, outside of the agent; returns its ID."""
        tags = wanted.pop("tags", {})
        volume = self.ec2.create_volume(size_gib, zone, volume_type=wanted.pop("type", "gp3"), **wanted)
        volume.add_tags(tags)
        self.adopt_volume(volume.id)
        self.volumes[volume.id].visible_at_s = 0.0
        self.hooks.create(volume.id, size_gib, None)
        return str(volume.id)

    @contextmanager
    def hide_the_new(self) -> Iterator[None]:
        """Describe the world as it was ``lag_s`` ago, as an eventually consistent API does."""
        now_s = self.clock()
        with self.lock:
            new = {vid: v for vid, v in self.volumes.items() if getattr(v, "visible_at_s", 0.0) > now_s}
            snapshots = {
                sid: s
                for sid, s in self.ec2.snapshots.items()
                if self.snapshot_visible_at_s.get(sid, 0.0) > now_s
            }
            for volume_id in new:
                del self.ec2.volumes[volume_id]
            for snapshot_id in snapshots:
                del self.ec2.snapshots[snapshot_id]
            try:
                yield
            finally:
                self.ec2.volumes.update(new)
                self.ec2.snapshots.update(snapshots)

    # -- HyperPod's two calls -----------------------------------------------------------------------------

    def attach_cluster_node_volume(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self._validate("AttachClusterNodeVolume", parameters)
        node_id, volume_id = parameters["NodeId"], parameters["VolumeId"]
        with self.lock:
            self._require_node(parameters)
            volume = self._find_volume(volume_id)
            if volume.status != "available" and not self._may_share(volume, node_id):
                raise _ec2_error("IncorrectState", f"{volume_id} is not 'available'.")
            if volume.zone.name != self.zones[node_id]:
                raise _ec2_error(
                    "InvalidVolume.ZoneMismatch",
                    f"The volume '{volume_id}' is not in the same availability zone",
                )
            device = self._choose_device(node_id)
            attachment = EmulatedAttachment(
                volume_id=volume_id,
                device=None,
                instance_id=None,
                associated_resource=f"{CLUSTER_ARN}-{node_id}",
                holder=node_id,
                ready_at_s=time.monotonic() + self.pace.attach_s,
            )
            volume.hold([*volume.emulated, attachment])
        self.hooks.attach(volume_id, node_id, device)
        return self._answer("AttachClusterNodeVolume", parameters, "attaching", device, attachment)

    def detach_cluster_node_volume(self, parameters: dict[str, Any]) -> dict[str, Any]:
        self._validate("DetachClusterNodeVolume", parameters)
        node_id, volume_id = parameters["NodeId"], parameters["VolumeId"]
        with self.lock:
            volume = self._find_volume(volume_id)
            found = [one for one in volume.emulated if one.holder == node_id]
            if not found:
                raise _ec2_error(
                    "InvalidAttachment.NotFound",
                    f"The attachment of {volume_id} to {node_id} does not exist.",
                )
            self._drop(volume, node_id)
        self.hooks.detach(volume_id, node_id)
        return self._answer("DetachClusterNodeVolume", parameters, "detaching", "/dev/sdf", found[0])

    def _drop(self, volume: Any, instance_id: str) -> None:
        volume.hold([one for one in volume.emulated if one.holder != instance_id])

    def _may_share(self, volume: Any, node_id: str) -> bool:
        others = {one.holder for one in volume.emulated}
        return bool(volume.multi_attach_enabled) and volume.status == "in-use" and node_id not in others

    def _require_node(self, parameters: dict[str, Any]) -> None:
        if parameters["ClusterArn"] != CLUSTER_ARN:
            raise CallError("ResourceNotFound", f"Cluster with ARN {parameters['ClusterArn']} not found.")
        if parameters["NodeId"] not in self.nodes:
            raise CallError("ResourceNotFound", f"Node {parameters['NodeId']} not found in the cluster.")

    def _find_volume(self, volume_id: str) -> Any:
        volume = self.volumes.get(volume_id)
        if volume is None:
            raise _ec2_error("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")
        return volume

    def _choose_device(self, node_id: str) -> str:
        attached = sum(one.holder == node_id for v in self.volumes.values() for one in v.emulated)
        if attached >= self.attachment_limit:
            raise _ec2_error("AttachmentLimitExceeded", f"Volume attachment limit exceeded for {node_id}.")
        return f"/dev/sd{chr(ord('f') + attached % 11)}"

    def _answer(
        self, operation: str, asked: dict[str, Any], status: str, device: str, attachment: EmulatedAttachment
    ) -> dict[str, Any]:
        answer = {
            "ClusterArn": asked["ClusterArn"],
            "NodeId": asked["NodeId"],
            "VolumeId": asked["VolumeId"],
            "AttachTime": attachment.attach_time,
            "Status": status,
            "DeviceName": device,
        }
        shape = self._model.operation_model(operation).output_shape
        assert shape is not None
        report = self._validator.validate(answer, shape)
        assert not report.has_errors(), report.generate_report()
        return {**answer, "AttachTime": attachment.attach_time.timestamp()}

    def _validate(self, operation: str, parameters: dict[str, Any]) -> None:
        shape = self._model.operation_model(operation).input_shape
        assert shape is not None
        report = self._validator.validate(parameters, shape)
        if report.has_errors():
            raise CallError("ValidationException", report.generate_report())

    def describe_cluster_node(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Describe a node with its zone, which moto leaves out."""
        self._validate("DescribeClusterNode", parameters)
        node = self.nodes.get(str(parameters.get("NodeId")))
        if node is None:
            raise CallError("ResourceNotFound", f"Node {parameters.get('NodeId')} not found.")
        details = {
            "InstanceGroupName": node.instance_group_name,
            "InstanceId": node.instance_id,
            "InstanceStatus": {"Status": node.status},
            "Placement": {"AvailabilityZone": self.zones[node.instance_id]},
        }
        shape = self._model.operation_model("DescribeClusterNode").output_shape
        assert shape is not None
        report = self._validator.validate({"NodeDetails": details}, shape)
        assert not report.has_errors(), report.generate_report()
        return {"NodeDetails": details}

    # -- What EC2 does and moto does not --------------------------------------------------------------------

    def find_by_token(self, token: str, parameters: dict[str, Any]) -> str | None:
        """Return the volume made with this client token before; other parameters are an error."""
        known = self.tokens.get(token)
        if known is None:
            return None
        if known[0] != parameters:
            raise CallError(
                "IdempotentParameterMismatch", "Client token was used with other parameters before."
            )
        return known[1]

    def check_modification(self, parameters: dict[str, Any]) -> None:
        """Refuse what EC2 refuses: shrinking, and modifying again too soon."""
        volume = self.volumes.get(parameters["VolumeId"])
        if volume is None:
            raise CallError(
                "InvalidVolume.NotFound", f"The volume '{parameters['VolumeId']}' does not exist."
            )
        if int(parameters.get("Size", volume.size)) < volume.size:
            raise CallError("InvalidParameterValue", "New size cannot be smaller than existing size")
        for modification in volume.modifications[-1:]:
            if modification.modification_state != "completed":
                raise CallError("IncorrectModificationState", "Cannot modify volume in its current state")
            if time.monotonic() - modification.began_s < self.pace.cool_down_s:
                raise CallError(
                    "VolumeModificationRateExceeded",
                    "You've reached the maximum modification rate per volume limit. "
                    "Wait at least 6 hours between modifications per EBS volume.",
                )

    def adopt_modification(self, volume_id: str) -> None:
        """Let the modification moto just completed take its time."""
        volume = self.volumes[volume_id]
        modification = volume.modifications[-1]
        modification.__class__ = EmulatedModification
        modification.began_s = time.monotonic()
        modification.pace = self.pace
        self.hooks.grow(volume_id, volume.size)


def _ec2_error(code: str, message: str) -> CallError:
    """HyperPod passes EC2's errors on inside the text of its own."""
    return CallError("ValidationException", f"HyperPod - Ec2ErrCode: {code} - {message}")
