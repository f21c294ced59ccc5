"""SageMaker's calls that moto lacks: HyperPod's attach and detach, a node with its zone, and pages that end.

Attaching is refused where AWS documents that it is: unless EKS orchestrates the cluster and it is InService,
to nodes of a restricted instance group, and of volumes that are not available. In which words AWS says so is
not documented; those here are the documentation's own, without a code of EC2's, for EC2 is not asked.

Parameters and answers are held to botocore's own service model, so what the agent meets here has the shapes
AWS documents. Errors of EC2 come as HyperPod passes them on: inside the text of a ValidationException.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

from tests.aws.errors import CallError
from tests.aws.resources import EmulatedAttachment

if TYPE_CHECKING:
    from tests.aws.cloud import Cloud

_MODEL = ServiceModel(Loader().load_service_model("sagemaker", "service-2"), "sagemaker")
_VALIDATOR = ParamValidator()
_PAGE = 100
"""Most nodes of one answer of ListClusterNodes."""
_LAUNCHED = datetime(2026, 1, 1, tzinfo=timezone.utc)


def fail_as_ec2(code: str, message: str) -> CallError:
    """Return an error of EC2's as HyperPod answers with it."""
    return CallError("ValidationException", f"HyperPod - Ec2ErrCode: {code} - {message}")


