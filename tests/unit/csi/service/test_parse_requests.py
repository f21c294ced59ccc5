from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from agent.core.errors import InvalidValueError
from agent.core.model import FsType, VolumeId
from agent.csi.calls import AccessMode, Capability, ExpandCall, PublishCall, StageCall
from agent.csi.service.codes import NoSuchPathError
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.service.parse_requests import (
    parse_expand,
    parse_measure,
    parse_publish,
    parse_stage,
    parse_unpublish,
    parse_unstage,
)
from agent.csi.wire import csi_pb2 as wire
from agent.node.filesystem.mkfs import build_mkfs_argv
from tests.unit.csi.service.requests import (
    BLOCK_STAGING,
    BLOCK_TARGET,
    PATHS,
    ROOT,
    STAGING,
    TARGET,
    VOLUME,
    block,
    mount,
    publish,
    stage,
)

ID = VolumeId(VOLUME)
WRITER = AccessMode.SINGLE_NODE_WRITER
EMPTY_CAPABILITY = wire.VolumeCapability(
    access_mode=wire.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER")
)


@pytest.mark.parametrize(
    ("request_", "call"),
    [
        (stage(), StageCall(ID, STAGING, Capability(WRITER))),
        (stage(mount("")), StageCall(ID, STAGING, Capability(WRITER))),
        (
            stage(mount("xfs", "noatime", "nouuid")),
            StageCall(ID, STAGING, Capability(WRITER, fs_type=FsType.XFS, mount_flags=("noatime", "nouuid"))),
        ),
        (
            stage(mount("ext4", 'context="system_u:object_r:container_file_t:s0:c1,c2"')),
            StageCall(
                ID,
                STAGING,
                Capability(WRITER, mount_flags=("context=system_u:object_r:container_file_t:s0:c1,c2",)),
            ),
        ),
        (
            stage(block("MULTI_NODE_MULTI_WRITER"), path=BLOCK_STAGING),
            StageCall(ID, BLOCK_STAGING, Capability(AccessMode.MULTI_NODE_MULTI_WRITER, is_block=True)),
        ),
        (
            stage(context={"Partition": "2", "ebs-agent/source": "snap-0123456789abcdef0"}),
            StageCall(ID, STAGING, Capability(WRITER), partition=2, is_copy=True),
        ),
        (
            stage(context={"ebs-agent/format": "never", "ebs-agent/source": "none", "partition": "0"}),
            StageCall(ID, STAGING, Capability(WRITER), is_format_allowed=False),
        ),
        (
            stage(
                context={
                    "storage.kubernetes.io/csiProvisionerIdentity": "1754-ebs.csi.aws.com",
                    "blockAttachUntilInitialized": "true",
                    "team": "a",
                    "blocksize": "",
                }
            ),
            StageCall(ID, STAGING, Capability(WRITER)),
        ),
    ],
)
def test_stage_is_read(request_: wire.NodeStageVolumeRequest, call: StageCall) -> None:
    """What volumes are asked for with, AWS's driver's attributes among it, is read; foreign ones are left."""
    assert parse_stage(request_, PATHS) == call


@pytest.mark.parametrize(
    ("fs_type", "context", "argv"),
    [
        ("ext4", {}, []),
        ("ext4", {"blockSize": "4096", "inodeSize": "512"}, ["-b", "4096", "-I", "512"]),
        ("ext4", {"bytesPerInode": "8192"}, ["-i", "8192"]),
        ("ext4", {"numberOfInodes": "200192"}, ["-N", "200192"]),
        (
            "ext4",
            {"ext4BigAlloc": "true", "ext4ClusterSize": "16384"},
            ["-O", "bigalloc", "-C", "16384"],
        ),
        ("ext4", {"ext4BigAlloc": "false", "ext4encryptionsupport": "true"}, ["-O", "encrypt"]),
        ("xfs", {"BLOCKSIZE": "4096", "inodesize": "1024"}, ["-b", "size=4096", "-i", "size=1024"]),
        (
            "xfs",
            {"ebs-agent/legacy-xfs": "true"},
            ["-m", "bigtime=0,inobtcount=0,reflink=0", "-i", "nrext64=0"],
        ),
    ],
)
def test_parameters_reach_mkfs(fs_type: str, context: dict[str, str], argv: list[str]) -> None:
    """Each parameter of a StorageClass becomes the options of the mkfs that it is for."""
    call = parse_stage(stage(mount(fs_type), context), PATHS)
    made = build_mkfs_argv(call.capability.fs_type, "/dev/x", uuid="u", options=call.mkfs_options)
    before = {"ext4": 4, "xfs": 3}[fs_type]
    after = {"ext4": 3, "xfs": 3}[fs_type]
    assert made[before:-after] == argv


def test_parameters_of_a_block_volume_are_left() -> None:
    """A block volume is never formatted, so what is for mkfs is not looked at."""
    context = {"blocksize": "4096", "ext4bigalloc": "true"}
    assert parse_stage(stage(block(), context, path=BLOCK_STAGING), PATHS).mkfs_options == ()


