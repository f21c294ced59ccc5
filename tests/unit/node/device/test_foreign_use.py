from __future__ import annotations

import pytest

from agent.core.model import (
    Device,
    DeviceNumber,
    Identity,
    Mount,
    MountRecord,
    Partition,
    Reason,
    parse_volume_id,
)
from agent.core.replace import replace
from agent.node.device.foreign_use import BlockNode, Shown, UsageFacts, find_exclusion

VOLUME = parse_volume_id("vol-0123456789abcdef0")
DISK = DeviceNumber(259, 0)
PART = DeviceNumber(259, 1)
MAPPED = DeviceNumber(252, 0)
UPPER = DeviceNumber(252, 1)
OTHER = DeviceNumber(259, 9)

DEVICE = Device(
    path="/dev/nvme1n1",
    device_number=DISK,
    identity=Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0"),
    size_bytes=1 << 40,
    diskseq=9,
)
PARTITIONED = replace(DEVICE, partitions=(Partition(1, "/dev/nvme1n1p1", PART, 1 << 20, 1 << 39),))

BLOCKS = {
    DISK: BlockNode("nvme1n1"),
    PART: BlockNode("nvme1n1p1", frozenset({DISK})),
    OTHER: BlockNode("nvme0n1"),
}


def make_mount(path: str, number: DeviceNumber = DISK, **fields: object) -> Mount:
    mount = Mount(
        mount_id=1,
        parent_id=0,
        device_number=number,
        root="/",
        path=path,
        options=frozenset({"rw"}),
        fs_type="ext4",
        source="/dev/x",
        super_options=frozenset({"rw"}),
    )
    return replace(mount, **fields)  # type: ignore[arg-type]


def stack(*mounts: Mount, **fields: object) -> UsageFacts:
    """Return surroundings where the disk, its partition and what is mapped on them stand below each other."""
    blocks = {
        **BLOCKS,
        MAPPED: BlockNode("dm-0", frozenset({PART}), "an encrypted volume root"),
        UPPER: BlockNode("dm-1", frozenset({MAPPED}), "an LVM volume vg-root"),
    }
    return replace(UsageFacts(mounts=mounts, blocks=blocks), **fields)  # type: ignore[arg-type]


ROOT_LAYOUTS = {
    "whole disk": stack(make_mount("/")),
    "partition": stack(make_mount("/", PART)),
    "LUKS on a partition": stack(make_mount("/", MAPPED)),
    "LVM on LUKS on a partition": stack(make_mount("/", UPPER)),
    "RAID member": stack(
        make_mount("/", DeviceNumber(9, 0)),
        blocks={**BLOCKS, DeviceNumber(9, 0): BlockNode("md0", frozenset({PART, OTHER}), "a RAID array")},
    ),
    "btrfs": stack(make_mount("/", DeviceNumber(0, 30), fs_type="btrfs"), sources={1: frozenset({PART})}),
    "second device of btrfs": stack(
        make_mount("/", DeviceNumber(0, 30), fs_type="btrfs"), sources={1: frozenset({OTHER, DISK})}
    ),
    "overlay": stack(make_mount("/", DeviceNumber(0, 31), fs_type="overlay"), sources={1: frozenset({DISK})}),
    "separate /boot": stack(make_mount("/", OTHER), make_mount("/boot", PART, mount_id=2)),
    "separate /usr": stack(make_mount("/", OTHER), make_mount("/usr", UPPER, mount_id=2)),
    "HyperPod's own": stack(make_mount("/", OTHER), make_mount("/opt/sagemaker", mount_id=2)),
    "mounted over later": stack(make_mount("/"), make_mount("/", OTHER, mount_id=2)),
}


@pytest.mark.parametrize("surroundings", ROOT_LAYOUTS.values(), ids=ROOT_LAYOUTS.keys())
def test_system_disk_is_excluded_in_every_layout(surroundings: UsageFacts) -> None:
    """Whatever lies between the root filesystem and a disk, the disk is the system's, wanted path or not."""
    for wanted_path in (None, "/", "/data"):
        exclusion = find_exclusion(PARTITIONED, surroundings, wanted_path=wanted_path)
        assert exclusion is not None
        assert exclusion.reason is Reason.ROOT_DEVICE


