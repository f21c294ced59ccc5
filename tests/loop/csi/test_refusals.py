"""What kubelet is refused, and that nothing was done then."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from grpclib.const import Status

from agent.csi.wire import csi_pb2
from agent.node.kernel.mountinfo import read_mounts
from tests.agent_process import MIB, AgentProcess, Scratch
from tests.corpus.filesystems import make_ext4_with_file
from tests.corpus.tools import digest, run
from tests.csi.kubelet import Kubelet
from tests.csi.places import Claim
from tests.loop.csi.refusals import refuse
from tests.loop.csi.views import find_mount, find_mounts
from tests.loop.test_unsafe_to_write import make_dirty
from tests.mount_namespaces import keep_mounts
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef0"
OTHER = "vol-0123456789abcdef1"


def write_secret(image: Path) -> None:
    """Fill a volume with what has no signature."""
    os.truncate(image, 128 * MIB)
    with image.open("r+b") as file:
        file.seek(100 * MIB)
        file.write(b"application data")


def make_filesystem(image: Path) -> None:
    os.truncate(image, 128 * MIB)
    make_ext4_with_file(image)


def make_blank(image: Path) -> None:
    os.truncate(image, 128 * MIB)


@pytest.mark.parametrize(
    ("fill", "attributes"),
    [
        (write_secret, {}),
        (make_blank, {"ebs-agent/source": "snapshot"}),
        (make_blank, {"ebs-agent/format": "never"}),
        (make_filesystem, {"partition": "1"}),
    ],
    ids=["data without a signature", "blank copy", "not to be formatted", "no such partition"],
)
def test_volume_that_is_not_proven_its_to_format_is_refused(
    scratch: Scratch, kubelet: Kubelet, fill: Callable[[Path], object], attributes: dict[str, str]
) -> None:
    """Not one byte of it changes, nothing is mounted, and kubelet removes its directory."""
    image = scratch.put_volume(VOLUME, fill)
    before = digest(image)
    claim = Claim(VOLUME, attributes=attributes)
    refusal = refuse(kubelet.stage, claim)
    assert refusal.is_final
    assert VOLUME in refusal.message
    assert not kubelet.places.staging(claim).exists()
    assert digest(image) == before


@pytest.mark.parametrize("fs_type", ["ext4", "xfs"])
def test_dirty_copy_is_read_without_a_byte_changed(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet, fs_type: str
) -> None:
    """A volume to be read only is not even given its journal back."""
    image = scratch.put_volume(VOLUME, lambda image: make_dirty(image, fs_type))
    before = digest(image)
    claim = Claim(
        VOLUME, fs_type=fs_type, access="SINGLE_NODE_READER_ONLY", attributes={"ebs-agent/source": "snapshot"}
    )
    kubelet.stage(claim)
    target = kubelet.publish(claim)
    with pytest.raises(OSError, match="Read-only"):
        (target / "other").write_text("written")
    kubelet.unpublish(claim)
    kubelet.unstage(claim)
    agent.stop()
    assert digest(image) == before


def test_nothing_is_published_of_what_is_not_staged(scratch: Scratch, kubelet: Kubelet) -> None:
    """Neither before it was staged nor after it was taken back; and nothing is left at the target."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    assert refuse(kubelet.publish, claim).status is Status.FAILED_PRECONDITION
    kubelet.stage(claim)
    kubelet.unstage(claim)
    kubelet.places.make_staging(claim)
    assert refuse(kubelet.publish, claim).status is Status.FAILED_PRECONDITION
    assert not kubelet.places.target(claim, "pod").exists()


def test_volume_is_published_from_where_it_is_staged_only(scratch: Scratch, kubelet: Kubelet) -> None:
    """Another volume's staging directory does not do, whatever the call says it is."""
    for volume in (VOLUME, OTHER):
        scratch.add_volume(volume)
        kubelet.stage(Claim(volume))
    target = kubelet.places.make_target_parent(Claim(VOLUME), "pod")
    request = csi_pb2.NodePublishVolumeRequest(
        volume_id=VOLUME,
        staging_target_path=str(kubelet.places.staging(Claim(OTHER))),
        target_path=str(target),
        volume_capability=Claim(VOLUME).capability,
    )
    assert refuse(kubelet.ask, "NodePublishVolume", request).status is Status.FAILED_PRECONDITION
    assert find_mounts(target) == []


