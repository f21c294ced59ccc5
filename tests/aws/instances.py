"""EC2's own attaching and detaching, in time, which moto does at once and to whoever asks last.

An attachment takes its time or never comes to an end, a volume in use stays ``busy``, a name belongs to one
volume until that has left. Source of the sentences: aws-ebs-csi-driver, pkg/cloud/cloud.go; nanovms/ops#1189.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moto.ec2.exceptions import InvalidInstanceIdError

from tests.aws.errors import CallError
from tests.aws.resources import EmulatedAttachment

if TYPE_CHECKING:
    from tests.aws.cloud import Cloud

OPERATIONS = frozenset({"AttachVolume", "DetachVolume"})


def call(cloud: Cloud, operation: str, parameters: dict[str, Any]) -> str:
    """Attach or detach; returns what the answer holds, as XML, or raises CallError where EC2 refuses."""
    if parameters.get("DryRun") == "true":
        raise CallError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
    volume_id, instance_id = parameters["VolumeId"], parameters.get("InstanceId")
    with cloud.lock:
        volume = cloud.volumes.get(volume_id)
        if volume is None:
            raise CallError("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")
        if operation == "DetachVolume":
            attachment = _find_attachment(volume, instance_id)
            attachment.leave()
        else:
            instance = _find_instance(cloud, str(instance_id))
            _check(cloud, volume, instance, parameters["Device"])
            attachment = EmulatedAttachment(
                volume_id, parameters["Device"], instance_id, None, str(instance_id), cloud.pace, instance
            )
            volume.hold([*volume.emulated, attachment])
    if operation == "AttachVolume":
        cloud.hooks.attach(volume_id, attachment.holder, str(attachment.device))
    elif not attachment.is_busy:
        cloud.hooks.detach(volume_id, attachment.holder)
    state = "attaching" if operation == "AttachVolume" else "busy" if attachment.is_busy else "detaching"
    return (
        f"<volumeId>{volume_id}</volumeId><instanceId>{attachment.holder}</instanceId>"
        f"<device>{attachment.device}</device><status>{state}</status>"
    )


def _find_instance(cloud: Cloud, instance_id: str) -> Any:
    try:
        return cloud.ec2.get_instance(instance_id)
    except InvalidInstanceIdError as error:
        message = f"The instance ID '{instance_id}' does not exist"
        raise CallError("InvalidInstanceID.NotFound", message) from error


def _find_attachment(volume: Any, instance_id: str | None) -> EmulatedAttachment:
    held = volume.emulated
    if not held:
        message = f"Volume '{volume.id}' is in the '{volume.status}' state."
        raise CallError("IncorrectState", message)
    found = [one for one in held if instance_id in {None, one.holder}]
    if not found:
        message = f"The attachment of {volume.id} to {instance_id} does not exist."
        raise CallError("InvalidAttachment.NotFound", message)
    attachment: EmulatedAttachment = found[0]
    if attachment.cluster_arn is not None:
        raise CallError(
            "UnsupportedOperation", f"The volume '{volume.id}' is attached to a managed resource."
        )
    return attachment


def _check(cloud: Cloud, volume: Any, instance: Any, device: str) -> None:
    is_shared = volume.multi_attach_enabled and volume.status == "in-use"
    if volume.attachments and (not is_shared or instance.id in {one.holder for one in volume.emulated}):
        raise CallError("VolumeInUse", f"{volume.id} is already attached to an instance")
    if volume.status != "available" and not is_shared:
        raise CallError("IncorrectState", f"Volume '{volume.id}' is not 'available'.")
    if instance._state.name not in {"running", "stopped"}:
        raise CallError("IncorrectState", f"Instance '{instance.id}' is not 'running'.")
    if volume.zone.name != instance.placement.zone:
        message = f"The volume '{volume.id}' is not in the same availability zone as instance '{instance.id}'"
        raise CallError("InvalidVolume.ZoneMismatch", message)
    known = (one for other in cloud.volumes.values() for one in getattr(other, "emulated", ()))
    names = [*instance.block_device_mapping, *(one.device for one in known if one.holder == instance.id)]
    if len(names) >= cloud.attachment_limit:
        raise CallError("AttachmentLimitExceeded", f"Volume attachment limit exceeded for {instance.id}.")
    if device in names:
        message = f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
        raise CallError("InvalidParameterValue", message)