@pytest.mark.parametrize(
    "context",
    [
        {"blocksize": "4096 -F"},
        {"blocksize": "-F"},
        {"inodesize": "size=1,align=0"},
        {"bytesperinode": "8192\n"},
        {"numberofinodes": "0"},
        {"numberofinodes": "1k"},
        {"ext4bigalloc": "yes"},
        {"ext4clustersize": "16384"},
        {"ext4encryptionsupport": "True"},
        {"ebs-agent/legacy-xfs": "true"},
        {"ebs-agent/legacy-xfs": "1"},
        {"ebs-agent/source": "snap-1"},
        {"ebs-agent/source": ""},
        {"ebs-agent/format": "always"},
        {"ebs-agent/formt": "never"},
        {"EBS-Agent/Formt": "never"},
        {"partition": "1p"},
        {"partition": "-1"},
        {"partition": "257"},
        {"partition": "٣"},
        {"blocksize": "4096", "blockSize": "1024"},
    ],
    ids=str,
)
def test_bad_context_is_refused(context: dict[str, str]) -> None:
    """A value that cannot be meant, or that would inject, is refused, and the attribute named."""
    with pytest.raises(InvalidValueError, match=next(iter(context)).lower()):
        parse_stage(stage(mount("ext4"), context), PATHS)


@pytest.mark.parametrize(
    ("fs_type", "key"),
    [("xfs", "bytesperinode"), ("xfs", "ext4bigalloc"), ("xfs", "numberofinodes"), ("btrfs", "blocksize")],
)
def test_parameters_of_another_type_are_refused(fs_type: str, key: str) -> None:
    """What a type has no such thing as is not dropped in silence."""
    value = "true" if key == "ext4bigalloc" else "4096"
    with pytest.raises(InvalidValueError, match=f"{key}.* is for ext4"):
        parse_stage(stage(mount(fs_type), {key: value}), PATHS)


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (stage(volume=""), "volume_id"),
        (stage(volume="vol-none"), "vol-none"),
        (stage(volume=f"{VOLUME}\n"), "not an EBS volume ID"),
        (stage(volume=f"{VOLUME}/../x"), "not an EBS volume ID"),
        (stage(path=""), "staging_target_path"),
        (stage(path="some/path"), "staging_target_path"),
        (stage(path=f"{ROOT}/plugins/kubernetes.io/csi/../../x"), "staging_target_path"),
        (stage(path=f"{ROOT}/plugins/kubernetes.io/csi/./x"), "staging_target_path"),
        (stage(path=f"{ROOT}/plugins/kubernetes.io/csi//x"), "staging_target_path"),
        (stage(path=f"{ROOT}/plugins/kubernetes.io/csi"), "staging_target_path"),
        (stage(path=f"{ROOT}/plugins/kubernetes.io/csi-2/x"), "staging_target_path"),
        (stage(path=f"{STAGING}\n/x"), "staging_target_path"),
        (stage(path=f"{STAGING}\0"), "staging_target_path"),
        (stage(path=TARGET), "staging_target_path"),
        (stage(path="/data/x"), "staging_target_path"),
        (stage(wire.VolumeCapability()), "access_mode"),
        (stage(EMPTY_CAPABILITY), "access_type"),
        (stage(mount(access="UNKNOWN")), "access_mode"),
        (stage(mount(access="MULTI_NODE_MULTI_WRITER")), "several nodes"),
        (stage(mount("ntfs")), "fs_type"),
        (stage(mount("ext4", "bind")), "mount_flags"),
        (stage(mount("ext4", "noatime,remount")), "mount_flags"),
        (stage(mount("ext4", "-o")), "mount_flags"),
        (stage(mount("ext4", "journal_path=/dev/sdz")), "mount_flags"),
        (stage(mount("ext4", "errors=panic")), "mount_flags"),
        (stage(mount("ext4", "ro", "rw")), "mount_flags"),
        (stage(mount("ext4", "")), "mount_flags"),
    ],
)
def test_bad_stage_is_refused(request_: wire.NodeStageVolumeRequest, named: str) -> None:
    """What is missing, foreign, climbs or injects is refused, and the field named."""
    with pytest.raises(InvalidValueError, match=named):
        parse_stage(request_, PATHS)


def test_stage_without_capability_is_refused() -> None:
    """A capability is required."""
    request = wire.NodeStageVolumeRequest(volume_id=VOLUME, staging_target_path=STAGING)
    with pytest.raises(InvalidValueError, match="volume_capability"):
        parse_stage(request, PATHS)


def test_unknown_access_mode_is_refused() -> None:
    """An access mode of a later interface is refused, not taken for another."""
    request = stage()
    request.volume_capability.access_mode.MergeFromString(b"\x08\x63")
    with pytest.raises(InvalidValueError, match="access_mode 99"):
        parse_stage(request, PATHS)