def test_another_mount_at_the_staging_directory_is_not_published(scratch: Scratch, kubelet: Kubelet) -> None:
    """What covers the staged filesystem, or is there in its place, is not what a pod asked for."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    staging = kubelet.stage(claim)
    run("mount", "-t", "tmpfs", "tmpfs", staging)
    assert refuse(kubelet.publish, claim).message
    assert find_mounts(kubelet.places.target(claim, "pod")) == []
    run("umount", staging)
    kubelet.publish(claim)


def shut_down(staging: Path) -> None:
    run("xfs_io", "-x", "-c", "shutdown", staging)


def make_read_only_by_error(staging: Path) -> None:
    name = Path(find_mount(staging).source).name
    Path("/sys/fs/ext4", name, "trigger_fs_error").write_text("for the test")


@pytest.mark.parametrize(("fs_type", "end"), [("xfs", shut_down), ("ext4", make_read_only_by_error)])
def test_dead_filesystem_is_not_published_and_can_be_taken_back(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet, fs_type: str, end: Callable[[Path], None]
) -> None:
    """A pod is not given a filesystem that an error has ended; unstaged and staged anew it lives."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME, fs_type=fs_type)
    staging = kubelet.stage(claim)
    target = kubelet.publish(claim)
    end(staging)
    refuse(kubelet.publish, claim, "another")
    kubelet.unpublish(claim)
    kubelet.unstage(claim)
    assert find_mounts(staging) == find_mounts(target) == []
    kubelet.stage(claim)
    (kubelet.publish(claim) / "file").write_text("written")
    agent.wait_condition(VOLUME, "Ready")


def test_filesystem_in_use_is_not_unstaged(scratch: Scratch, kubelet: Kubelet) -> None:
    """While a pod has it, or somebody a file of it, it stays; and then it goes."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    staging = kubelet.stage(claim)
    target = kubelet.publish(claim)
    assert str(target) in refuse(kubelet.unstage, claim).message
    kubelet.unpublish(claim)
    with (staging / "file").open("w"):
        refuse(kubelet.unstage, claim)
    kubelet.unstage(claim)


def test_filesystem_of_another_namespace_is_not_unstaged(scratch: Scratch, kubelet: Kubelet) -> None:
    """A mount of it that nobody here sees keeps the device: it is not called free before that is gone."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    kubelet.stage(claim)
    with keep_mounts(scratch.base):
        refuse(kubelet.unstage, claim)
    kubelet.unstage(claim)


def test_container_that_is_being_started_keeps_nothing(scratch: Scratch, kubelet: Kubelet) -> None:
    """It has a copy of the node's mounts until it has its own: what goes soon is waited for."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    kubelet.stage(claim)
    with keep_mounts(scratch.base, for_s=3):
        kubelet.unstage(claim)


def test_pulled_volume_is_unstaged(scratch: Scratch, agent: AgentProcess, kubelet: Kubelet) -> None:
    """A volume that was detached beneath its pod is taken back all the same, to the last mount."""
    image = scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    staging = kubelet.stage(claim)
    target = kubelet.publish(claim)
    image.unlink()
    wait_until(lambda: agent.status(VOLUME).get("condition") != "Ready", "it was missed")
    kubelet.unpublish(claim)
    kubelet.unstage(claim)
    assert find_mounts(staging) == find_mounts(target) == []


def test_policy_and_claim_do_not_share_a_volume(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet, write_policy: Callable[..., None]
) -> None:
    """A volume that a policy entry has mounted is refused to kubelet, which is told of the entry."""
    path = scratch.data / "ckpt"
    write_policy(
        {
            "name": "ckpt",
            "match": {"volume_id": VOLUME},
            "filesystem": {"type": "ext4", "format": "if-blank"},
            "mount": {"path": str(path)},
        }
    )
    agent.reload()
    scratch.add_volume(VOLUME)
    wait_until(path.is_mount, "the policy's mount is there")
    refusal = refuse(kubelet.stage, Claim(VOLUME))
    assert refusal.is_final
    assert "ckpt" in refusal.message
    assert path.is_mount()
    assert find_mounts(kubelet.places.staging(Claim(VOLUME))) == []


def test_entry_for_a_volume_that_pods_have_takes_nothing_from_them(
    scratch: Scratch, agent: AgentProcess, kubelet: Kubelet, write_policy: Callable[..., None]
) -> None:
    """Its pods keep it, the entry gets nothing of it, the board says why; and kubelet can give it back."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    staging = kubelet.stage(claim)
    target = kubelet.publish(claim)
    path = scratch.data / "ckpt"
    write_policy(
        {
            "name": "ckpt",
            "match": {"volume_id": VOLUME},
            "filesystem": {"type": "ext4"},
            "mount": {"path": str(path)},
        }
    )
    agent.reload()
    message = agent.wait_condition(VOLUME, "Refused", "SeveralEntries")["message"]
    assert "'ckpt'" in message
    (target / "file").write_text("written")
    assert not path.is_mount()
    kubelet.unpublish(claim)
    kubelet.unstage(claim)
    assert find_mounts(staging) == []
    agent.wait_condition(VOLUME, "Ready")
    assert (path / "file").read_text() == "written"


def stage_request(kubelet: Kubelet, **fields: Any) -> csi_pb2.NodeStageVolumeRequest:
    """Return kubelet's request with some fields as no kubelet would fill them."""
    claim = Claim(VOLUME)
    usual = {
        "volume_id": VOLUME,
        "staging_target_path": str(kubelet.places.make_staging(claim)),
        "volume_capability": claim.capability,
    }
    return csi_pb2.NodeStageVolumeRequest(**{**usual, **fields})


