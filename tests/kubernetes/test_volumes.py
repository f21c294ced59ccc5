"""Volumes as pods have them: mounted, raw, read-only, shared, grown."""

from __future__ import annotations

from tests.kubernetes.api import Object
from tests.kubernetes.control_plane import NODE_NAME
from tests.kubernetes.manifests import DRIVER, Use
from tests.kubernetes.node import KUBELET_ROOT, MOVED_ROOT
from tests.kubernetes.workloads import MIB, Workloads
from tests.waiting import wait_until

GROWN_BYTES = 192 * MIB


def test_driver_is_registered_by_the_daemon_itself(workloads: Workloads) -> None:
    """Kubelet knows the driver without a pod or a sidecar, and by which ID the node is known to EBS."""
    found = workloads.api.wait("CSINode", NODE_NAME, list_drivers, "was to have a driver")
    (driver,) = [each for each in found["spec"]["drivers"] if each["name"] == DRIVER]
    assert driver["nodeID"]


def test_blank_volume_is_formatted_and_its_data_outlives_pods(workloads: Workloads) -> None:
    """What one pod writes the next one reads, and between them nothing of the volume stays mounted."""
    claim = workloads.add_volume()
    pod = workloads.start_pod(Use(claim.name))
    workloads.run_in(pod, "echo precious > /data/file")
    mounts = workloads.find_mounts(claim)
    assert len(mounts) == 2, "one where it is staged, and one for the pod"
    assert all(mount.startswith(f"{MOVED_ROOT}/") for mount in mounts), KUBELET_ROOT
    workloads.end_pod(pod)
    workloads.wait_unstaged(claim)
    workloads.run_pod('test "$(cat /data/file)" = precious', Use(claim.name))
    formatted = workloads.node.agent.read_events("volume.formatted")
    assert [event["volume_id"] for event in formatted].count(claim.volume_id) == 1


def test_xfs_with_mount_options(workloads: Workloads) -> None:
    """The filesystem and the options that a persistent volume names are what the pod gets."""
    claim = workloads.add_volume(320 * MIB, fs_type="xfs", mount_options=["noatime"])
    pod = workloads.start_pod(Use(claim.name))
    line = workloads.run_in(pod, "grep ' /data ' /proc/mounts").split()
    assert line[2] == "xfs"
    assert "noatime" in line[3].split(",")


def test_raw_block_volume(workloads: Workloads) -> None:
    """A block volume is a device in the pod, and nobody has written anything to it but the pod."""
    claim = workloads.add_volume(is_block=True)
    use = Use(claim.name, "/dev/raw", is_block=True)
    workloads.run_pod(
        "test -b /dev/raw; cmp -n 1048576 /dev/raw /dev/zero;"
        " printf precious | dd of=/dev/raw bs=8 count=1 conv=fsync",
        use,
    )
    workloads.run_pod('test "$(dd if=/dev/raw bs=8 count=1)" = precious', use)
    assert workloads.find_mounts(claim) == []


def test_read_only(workloads: Workloads) -> None:
    """A pod that claims a volume to read cannot write to it, and one that claims it to write can."""
    claim = workloads.add_volume()
    workloads.run_pod("echo precious > /data/file", Use(claim.name))
    workloads.run_pod(
        'test "$(cat /data/file)" = precious; ! touch /data/another', Use(claim.name, is_read_only=True)
    )
    workloads.run_pod("echo more >> /data/file", Use(claim.name))


def test_sub_paths_of_one_volume(workloads: Workloads) -> None:
    """A container sees directories of a volume at paths of their own, and the volume goes when it ends."""
    claim = workloads.add_volume()
    uses = [Use(claim.name, f"/{name}", sub_path=name) for name in ("one", "two")]
    workloads.run_pod("echo 1 > /one/file; echo 2 > /two/file", *uses)
    workloads.run_pod('test "$(cat /data/one/file /data/two/file | tr -d "\\n")" = 12', Use(claim.name))
    workloads.wait_unstaged(claim)


def test_two_pods_at_once(workloads: Workloads) -> None:
    """Pods of one node share a volume, and it stays for the other when one of them ends."""
    claim = workloads.add_volume()
    first, second = (workloads.add_pod(Use(claim.name)) for _ in range(2))
    for pod in (first, second):
        workloads.wait_running(pod)
    workloads.run_in(first, "echo precious > /data/file")
    assert workloads.run_in(second, "cat /data/file") == "precious\n"
    workloads.end_pod(first)
    workloads.run_in(second, "echo more >> /data/file; sync /data/file")
    wait_until(lambda: len(workloads.find_mounts(claim)) == 2, "only one pod was to have it", 240)
    assert workloads.run_in(second, "cat /data/file") == "precious\nmore\n"


def test_volume_for_one_pod_only(workloads: Workloads) -> None:
    """Of two pods that claim a ReadWriteOncePod volume the second runs when the first has ended."""
    claim = workloads.add_volume(access="ReadWriteOncePod")
    first = workloads.start_pod(Use(claim.name))
    second = workloads.add_pod(Use(claim.name))
    workloads.api.wait("Pod", second, is_refused_by_scheduler, "was to wait for the volume")
    workloads.run_in(first, "echo precious > /data/file")
    workloads.end_pod(first)
    workloads.wait_running(second)
    assert workloads.run_in(second, "cat /data/file") == "precious\n"


def test_group_of_a_pod_owns_its_volume(workloads: Workloads) -> None:
    """A pod that is not root writes to a volume by its fsGroup, which kubelet gives the files."""
    claim = workloads.add_volume()
    workloads.run_pod(
        'touch /data/file; test "$(stat -c %g /data)" = 2000; test "$(stat -c %g /data/file)" = 2000',
        Use(claim.name),
        user=1000,
        fs_group=2000,
    )


def test_volume_grows_while_a_pod_uses_it(workloads: Workloads) -> None:
    """When EBS has grown a volume the pod has the space, and the claim says so, without a restart."""
    claim = workloads.add_volume()
    pod = workloads.start_pod(Use(claim.name))
    workloads.run_in(pod, "echo precious > /data/file")
    workloads.node.ebs.grow(claim.volume_id, GROWN_BYTES)
    workloads.resize(claim, GROWN_BYTES)
    size = "df -k /data | awk 'END { print $2 }'"
    wait_until(lambda: int(workloads.run_in(pod, size)) > 150 << 10, "the filesystem was to grow", 240)
    workloads.api.wait(
        "PersistentVolumeClaim",
        claim.name,
        lambda found: found["status"]["capacity"]["storage"] == str(GROWN_BYTES),
        "was to have grown",
    )
    assert workloads.run_in(pod, "cat /data/file") == "precious\n"


def list_drivers(node: Object) -> list[str]:
    return [driver["name"] for driver in node["spec"].get("drivers") or ()]


def is_refused_by_scheduler(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(each.get("reason") == "Unschedulable" for each in conditions)