def test_root_elsewhere_excludes_nothing() -> None:
    """A volume beside the root disk is free to use."""
    assert find_exclusion(PARTITIONED, stack(make_mount("/", OTHER))) is None


def test_instance_store_mount_is_excluded() -> None:
    """What is below /opt/dlami/nvme belongs to the node's instance store, through LVM too."""
    for mount in (make_mount("/opt/dlami/nvme", UPPER), make_mount("/opt/dlami/nvme/x")):
        exclusion = find_exclusion(PARTITIONED, stack(mount))
        assert exclusion is not None
        assert exclusion.reason is Reason.INSTANCE_STORE


@pytest.mark.parametrize("swap", [DISK, PART, UPPER])
def test_swap_is_excluded(swap: DeviceNumber) -> None:
    """Swap on the disk, a partition or a mapped device keeps the disk in use."""
    exclusion = find_exclusion(PARTITIONED, stack(swaps=frozenset({swap})))
    assert exclusion is not None
    assert exclusion.reason is Reason.DEVICE_BUSY
    assert "swap" in exclusion.message


CSI_MOUNTS = {
    "staged": make_mount("/var/lib/kubelet/plugins/kubernetes.io/csi/ebs.csi.aws.com/0a1b/globalmount"),
    "published": make_mount("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~csi/pvc-1/mount"),
    "raw": make_mount(
        "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/u-1",
        DeviceNumber(0, 6),
        fs_type="devtmpfs",
        root="/nvme1n1",
    ),
    "staged, kubelet moved": make_mount(
        "/opt/sagemaker/kubelet/plugins/kubernetes.io/csi/ebs.csi.aws.com/0a1b/globalmount"
    ),
    "staged, kubelet on the instance store": make_mount(
        "/opt/dlami/nvme/kubelet/plugins/kubernetes.io/csi/ebs.csi.aws.com/0a1b/globalmount"
    ),
    "published, kubelet moved": make_mount(
        "/opt/dlami/nvme/kubelet/pods/u-1/volumes/kubernetes.io~csi/pvc-1/mount"
    ),
    "raw, staged by the driver, kubelet moved": make_mount(
        "/opt/sagemaker/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/u-1",
        DeviceNumber(0, 6),
        fs_type="devtmpfs",
        root="/nvme1n1",
    ),
    "raw, of a pod, kubelet moved": make_mount(
        "/opt/dlami/nvme/kubelet/pods/u-1/volumeDevices/kubernetes.io~csi/pvc-1",
        DeviceNumber(0, 6),
        fs_type="devtmpfs",
        root="/nvme1n1",
    ),
    "in-tree": make_mount("/mnt/k/plugins/kubernetes.io/aws-ebs/mounts/vol-0123456789abcdef0"),
}


@pytest.mark.parametrize("mount", CSI_MOUNTS.values(), ids=CSI_MOUNTS.keys())
def test_volume_of_the_csi_driver_is_excluded(mount: Mount) -> None:
    """A volume Kubernetes uses is Kubernetes', even where the policy wants it and it is mounted there too."""
    ours = make_mount("/data", mount_id=2)
    for surroundings in (stack(mount), stack(mount, ours)):
        exclusion = find_exclusion(DEVICE, surroundings, wanted_path="/data")
        assert exclusion is not None
        assert exclusion.reason is Reason.MANAGED_BY_CSI


@pytest.mark.parametrize("mount", CSI_MOUNTS.values(), ids=CSI_MOUNTS.keys())
def test_volume_that_kubelet_asks_the_agent_for_is_the_agents_where_it_staged_it(mount: Mount) -> None:
    """Staged by another driver it is that one's; what pods see of one that the agent staged is a view."""
    staging = "/opt/sagemaker/kubelet/plugins/kubernetes.io/csi/ours/0a1b/globalmount"
    exclusion = find_exclusion(DEVICE, stack(mount), wanted_path=staging, is_kubelets=True)
    assert exclusion is not None
    assert exclusion.reason in {Reason.MANAGED_BY_CSI, Reason.DEVICE_BUSY}
    own = make_mount(staging, mount_id=2)
    exclusion = find_exclusion(DEVICE, stack(own, mount), wanted_path=staging, is_kubelets=True)
    is_node = mount.fs_type == "devtmpfs"
    assert (exclusion is None) == (not is_node)
    # Raw, it is kubelet's place that has its node; a filesystem mounted there is another's.
    exclusion = find_exclusion(DEVICE, stack(mount), is_kubelets=True)
    assert (exclusion is None) == is_node