class HyperPod:
    """The calls of one cluster."""

    def __init__(self, cloud: Cloud, cluster_arn: str) -> None:
        self._cloud = cloud
        self._cluster_arn = cluster_arn
        self.status = "InService"
        self.orchestrator = "Eks"
        self.restricted: set[str] = set()
        """Nodes of restricted instance groups."""
        self._calls: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "AttachClusterNodeVolume": self._attach,
            "DetachClusterNodeVolume": self._detach,
            "DescribeClusterNode": self._describe_node,
            "ListClusterNodes": self._list_nodes,
        }

    def knows(self, operation: str) -> bool:
        return operation in self._calls

    def call(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the answer's members, times as seconds; raise CallError as AWS answers with errors."""
        model = _MODEL.operation_model(operation)
        wrong = _find_faults(parameters, model.input_shape)
        if wrong:
            raise CallError("ValidationException", wrong)
        answer = self._calls[operation](parameters)
        wrong = _find_faults(answer, model.output_shape)
        assert not wrong, wrong
        written: dict[str, Any] = _write_times(answer)
        return written

    def _attach(self, asked: dict[str, Any]) -> dict[str, Any]:
        cloud, node_id, volume_id = self._cloud, asked["NodeId"], asked["VolumeId"]
        with cloud.lock:
            self._require_cluster(asked)
            self._require_node(asked)
            volume = self._find_volume(volume_id)
            is_shared = volume.multi_attach_enabled and volume.status == "in-use"
            if volume.status != "available" and not is_shared:
                raise fail_as_ec2("IncorrectState", f"{volume_id} is not 'available'.")
            if volume.zone.name != cloud.zones[node_id]:
                raise fail_as_ec2(
                    "InvalidVolume.ZoneMismatch",
                    f"The volume '{volume_id}' is not in the same availability zone",
                )
            device = self._choose_device(node_id)
            resource = f"{self._cluster_arn}-{node_id}"
            attachment = EmulatedAttachment(volume_id, None, None, resource, node_id, cloud.pace)
            volume.hold([*volume.emulated, attachment])
        cloud.hooks.attach(volume_id, node_id, device)
        return _describe(asked, attachment, "attaching", device)

    def _detach(self, asked: dict[str, Any]) -> dict[str, Any]:
        cloud, node_id, volume_id = self._cloud, asked["NodeId"], asked["VolumeId"]
        with cloud.lock:
            self._require_cluster(asked)
            volume = self._find_volume(volume_id)
            held = (one for one in volume.emulated if one.holder == node_id)
            attachment = next((one for one in held if one.cluster_arn == self._cluster_arn), None)
            if attachment is None:
                raise fail_as_ec2(
                    "InvalidAttachment.NotFound",
                    f"The attachment of {volume_id} to {node_id} does not exist.",
                )
            attachment.leave()
        if not attachment.is_busy:
            cloud.hooks.detach(volume_id, node_id)
        return _describe(asked, attachment, "busy" if attachment.is_busy else "detaching", "/dev/sdf")

    def _describe_node(self, asked: dict[str, Any]) -> dict[str, Any]:
        node = self._cloud.nodes.get(str(asked.get("NodeId")))
        self._require_name(asked)
        if node is None:
            raise CallError("ResourceNotFound", f"Node {asked.get('NodeId')} not found.")
        details = {
            "InstanceGroupName": node.instance_group_name,
            "InstanceId": node.instance_id,
            "InstanceType": node.instance_type,
            "InstanceStatus": {"Status": node.status},
            "Placement": {"AvailabilityZone": self._cloud.zones[node.instance_id]},
        }
        return {"NodeDetails": details}

    def _list_nodes(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Return a page of the nodes in a settled order; the last one has no token."""
        self._require_name(asked)
        start, size = int(asked.get("NextToken", 0)), min(int(asked.get("MaxResults", _PAGE)), _PAGE)
        nodes = list(self._cloud.nodes.values())
        summaries = [
            {
                "InstanceGroupName": node.instance_group_name,
                "InstanceId": node.instance_id,
                "InstanceType": node.instance_type,
                "InstanceStatus": {"Status": node.status},
                "LaunchTime": _LAUNCHED,
            }
            for node in nodes[start : start + size]
        ]
        more = {"NextToken": str(start + size)} if start + size < len(nodes) else {}
        return {"ClusterNodeSummaries": summaries, **more}

    def _require_name(self, asked: dict[str, Any]) -> None:
        name = str(asked["ClusterName"])
        if name not in {self._cluster_arn, self._cluster_arn.rpartition("/")[2]}:
            raise CallError("ResourceNotFound", f"Cluster {name} not found.")

    def _require_cluster(self, asked: dict[str, Any]) -> None:
        """Refuse what is refused whatever the volume is."""
        if self.orchestrator != "Eks":
            raise CallError("ValidationException", "Your cluster must use Amazon EKS as the orchestrator.")
        if self.status != "InService":
            message = f"The cluster must be in the InService state, and is in state {self.status}."
            raise CallError("ValidationException", message)
        if asked["NodeId"] in self.restricted:
            message = "The node cannot be part of a Restricted Instance Group (RIG)."
            raise CallError("ValidationException", message)

    def _require_node(self, asked: dict[str, Any]) -> None:
        if asked["ClusterArn"] != self._cluster_arn:
            raise CallError("ResourceNotFound", f"Cluster with ARN {asked['ClusterArn']} not found.")
        if asked["NodeId"] not in self._cloud.nodes:
            raise CallError("ResourceNotFound", f"Node {asked['NodeId']} not found in the cluster.")

    def _find_volume(self, volume_id: str) -> Any:
        volume = self._cloud.volumes.get(volume_id)
        if volume is None:
            raise fail_as_ec2("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")
        return volume

    def _choose_device(self, node_id: str) -> str:
        held = [one for volume in self._cloud.volumes.values() for one in getattr(volume, "emulated", ())]
        attached = sum(one.holder == node_id for one in held)
        if attached >= self._cloud.attachment_limit:
            raise fail_as_ec2("AttachmentLimitExceeded", f"Volume attachment limit exceeded for {node_id}.")
        return f"/dev/sd{chr(ord('f') + attached % 11)}"


def _describe(
    asked: dict[str, Any], attachment: EmulatedAttachment, status: str, device: str
) -> dict[str, Any]:
    kept = {name: asked[name] for name in ("ClusterArn", "NodeId", "VolumeId")}
    return {**kept, "AttachTime": attachment.attach_time, "Status": status, "DeviceName": device}


def _write_times(value: Any) -> Any:
    """Return an answer with its times as JSON has them: seconds."""
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, dict):
        return {name: _write_times(inner) for name, inner in value.items()}
    return [_write_times(one) for one in value] if isinstance(value, list) else value


def _find_faults(members: dict[str, Any], shape: Shape | None) -> str:
    """Return what does not have the shape of the service model; nothing where all does."""
    assert shape is not None
    report = _VALIDATOR.validate(members, shape)
    return str(report.generate_report()) if report.has_errors() else ""
