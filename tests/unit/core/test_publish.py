"""What is planned so that pods see a volume, and kubelet takes it back: every refusal by its reason."""

from __future__ import annotations

import pytest

from agent.core.model import (
    Device,
    DeviceNumber,
    Exclusion,
    FsType,
    Identity,
    Mount,
    Observed,
    Origin,
    RawRecord,
    Reason,
    RootInode,
    VolumeId,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
    WantedView,
)
from agent.core.plan import make_plan, plan_publish, plan_unstage
from agent.core.replace import replace
from agent.core.steps import MoveMount, Publish, PublishNode, Unmount
from tests.fakes.world import EXT4

VOLUME = VolumeId("vol-0123456789abcdef0")
NUMBER = DeviceNumber(259, 3)
DEVICE = Device(
    "/dev/nvme1n1", NUMBER, Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0"), 10 << 30
)
STAGING = "/opt/sagemaker/kubelet/plugins/kubernetes.io/csi/d/hash/globalmount"
TARGET = "/opt/sagemaker/kubelet/pods/u/volumes/kubernetes.io~csi/pv/mount"
STAGED = Mount(
    50,
    20,
    NUMBER,
    "/",
    STAGING,
    frozenset({"rw", "relatime", "noexec"}),
    "ext4",
    "/dev/nvme1n1",
    frozenset({"rw"}),
)
VIEW = replace(STAGED, mount_id=51, path=TARGET)
WANTED = Wanted(
    VOLUME,
    VOLUME,
    filesystem=WantedFilesystem(FsType.EXT4),
    mount=WantedMount(STAGING),
    grow=True,
    is_kubelets=True,
)
RAW = Wanted(VOLUME, VOLUME, block=WantedBlock(), is_kubelets=True)
AS_STAGED = Observed(VOLUME, device=DEVICE, content=EXT4, mounts=(STAGED,))
HANDED_OUT = Observed(VOLUME, device=DEVICE, raw=RawRecord(VOLUME, "boot", 1, RootInode(0, 6, 0o660)))
NODE = replace(
    STAGED, mount_id=60, path=TARGET, device_number=DeviceNumber(0, 6), fs_type="devtmpfs", root="/nvme1n1"
)
WRITABLE = WantedView(TARGET)
READ_ONLY = WantedView(TARGET, is_read_only=True)
DEAD = replace(STAGED, super_options=frozenset({"rw", "shutdown"}))
FAILED = replace(STAGED, super_options=frozenset({"ro"}))
STAGED_RO = replace(STAGED, options=frozenset({"ro"}), super_options=frozenset({"ro"}))


def test_view_has_the_flags_of_both() -> None:
    """What the volume is staged with holds for the pod, and so does what it is published with."""
    view = replace(READ_ONLY, options=("noatime", "data=ordered"))
    assert plan_publish(AS_STAGED, WANTED, view).steps == (
        Publish(STAGED, TARGET, ("noatime", "noexec", "ro")),
    )
    assert plan_publish(HANDED_OUT, RAW, READ_ONLY).steps == (PublishNode(TARGET, is_read_only=True),)


@pytest.mark.parametrize(
    ("observed", "wanted", "view"),
    [
        (replace(AS_STAGED, mounts=(STAGED, VIEW), views=(VIEW,)), WANTED, WRITABLE),
        (replace(HANDED_OUT, views=(NODE,)), RAW, WRITABLE),
        (
            replace(
                AS_STAGED, views=(replace(VIEW, options=frozenset({"ro"}), super_options=frozenset({"rw"})),)
            ),
            WANTED,
            READ_ONLY,
        ),
    ],
)
def test_what_is_published_already_is_done(observed: Observed, wanted: Wanted, view: WantedView) -> None:
    """Kubelet asks again after each of its restarts."""
    plan = plan_publish(observed, wanted, view)
    assert plan.steps == ()