def test_system_disk_stays_the_systems_beside_the_csi_driver() -> None:
    """A driver that keeps its volumes on the root disk does not make that one Kubernetes'."""
    for mounts in ((CSI_MOUNTS["staged"], make_mount("/")), (make_mount("/"), CSI_MOUNTS["raw"])):
        exclusion = find_exclusion(DEVICE, stack(*mounts))
        assert exclusion is not None
        assert exclusion.reason is Reason.ROOT_DEVICE


def test_other_volumes_of_the_csi_driver_exclude_nothing() -> None:
    """Kubernetes using another volume, or a node of another name, says nothing about this one."""
    raw = replace(CSI_MOUNTS["raw"], root="/nvme1n12")
    assert find_exclusion(DEVICE, stack(replace(CSI_MOUNTS["staged"], device_number=OTHER), raw)) is None


@pytest.mark.parametrize("root", ["/var/lib/kubelet", "/opt/sagemaker/kubelet", "/opt/dlami/nvme/kubelet"])
def test_pod_seeing_a_directory_of_our_volume_excludes_nothing(root: str) -> None:
    """A pod's subPath is a view of the agent's mount and no reason to let go of it, wherever kubelet is."""
    view = make_mount(f"{root}/pods/u-1/volume-subpaths/data/c/0", mount_id=2, root="/sub")
    assert find_exclusion(DEVICE, stack(make_mount("/data"), view), wanted_path="/data") is None


POD = "/opt/sagemaker/kubelet/pods/u-1/volumes/kubernetes.io~csi/cache/mount"
DEVICES = "/opt/sagemaker/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/cache/u-1"
NODE = make_mount(DEVICES, DeviceNumber(0, 6), fs_type="devtmpfs", root="/nvme1n1", mount_id=3)


def test_pod_that_the_agent_showed_our_volume_to_excludes_nothing() -> None:
    """As long as it is mounted where the policy has it, and at the places alone that are noted."""
    own, view = make_mount("/data"), make_mount(POD, mount_id=2)
    shown = Shown(frozenset({POD}))
    assert find_exclusion(DEVICE, stack(own, view), wanted_path="/data", shown=shown) is None
    other = make_mount(POD.replace("u-1", "u-2"), mount_id=4)
    for surroundings, where in (
        (stack(own, view), Shown()),
        (stack(own, view, other), shown),
        (stack(view), shown),
        (stack(own, replace(NODE, path=POD)), shown),
    ):
        exclusion = find_exclusion(DEVICE, surroundings, wanted_path="/data", shown=where)
        assert exclusion is not None
        assert exclusion.reason is Reason.MANAGED_BY_CSI or surroundings.mounts == (view,)


def test_pod_that_has_our_raw_device_excludes_nothing_while_it_is_wanted_raw() -> None:
    """To hold a filesystem, it is not taken from the pod; nor is a filesystem at that place its node."""
    assert find_exclusion(DEVICE, stack(NODE), shown=Shown(frozenset({DEVICES}), is_raw=True)) is None
    for surroundings, shown in (
        (stack(NODE), Shown(frozenset({DEVICES}))),
        (stack(NODE), Shown(frozenset({POD}), is_raw=True)),
        (stack(make_mount(DEVICES)), Shown(frozenset({DEVICES}), is_raw=True)),
    ):
        assert find_exclusion(DEVICE, surroundings, shown=shown) is not None


def test_raw_device_handed_to_someone_is_excluded() -> None:
    """A device node mounted over a file, as container engines do, is somebody's raw device."""
    mount = make_mount("/run/box/dev", DeviceNumber(0, 6), fs_type="devtmpfs", root="/nvme1n1p1")
    exclusion = find_exclusion(PARTITIONED, stack(mount))
    assert exclusion is not None
    assert exclusion.reason is Reason.DEVICE_BUSY