INJECTIONS: dict[str, Callable[[Kubelet], dict[str, Any]]] = {
    "an ID that is a path": lambda _: {"volume_id": "../../etc"},
    "an ID with a line's end": lambda _: {"volume_id": f"{VOLUME}\n"},
    "an ID with an option": lambda _: {"volume_id": "--help"},
    "a relative path": lambda _: {"staging_target_path": "plugins/kubernetes.io/csi/x/globalmount"},
    "a path that climbs": lambda kubelet: {
        "staging_target_path": f"{kubelet.places.staging(Claim(VOLUME))}/../../../../../../../../data"
    },
    "a path that is not kubelet's": lambda kubelet: {
        "staging_target_path": str(kubelet.places.root.parent / "data")
    },
    "kubelet's root": lambda kubelet: {"staging_target_path": str(kubelet.places.root)},
    "a path with a line's end": lambda kubelet: {
        "staging_target_path": f"{kubelet.places.staging(Claim(VOLUME))}\n"
    },
    "a flag that is two": lambda _: {
        "volume_capability": Claim(VOLUME, mount_options=("noatime,suid",)).capability
    },
    "a flag that mounts elsewhere": lambda _: {
        "volume_capability": Claim(VOLUME, mount_options=("bind",)).capability
    },
    "a filesystem of another world": lambda _: {
        "volume_capability": Claim(VOLUME, fs_type="ntfs").capability
    },
    "a block size that is an option": lambda _: {"volume_context": {"blocksize": "1024 -F"}},
    "a partition that is a path": lambda _: {"volume_context": {"partition": "../1"}},
    "an attribute of ours that is none": lambda _: {"volume_context": {"ebs-agent/fromat": "never"}},
}


def list_mounts(scratch: Scratch) -> set[str]:
    """Return where anything is mounted, but for what other tests mount below directories of theirs."""
    others, ours = f"{tempfile.gettempdir()}/", f"{scratch.base}/"
    paths = {mount.path for mount in read_mounts()}
    return {path for path in paths if path.startswith(ours) or not path.startswith(others)}


def test_what_no_kubelet_asks_is_invalid(
    scratch: Scratch, kubelet: Kubelet, subtests: pytest.Subtests
) -> None:
    """It is refused before anything is looked at, and the volume is as it was."""
    image = scratch.add_volume(VOLUME)
    before = digest(image)
    mounts = list_mounts(scratch)
    for name, inject in INJECTIONS.items():
        with subtests.test(msg=name):
            request = stage_request(kubelet, **inject(kubelet))
            assert refuse(kubelet.ask, "NodeStageVolume", request).status is Status.INVALID_ARGUMENT
    assert list_mounts(scratch) == mounts
    assert digest(image) == before


@pytest.mark.parametrize("depth", ["the directory", "a parent of it"])
def test_links_lead_nowhere(scratch: Scratch, kubelet: Kubelet, depth: str) -> None:
    """A link below kubelet's root is not followed: whoever can make one there does not choose a mount."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    staging = kubelet.places.make_staging(claim)
    elsewhere = scratch.data / "elsewhere"
    (elsewhere / "globalmount").mkdir(parents=True)
    moved = staging if depth == "the directory" else staging.parent
    moved.rename(scratch.base / "moved")
    moved.symlink_to(elsewhere / "globalmount" if depth == "the directory" else elsewhere)
    request = csi_pb2.NodeStageVolumeRequest(
        volume_id=VOLUME, staging_target_path=str(staging), volume_capability=claim.capability
    )
    assert refuse(kubelet.ask, "NodeStageVolume", request).is_final
    assert [mount for mount in read_mounts() if mount.path.startswith(str(elsewhere))] == []


def test_target_that_holds_something_is_not_removed(scratch: Scratch, kubelet: Kubelet) -> None:
    """A directory at the target that is no mount of the volume is not emptied, nor covered by guess."""
    scratch.add_volume(VOLUME)
    claim = Claim(VOLUME)
    kubelet.stage(claim)
    target = kubelet.places.make_target_parent(claim, "pod")
    target.mkdir()
    (target / "precious").write_text("somebody's")
    with contextlib.suppress(Exception):
        kubelet.unpublish(claim)
    assert (target / "precious").read_text() == "somebody's"


def test_target_of_another_volume_is_not_unmounted(scratch: Scratch, kubelet: Kubelet) -> None:
    """A call that names the wrong volume leaves the right one's pod its view."""
    for volume in (VOLUME, OTHER):
        scratch.add_volume(volume)
        kubelet.stage(Claim(volume))
    target = kubelet.publish(Claim(OTHER))
    request = csi_pb2.NodeUnpublishVolumeRequest(volume_id=VOLUME, target_path=str(target))
    refuse(kubelet.ask, "NodeUnpublishVolume", request)
    assert len(find_mounts(target)) == 1