@pytest.mark.parametrize(
    ("observed", "wanted", "view", "reason"),
    [
        (Observed(VOLUME), WANTED, WRITABLE, Reason.NOT_ATTACHED),
        (replace(AS_STAGED, mounts=()), WANTED, WRITABLE, Reason.NOT_STAGED),
        (replace(AS_STAGED, mounts=(VIEW,)), WANTED, WRITABLE, Reason.NOT_STAGED),
        (replace(AS_STAGED, is_hidden=True, obstacle="a tmpfs"), WANTED, WRITABLE, Reason.PATH_IN_USE),
        (replace(AS_STAGED, mounts=(DEAD,)), WANTED, WRITABLE, Reason.SHUT_DOWN),
        (replace(AS_STAGED, mounts=(DEAD,)), WANTED, READ_ONLY, Reason.SHUT_DOWN),
        (replace(AS_STAGED, mounts=(FAILED,)), WANTED, WRITABLE, Reason.READ_ONLY),
        (replace(AS_STAGED, mounts=(STAGED_RO,)), WANTED, WRITABLE, Reason.READ_ONLY),
        (replace(AS_STAGED, views=(VIEW,)), WANTED, READ_ONLY, Reason.PATH_IN_USE),
        (replace(AS_STAGED, views=(replace(VIEW, root="/sub"),)), WANTED, WRITABLE, Reason.PATH_IN_USE),
        (
            replace(AS_STAGED, exclusion=Exclusion(Reason.MANAGED_BY_CSI, "Another driver has it.")),
            WANTED,
            WRITABLE,
            Reason.MANAGED_BY_CSI,
        ),
        (replace(HANDED_OUT, raw=None), RAW, WRITABLE, Reason.NOT_STAGED),
        (replace(HANDED_OUT, mounted_at="at /data"), RAW, WRITABLE, Reason.NOT_STAGED),
        (replace(HANDED_OUT, views=(VIEW,)), RAW, WRITABLE, Reason.PATH_IN_USE),
    ],
)
def test_hard_answers_of_publish(
    observed: Observed, wanted: Wanted, view: WantedView, reason: Reason
) -> None:
    """Nothing is shown to a pod but the volume that is staged, as it is asked for."""
    plan = plan_publish(observed, wanted, view)
    assert plan.actions == ()
    assert plan.ending is not None
    assert plan.ending.reason is reason


def test_unstaging_ends_when_nothing_of_the_volume_is_mounted() -> None:
    """A view that stays keeps it; then it is unmounted, twice where it is there twice, and done."""
    published = replace(AS_STAGED, mounts=(STAGED, VIEW), views=(VIEW,))
    refused = plan_unstage(published, STAGING)
    assert refused.actions == ()
    assert refused.ending is not None
    assert refused.ending.reason is Reason.DEVICE_BUSY
    assert TARGET in refused.ending.message
    assert plan_unstage(replace(published, going=(VIEW,)), STAGING).actions == (Unmount(STAGED),)
    twice = replace(STAGED, mount_id=52)
    assert plan_unstage(replace(AS_STAGED, mounts=(STAGED, twice)), STAGING).actions == (
        Unmount(STAGED),
        Unmount(twice),
    )
    assert plan_unstage(replace(AS_STAGED, mounts=()), STAGING).steps == ()


def test_unstaging_a_volume_that_is_gone_takes_its_stale_mount_away() -> None:
    """Nothing else is left of it."""
    gone = Observed(VOLUME, stale_mounts=(STAGED,))
    assert plan_unstage(gone, STAGING).steps == (Unmount(STAGED, is_stale=True),)
    assert plan_unstage(Observed(VOLUME), STAGING).steps == ()


def test_unstaging_leaves_alone_what_others_have() -> None:
    """Where the mount is another driver's, nothing of the agent's is there to be taken away."""
    others = replace(AS_STAGED, exclusion=Exclusion(Reason.MANAGED_BY_CSI, "Another driver has it."))
    assert plan_unstage(others, STAGING).steps == ()


def test_kubelets_volume_is_never_moved() -> None:
    """A mount elsewhere may be a pod's; the policy's would be taken to its path."""
    observed = replace(AS_STAGED, mounts=(VIEW,), views=(VIEW,))
    plan = make_plan(observed, WANTED)
    assert not any(isinstance(step, (MoveMount, Unmount)) for step in plan.steps)
    assert plan.ending is not None
    assert plan.ending.reason is Reason.DEVICE_BUSY


def test_tags_of_the_csi_driver_exclude_nothing_that_kubelet_asks_for() -> None:
    """They say that it is Kubernetes', which asks; for the policy it stays Kubernetes' own."""
    tagged = replace(AS_STAGED, origin=Origin(tags=(("ebs.csi.aws.com/cluster", "true"),)))
    assert make_plan(tagged, WANTED).ending is None
    refused = make_plan(tagged, replace(WANTED, is_kubelets=False)).ending
    assert refused is not None
    assert refused.reason is Reason.MANAGED_BY_CSI


