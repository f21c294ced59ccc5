"""Requests as kubelet makes them, for the tests to spoil."""

from __future__ import annotations

from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.wire import csi_pb2 as wire

ROOT = "/var/lib/kubelet"
PATHS = KubeletPaths((ROOT,))
VOLUME = "vol-0123456789abcdef0"
STAGING = f"{ROOT}/plugins/kubernetes.io/csi/ebs.csi.hyperpod-agent/{'ab' * 32}/globalmount"
TARGET = f"{ROOT}/pods/0d4a2a1c-3a55-4a17-a8a2-7f7e8b8f6a11/volumes/kubernetes.io~csi/pvc-1/mount"
BLOCK_STAGING = f"{ROOT}/plugins/kubernetes.io/csi/volumeDevices/staging/pvc-1"
BLOCK_TARGET = f"{ROOT}/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/0d4a2a1c-3a55-4a17"


def mount(fs_type: str = "ext4", *flags: str, access: str = "SINGLE_NODE_WRITER") -> wire.VolumeCapability:
    return wire.VolumeCapability(
        mount=wire.VolumeCapability.MountVolume(fs_type=fs_type, mount_flags=flags),
        access_mode=wire.VolumeCapability.AccessMode(mode=access),
    )


def block(access: str = "SINGLE_NODE_WRITER") -> wire.VolumeCapability:
    return wire.VolumeCapability(
        block=wire.VolumeCapability.BlockVolume(),
        access_mode=wire.VolumeCapability.AccessMode(mode=access),
    )


def stage(
    capability: wire.VolumeCapability | None = None,
    context: dict[str, str] | None = None,
    *,
    volume: str = VOLUME,
    path: str = STAGING,
) -> wire.NodeStageVolumeRequest:
    return wire.NodeStageVolumeRequest(
        volume_id=volume,
        staging_target_path=path,
        volume_capability=mount() if capability is None else capability,
        volume_context=context or {},
        publish_context={"devicePath": "/dev/xvdaa"},
    )


def publish(
    capability: wire.VolumeCapability | None = None,
    *,
    volume: str = VOLUME,
    staging: str = STAGING,
    target: str = TARGET,
    readonly: bool = False,
) -> wire.NodePublishVolumeRequest:
    return wire.NodePublishVolumeRequest(
        volume_id=volume,
        staging_target_path=staging,
        target_path=target,
        volume_capability=mount() if capability is None else capability,
        readonly=readonly,
    )