def test_holders_are_named() -> None:
    """A device with something built on it is left alone, and what that is can be read."""
    held = replace(DEVICE, holders=("dm-0", "md7"))
    exclusion = find_exclusion(held, stack())
    assert exclusion is not None
    assert exclusion.reason is Reason.DEVICE_BUSY
    assert "an encrypted volume root (dm-0), another device (md7)" in exclusion.message


def test_holder_of_a_partition_counts() -> None:
    """A held partition is a held disk."""
    (part,) = PARTITIONED.partitions
    held = replace(PARTITIONED, partitions=(replace(part, holders=("dm-0",)),))
    exclusion = find_exclusion(held, stack())
    assert exclusion is not None
    assert exclusion.reason is Reason.DEVICE_BUSY


def test_loop_device_on_the_disk_counts() -> None:
    """A loop device holds what it stands on, which sysfs lists nowhere as a holder."""
    exclusion = find_exclusion(DEVICE, stack(loops={DISK: "loop3"}))
    assert exclusion is not None
    assert "loop3" in exclusion.message


def test_mount_of_someone_else_is_excluded() -> None:
    """A volume mounted where neither the policy nor a record puts it is in someone else's use."""
    exclusion = find_exclusion(DEVICE, stack(make_mount("/mnt/theirs")), wanted_path="/data")
    assert exclusion is not None
    assert exclusion.reason is Reason.DEVICE_BUSY
    assert "/mnt/theirs" in exclusion.message


def make_record(**fields: object) -> MountRecord:
    return replace(MountRecord(VOLUME, "/old", DISK, "boot-1", 9), **fields)  # type: ignore[arg-type]


def test_mount_of_our_own_is_not_excluded() -> None:
    """A mount at the wanted path, or where the agent noted that it mounted, is the agent's; its views too."""
    elsewhere = make_mount("/home/view", mount_id=2)
    assert find_exclusion(DEVICE, stack(make_mount("/data"), elsewhere), wanted_path="/data") is None
    assert (
        find_exclusion(
            DEVICE,
            stack(make_mount("/old"), elsewhere),
            records=[make_record()],
            boot_id="boot-1",
            wanted_path="/data",
        )
        is None
    )


@pytest.mark.parametrize(
    "record",
    [
        make_record(boot_id="boot-0"),
        make_record(diskseq=8),
        make_record(path="/older"),
        make_record(volume_id=parse_volume_id("vol-0a1b2c3d")),
    ],
)
def test_record_of_another_time_or_volume_proves_nothing(record: MountRecord) -> None:
    """A note from before a reboot, of an earlier attachment or another volume does not make a mount ours."""
    exclusion = find_exclusion(DEVICE, stack(make_mount("/old")), records=[record], boot_id="boot-1")
    assert exclusion is not None
    assert exclusion.reason is Reason.DEVICE_BUSY


def test_member_of_a_mounted_btrfs_is_excluded() -> None:
    """A btrfs mount shows an invented number; a member is known from the kernel's list all the same."""
    pool = frozenset({DISK, OTHER})
    exclusion = find_exclusion(DEVICE, stack(pools=(pool,)))
    assert exclusion is not None
    assert exclusion.reason is Reason.DEVICE_BUSY
    ours = make_mount("/data", DeviceNumber(0, 40), fs_type="btrfs")
    surroundings = stack(ours, pools=(frozenset({DISK}),), sources={1: frozenset({DISK})})
    assert find_exclusion(DEVICE, surroundings, wanted_path="/data") is None


@pytest.mark.parametrize("path", ["/data/noted", "/data/wanted"])
def test_part_of_it_at_our_path_makes_no_mount_ours(path: str) -> None:
    """A directory of somebody's mount, bound to where the agent had or wants it, is as little the agent's."""
    note = MountRecord(VOLUME, "/data/noted", DISK, "boot", DEVICE.diskseq)
    theirs, part = make_mount("/srv/theirs"), make_mount(path, mount_id=2, root="/directory")
    found = find_exclusion(
        DEVICE, stack(theirs, part), records=(note,), boot_id="boot", wanted_path="/data/wanted"
    )
    assert found is not None
    assert found.reason is Reason.DEVICE_BUSY
