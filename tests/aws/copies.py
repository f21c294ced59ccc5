"""EC2's CopyVolumes, which moto has not: what it makes, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.aws.errors import CallError

if TYPE_CHECKING:
    from tests.aws.cloud import Cloud

MOST_AT_ONCE = 5
"""Copies of one account that may be in progress. Source: the EBS user guide, "Copy an Amazon EBS volume"."""


def copy_volume(cloud: Cloud, parameters: dict[str, Any]) -> str:
    """Return what the answer to CopyVolumes holds, as XML; CallError where EC2 refuses."""
    asked = {name: value for name, value in parameters.items() if name not in {"ClientToken", "DryRun"}}
    token = parameters.get("ClientToken")
    with cloud.lock:
        if parameters.get("DryRun") == "true":
            check_copy(cloud, asked)
            raise CallError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        known = None if token is None else cloud.find_by_token(token, asked)
        if known is None:
            known = _make(cloud, check_copy(cloud, asked), asked)
            if token is not None:
                cloud.tokens[token] = (asked, known)
    return f"<volumeSet><item>{_show(cloud.volumes[known])}</item></volumeSet>"


def check_copy(cloud: Cloud, asked: dict[str, Any]) -> Any:
    """Return the source; CallError where no copy can be made of it."""
    source_id = asked["SourceVolumeId"]
    source = cloud.volumes.get(source_id)
    if source is None:
        raise CallError("InvalidVolume.NotFound", f"The volume '{source_id}' does not exist.")
    if source.status not in {"available", "in-use"}:
        raise CallError("IncorrectState", f"Volume '{source_id}' is not in a state to be copied.")
    if int(asked.get("Size", source.size)) < source.size:
        raise CallError(
            "InvalidParameterValue", "Volume size must not be less than that of the source volume."
        )
    if "Iops" not in asked and asked.get("VolumeType") in {"io1", "io2"}:
        raise CallError("MissingParameter", "The parameter iops must be specified for this volume type.")
    if "KmsKeyId" in asked and asked.get("Encrypted") != "true":
        raise CallError("InvalidParameterDependency", "KmsKeyId needs Encrypted.")
    copying = [one for one in cloud.volumes.values() if getattr(one, "source_volume_id", None)]
    if sum(one.status == "creating" for one in copying) >= MOST_AT_ONCE:
        raise CallError("ResourceLimitExceeded", f"{MOST_AT_ONCE} volume copies are in progress.")
    return source


def _make(cloud: Cloud, source: Any, asked: dict[str, Any]) -> str:
    prefix = "TagSpecification.1.Tag."
    keys = {name[len(prefix) :].partition(".")[0] for name in asked if name.startswith(prefix)}
    tags = {asked[f"{prefix}{n}.Key"]: asked.get(f"{prefix}{n}.Value", "") for n in keys}
    number = {name: int(asked[name]) for name in ("Iops", "Throughput") if name in asked}
    volume_id = cloud.make_volume(
        int(asked.get("Size", source.size)),
        source.zone.name,
        type=asked.get("VolumeType", "gp2"),
        encrypted=source.encrypted or asked.get("Encrypted") == "true",
        kms_key_id=asked.get("KmsKeyId") or source.kms_key_id,
        iops=number.get("Iops"),
        throughput=number.get("Throughput"),
        source_volume_id=source.id,
        tags=tags,
    )
    cloud.made.append(volume_id)
    return volume_id


def _show(volume: Any) -> str:
    return (
        f"<volumeId>{volume.id}</volumeId><size>{volume.size}</size><status>{volume.status}</status>"
        f"<availabilityZone>{volume.zone.name}</availabilityZone><volumeType>{volume.volume_type}</volumeType>"
        f"<sourceVolumeId>{volume.source_volume_id}</sourceVolumeId>"
        f"<encrypted>{str(volume.encrypted).lower()}</encrypted>"
    )