@pytest.mark.parametrize(
    ("request_", "call"),
    [
        (publish(), PublishCall(ID, STAGING, TARGET, Capability(WRITER))),
        (
            publish(block(), staging=BLOCK_STAGING, target=BLOCK_TARGET, readonly=True),
            PublishCall(
                ID, BLOCK_STAGING, BLOCK_TARGET, Capability(WRITER, is_block=True), is_read_only=True
            ),
        ),
    ],
)
def test_publish_is_read(request_: wire.NodePublishVolumeRequest, call: PublishCall) -> None:
    """Where it is staged, where it is to be seen, and how."""
    assert parse_publish(request_, PATHS) == call


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (publish(volume=""), "volume_id"),
        (publish(staging=""), "staging_target_path"),
        (publish(target=""), "target_path"),
        (publish(target="/etc/cron.d"), "target_path"),
        (publish(target=f"{ROOT}/pods/../../../etc"), "target_path"),
        (publish(target=STAGING), "target_path"),
        (publish(target=f"{ROOT}/podsx/a"), "target_path"),
    ],
)
def test_bad_publish_is_refused(request_: wire.NodePublishVolumeRequest, named: str) -> None:
    """A pod sees a volume where kubelet keeps what pods see, and nowhere else."""
    with pytest.raises(InvalidValueError, match=named):
        parse_publish(request_, PATHS)


def test_either_way_to_write_the_root_is_taken() -> None:
    """The root is handed out as kubelet was told it, which may lead through a link, or not."""
    paths = KubeletPaths((ROOT, "/opt/sagemaker/kubelet"))
    moved = STAGING.replace(ROOT, "/opt/sagemaker/kubelet")
    for path in (STAGING, moved):
        request = wire.NodeUnstageVolumeRequest(volume_id=VOLUME, staging_target_path=path)
        assert parse_unstage(request, paths) == (ID, path)


def test_expand_is_read() -> None:
    """Bounds of nothing are none."""
    request = wire.NodeExpandVolumeRequest(
        volume_id=VOLUME,
        volume_path=TARGET,
        capacity_range=wire.CapacityRange(required_bytes=1 << 30),
        volume_capability=block(),
    )
    assert parse_expand(request, PATHS) == ExpandCall(ID, TARGET, 1 << 30, None, is_block=True)


@pytest.mark.parametrize(("required", "limit"), [(2, 1), (-1, 0), (0, -1)])
def test_bounds_that_exclude_each_other_are_refused(required: int, limit: int) -> None:
    """No size is within them."""
    request = wire.NodeExpandVolumeRequest(
        volume_id=VOLUME,
        volume_path=TARGET,
        capacity_range=wire.CapacityRange(required_bytes=required, limit_bytes=limit),
    )
    with pytest.raises(InvalidValueError, match="capacity_range"):
        parse_expand(request, PATHS)


@pytest.mark.parametrize("path", [TARGET, STAGING, BLOCK_TARGET, BLOCK_STAGING])
def test_any_place_of_kubelets_is_measured(path: str) -> None:
    """A volume is measured and expanded where it is staged as well as where it is published."""
    request = wire.NodeGetVolumeStatsRequest(volume_id=VOLUME, volume_path=path)
    assert parse_measure(request, PATHS) == (ID, path)


@pytest.mark.parametrize("path", ["some/path", "/some/path", f"{ROOT}/other/x", ROOT])
def test_no_volume_is_elsewhere(path: str) -> None:
    """A place where none of the volumes can be is answered with: not found."""
    request = wire.NodeGetVolumeStatsRequest(volume_id=VOLUME, volume_path=path)
    with pytest.raises(NoSuchPathError):
        parse_measure(request, PATHS)


@pytest.mark.parametrize(
    ("parse", "request_", "named"),
    [
        (parse_unstage, wire.NodeUnstageVolumeRequest(staging_target_path=STAGING), "volume_id"),
        (parse_unstage, wire.NodeUnstageVolumeRequest(volume_id=VOLUME), "staging_target_path"),
        (parse_unpublish, wire.NodeUnpublishVolumeRequest(target_path=TARGET), "volume_id"),
        (parse_unpublish, wire.NodeUnpublishVolumeRequest(volume_id=VOLUME), "target_path"),
        (parse_measure, wire.NodeGetVolumeStatsRequest(volume_path="some/path"), "volume_id"),
        (parse_measure, wire.NodeGetVolumeStatsRequest(volume_id=VOLUME), "volume_path"),
        (
            parse_measure,
            wire.NodeGetVolumeStatsRequest(volume_id=VOLUME, volume_path="/a/../b"),
            "volume_path",
        ),
        (parse_expand, wire.NodeExpandVolumeRequest(volume_path="some/path"), "volume_id"),
        (parse_expand, wire.NodeExpandVolumeRequest(volume_id=VOLUME), "volume_path"),
    ],
)
def test_what_is_missing_is_named(
    parse: Callable[[Message, KubeletPaths], object], request_: Message, named: str
) -> None:
    """Each field that a call cannot do without is named where it is missing."""
    with pytest.raises(InvalidValueError, match=named):
        parse(request_, PATHS)