def test_nothing_is_done_before_kubelet_has_made_its_directory() -> None:
    """A blank volume is not formatted for a pod that is gone."""
    observed = Observed(VOLUME, device=DEVICE, is_place_missing=True, links=frozenset({f"by-id/{VOLUME}"}))
    plan = make_plan(observed, WANTED)
    assert plan.actions == ()
    assert plan.ending is not None
    assert plan.ending.reason is Reason.NOT_STAGED


@pytest.mark.parametrize("found", [None, 2])
def test_filesystem_of_another_partition_is_not_the_one_meant(found: int | None) -> None:
    """The volume says which partition; what is elsewhere on it is not used in its place."""
    filesystem = replace(WantedFilesystem(FsType.EXT4), partition=1)
    observed = Observed(VOLUME, device=DEVICE, content=replace(EXT4, partition=found))
    plan = make_plan(observed, replace(WANTED, filesystem=filesystem))
    assert plan.ending is not None
    assert plan.ending.reason is Reason.FILESYSTEM_MISMATCH


PATH = "/data/cache"
HERE = replace(STAGED, path=PATH)
OF_POLICY = Wanted(
    VOLUME, "cache", filesystem=WantedFilesystem(FsType.EXT4), mount=WantedMount(PATH, ("noexec",))
)
SHOWN = Observed(VOLUME, device=DEVICE, content=EXT4, mounts=(HERE, VIEW), views=(VIEW,), shown=(VIEW,))


@pytest.mark.parametrize(
    ("mount", "reader", "writer"),
    [
        (replace(HERE, super_options=frozenset({"ro"})), None, Reason.READ_ONLY),
        (replace(HERE, options=frozenset({"ro"}), super_options=frozenset({"ro"})), None, Reason.READ_ONLY),
        (replace(HERE, super_options=frozenset({"rw", "shutdown"})), Reason.SHUT_DOWN, Reason.SHUT_DOWN),
        (replace(HERE, path="/data/else"), Reason.NOT_STAGED, Reason.NOT_STAGED),
        (HERE, None, None),
    ],
)
def test_volume_of_the_policy_is_shown_as_it_is(
    mount: Mount, reader: Reason | None, writer: Reason | None
) -> None:
    """What can only be read is shown to who reads; it is not staged anew, which would mend it."""
    observed = replace(SHOWN, mounts=(mount,), views=(), shown=())
    for view, reason in ((READ_ONLY, reader), (WRITABLE, writer)):
        plan = plan_publish(observed, OF_POLICY, view)
        if reason is None:
            assert [type(step) for step in plan.steps] == [Publish]
        else:
            assert plan.ending is not None
            assert plan.ending.reason is reason
            assert "stage" not in f"{plan.ending.message} {plan.ending.hint}"


@pytest.mark.parametrize(
    "wanted",
    [
        replace(OF_POLICY, mount=WantedMount(f"{PATH}/within")),
        replace(OF_POLICY, mount=WantedMount("/data")),
        Wanted(VOLUME, "cache", block=WantedBlock()),
    ],
    ids=["within", "above", "raw"],
)
def test_nothing_is_unmounted_for_the_policy_that_pods_have(wanted: Wanted) -> None:
    """Unmounted it would be mounted still, for them, and be checked or handed out beneath them."""
    observed = replace(SHOWN, mounted_at=f"at {PATH}" if wanted.block else None)
    plan = make_plan(observed, wanted)
    assert not any(isinstance(step, (MoveMount, Unmount)) for step in plan.steps)
    alone = replace(observed, mounts=(HERE,), views=(), shown=())
    assert any(isinstance(step, Unmount) for step in make_plan(alone, wanted).steps)


def test_filesystem_that_pods_have_is_not_checked_to_be_writable() -> None:
    """A check comes first, for which nobody may have it."""
    read_only = replace(HERE, options=frozenset({"ro"}), super_options=frozenset({"ro"}))
    plan = make_plan(replace(SHOWN, mounts=(read_only, VIEW)), replace(OF_POLICY, mount=WantedMount(PATH)))
    assert not any(isinstance(step, Unmount) for step in plan.steps)
    assert any(TARGET in getattr(step, "message", "") for step in plan.steps)
