"""The planner's rules, one table row each."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from agent.core.model import (
    Blank,
    Checked,
    Condition,
    Content,
    Device,
    DeviceNumber,
    Exclusion,
    Filesystem,
    Foreign,
    FormatRecord,
    FormatRule,
    FormatStage,
    FsType,
    Identity,
    Ids,
    Mount,
    Observed,
    Origin,
    Partition,
    Process,
    RawRecord,
    Reason,
    Relocation,
    RootInode,
    Tuning,
    Unknown,
    Unproven,
    VolumeId,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
    WantedTuning,
)
from agent.core.plan import make_plan, needs_proof
from agent.core.replace import replace
from agent.core.steps import (
    Check,
    Degrade,
    Format,
    GrowFilesystem,
    GrowPartition,
    Link,
    MountFilesystem,
    MoveMount,
    NoteRaw,
    Refuse,
    Remount,
    SetNodeOwnership,
    SetRootOwnership,
    SettleFormat,
    Tune,
    Unmount,
    Wait,
)

GIB = 1024**3
VOLUME = VolumeId("vol-0123456789abcdef0")
NUMBER = DeviceNumber(259, 3)
UUID = "6a6e2f2a-6a0c-4b8e-9d5e-3f8d2f6d1a11"
PATH = "/data/ckpt"

DEVICE = Device(
    path="/dev/nvme1n1",
    device_number=NUMBER,
    identity=Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0", "/dev/sdf"),
    size_bytes=10 * GIB,
    diskseq=7,
)
LINKS = frozenset({f"by-id/{VOLUME}"})
BLANK = Blank(sampled_bytes=1024)
EXT4 = Filesystem(FsType.EXT4, UUID, size_bytes=10 * GIB)
OPTIONS = ("nosuid", "nodev")
WANTED = Wanted(
    VOLUME,
    "checkpoints",
    filesystem=WantedFilesystem(FsType.EXT4, FormatRule.IF_BLANK),
    mount=WantedMount(PATH, OPTIONS),
)
BROAD = replace(WANTED, is_broad=True)
NEVER = replace(WANTED, filesystem=WantedFilesystem(FsType.EXT4))
RAW = Wanted(VOLUME, "rawdb", block=WantedBlock(mode=0o660))
HANDED_OUT = RawRecord(VOLUME, "boot", 7, RootInode(0, 0, 0o600))
RECORD = FormatRecord(VOLUME, UUID, FsType.EXT4, 10 * GIB, FormatStage.INTENDED, "2026-01-01T00:00:00Z")


def mount_of(path: str = PATH, options: str = "rw,nosuid,nodev,relatime", super_options: str = "rw") -> Mount:
    return Mount(
        mount_id=50,
        parent_id=20,
        device_number=NUMBER,
        root="/",
        path=path,
        options=frozenset(options.split(",")),
        fs_type="ext4",
        source=DEVICE.path,
        super_options=frozenset(super_options.split(",")),
    )


def look(content: Content | None = None, **fields: object) -> Observed:
    base = Observed(VOLUME, device=DEVICE, content=content, links=LINKS)
    return replace(base, **fields)  # type: ignore[arg-type]  # field names are the tests' own


MOUNTED = look(EXT4, mounts=(mount_of(),), root_inode=RootInode(0, 0, 0o755))
MOUNT_STEP = MountFilesystem(FsType.EXT4, UUID, PATH, OPTIONS)


def test_blank_volume_is_formatted_then_mounted() -> None:
    """A proven blank volume whose policy allows it is formatted, then mounted."""
    plan = make_plan(look(BLANK), WANTED)
    assert plan.steps == (Format(FsType.EXT4), MountFilesystem(FsType.EXT4, None, PATH, OPTIONS))
    assert plan.condition is Condition.PREPARING


def test_existing_filesystem_is_checked_before_it_is_mounted() -> None:
    """A filesystem of the wanted type is checked, then mounted, never formatted."""
    assert make_plan(look(EXT4), WANTED).steps == (Check(FsType.EXT4), MOUNT_STEP)
    assert make_plan(look(EXT4, checked=Checked(is_clean=True)), WANTED).steps == (MOUNT_STEP,)


def test_mounted_as_wanted_needs_nothing() -> None:
    """Replanning after success yields nothing, and the volume is Ready."""
    plan = make_plan(MOUNTED, WANTED)
    assert (plan.steps, plan.condition) == ((), Condition.READY)


SHARED = replace(DEVICE, identity=replace(DEVICE.identity, is_shared=True))

REFUSALS = [
    ("blank, never format", look(BLANK), NEVER, Reason.FORMAT_NOT_ALLOWED),
    ("foreign signature", look(Foreign("LUKS")), WANTED, Reason.NOT_BLANK),
    ("unsigned data", look(Foreign("data", 200, is_signed=False)), WANTED, Reason.NOT_BLANK),
    ("probe failed", look(Unknown("EIO at 0")), WANTED, Reason.PROBE_FAILED),
    ("never looked at", look(None), WANTED, Reason.PROBE_FAILED),
    ("other filesystem", look(replace(EXT4, type=FsType.XFS)), WANTED, Reason.FILESYSTEM_MISMATCH),
    ("from a snapshot", look(BLANK, origin=Origin(snapshot_id="snap-1")), WANTED, Reason.FROM_SNAPSHOT),
    ("copy of a volume", look(BLANK, origin=Origin(source_volume_id="vol-1")), WANTED, Reason.FROM_SNAPSHOT),
    (
        "from a snapshot, as was said once",
        look(BLANK, origin=Origin(snapshot_id="snap-1"), is_origin_awaited=True),
        WANTED,
        Reason.FROM_SNAPSHOT,
    ),
    (
        "half-made copy of a volume",
        look(
            Foreign("data", 4096, is_signed=False, is_own_remains=True),
            origin=Origin(source_volume_id="vol-1"),
            format_record=RECORD,
        ),
        WANTED,
        Reason.FROM_SNAPSHOT,
    ),
    (
        "CSI driver's, by its tags",
        look(EXT4, origin=Origin(tags=(("ebs.csi.aws.com/cluster", "true"),))),
        WANTED,
        Reason.MANAGED_BY_CSI,
    ),
    (
        "CSI driver's raw volume",
        look(None, origin=Origin(tags=(("CSIVolumeName", "pvc-1"),))),
        RAW,
        Reason.MANAGED_BY_CSI,
    ),
    ("multi-attach bit", look(BLANK, device=SHARED), WANTED, Reason.MULTI_ATTACH),
    ("multi-attach filesystem", look(EXT4, device=SHARED), WANTED, Reason.MULTI_ATTACH),
    ("multi-attach tag", look(EXT4, origin=Origin(is_multi_attach=True)), WANTED, Reason.MULTI_ATTACH),
    (
        "formatted before",
        look(BLANK, format_record=replace(RECORD, stage=FormatStage.DONE)),
        WANTED,
        Reason.ALREADY_FORMATTED,
    ),
    (
        "read-only device",
        look(BLANK, device=replace(DEVICE, is_read_only=True)),
        WANTED,
        Reason.READ_ONLY_DEVICE,
    ),
    (
        "read-only device with data",
        look(EXT4, device=replace(DEVICE, is_read_only=True)),
        WANTED,
        Reason.READ_ONLY_DEVICE,
    ),
    ("path taken", look(EXT4, obstacle="another filesystem"), WANTED, Reason.PATH_IN_USE),
    ("path taken, blank", look(BLANK, obstacle="another filesystem"), WANTED, Reason.PATH_IN_USE),
    (
        "root device",
        look(None, exclusion=Exclusion(Reason.ROOT_DEVICE, "It holds /.")),
        WANTED,
        Reason.ROOT_DEVICE,
    ),
    (
        "root device raw",
        look(None, exclusion=Exclusion(Reason.ROOT_DEVICE, "It holds /.")),
        RAW,
        Reason.ROOT_DEVICE,
    ),
    (
        "interrupted format, signed by another",
        look(Foreign("xfs and ext4"), format_record=RECORD),
        WANTED,
        Reason.NOT_BLANK,
    ),
    (
        "interrupted format, size changed",
        look(BLANK, format_record=replace(RECORD, size_bytes=GIB)),
        WANTED,
        Reason.NOT_BLANK,
    ),
    (
        "interrupted format, type changed",
        look(BLANK, format_record=replace(RECORD, type=FsType.XFS)),
        WANTED,
        Reason.NOT_BLANK,
    ),
]


@pytest.mark.parametrize(
    ("observed", "wanted", "reason"), [row[1:] for row in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_refused_with_its_reason(observed: Observed, wanted: Wanted, reason: Reason) -> None:
    """Where a safety rule applies, no action is planned and the reason is that rule's."""
    plan = make_plan(observed, wanted)
    assert plan.actions == ()
    assert isinstance(plan.ending, Refuse)
    assert (plan.ending.reason, plan.condition) == (reason, Condition.REFUSED)


def test_interrupted_format_is_resumed_with_its_own_uuid() -> None:
    """A blank volume, or one with nothing but our own remains, is formatted again with the same UUID."""
    for content in (BLANK, Foreign("data", 4096, is_signed=False, is_own_remains=True)):
        first = make_plan(look(content, format_record=RECORD), WANTED).steps[0]
        assert first == Format(FsType.EXT4, resume_uuid=UUID)


def test_intent_alone_does_not_make_data_ours() -> None:
    """Unsigned data that the interrupted format does not explain is refused, with the way out."""
    observed = look(Foreign("data", 4096, is_signed=False), format_record=RECORD)
    ending = make_plan(observed, WANTED).ending
    assert isinstance(ending, Refuse)
    assert ending.reason is Reason.NOT_BLANK
    assert f"ebs-agent forget {VOLUME}" in (ending.hint or "")


def test_interrupted_format_that_finished_is_checked_and_settled() -> None:
    """The filesystem of our intent is kept when its check passes: it is noted as made, then mounted."""
    plan = make_plan(look(EXT4, format_record=RECORD, checked=Checked(is_clean=True)), WANTED)
    assert plan.steps == (SettleFormat(UUID), MOUNT_STEP)


def test_damaged_filesystem_of_an_intent_is_remade_only_if_never_mounted() -> None:
    """A half-made filesystem of ours is remade only where its superblock proves that nobody mounted it."""
    damaged = Checked(is_clean=False, detail="bad")
    observed = look(replace(EXT4, is_pristine=True), format_record=RECORD, checked=damaged)
    assert make_plan(observed, WANTED).steps[0] == Format(FsType.EXT4, resume_uuid=UUID)
    for pristine in (False, None):
        observed = look(replace(EXT4, is_pristine=pristine), format_record=RECORD, checked=damaged)
        plan = make_plan(observed, WANTED)
        assert (plan.actions, plan.condition) == ((), Condition.FAILED)


def test_damaged_filesystem_is_failed_and_left_alone() -> None:
    """A filesystem whose check failed is not mounted, and the way to repair it is named."""
    plan = make_plan(look(EXT4, checked=Checked(is_clean=False, detail="bad inode")), WANTED)
    assert isinstance(plan.ending, Wait)
    assert (plan.actions, plan.ending.reason) == ((), Reason.FILESYSTEM_ERRORS)
    assert "e2fsck" in (plan.ending.hint or "")


def test_absent_volume_is_pending_and_lost_if_it_vanished() -> None:
    """A volume never seen is Pending; one that vanished mounted is Lost and its stale mount is detached."""
    absent = Observed(VOLUME)
    assert make_plan(absent, WANTED).condition is Condition.PENDING
    assert make_plan(absent, None).condition is Condition.UNMANAGED
    lost = make_plan(replace(absent, stale_mounts=(mount_of(),)), WANTED)
    assert lost.steps[0] == Unmount(mount_of(), is_stale=True)
    assert lost.condition is Condition.LOST
    assert make_plan(replace(absent, was_lost=True), WANTED).condition is Condition.LOST


def test_unmanaged_volume_only_gets_its_link() -> None:
    """A volume the policy does not name is linked by its ID and otherwise left alone."""
    plan = make_plan(look(None, links=frozenset()), None)
    assert plan.steps == (Link(f"by-id/{VOLUME}"),)
    assert plan.settled is Condition.UNMANAGED


def test_raw_volume_gets_links_and_node_ownership() -> None:
    """A raw volume is linked by ID and name, and its node gets the policy's mode, whatever it holds."""
    observed = look(None, links=frozenset(), node_owner=RootInode(0, 0, 0o600))
    plan = make_plan(observed, RAW)
    assert plan.steps == (
        Link(f"by-id/{VOLUME}"),
        NoteRaw(),
        Link("rawdb"),
        SetNodeOwnership(None, None, 0o660),
    )
    assert plan.next_actions == plan.steps[:2]
    settled = replace(observed, links=LINKS | {"rawdb"}, node_owner=RootInode(0, 0, 0o660), raw=HANDED_OUT)
    assert make_plan(settled, RAW).steps == ()
    busy = replace(settled, exclusion=Exclusion(Reason.DEVICE_BUSY, "LVM is built on it."))
    assert make_plan(busy, RAW).condition is Condition.READY


GROW = replace(WANTED, grow=True)


def test_grows_only_when_allowed_and_by_more_than_slack() -> None:
    """A device bigger than its filesystem by more than tools leave over is grown, under grow: true only."""
    small = replace(MOUNTED, content=replace(EXT4, size_bytes=5 * GIB))
    step = GrowFilesystem(FsType.EXT4, PATH, 5 * GIB, 10 * GIB)
    assert make_plan(small, GROW).steps == (step,)
    assert make_plan(small, WANTED).steps == ()
    nearly = replace(MOUNTED, content=replace(EXT4, size_bytes=10 * GIB - 1024))
    assert make_plan(nearly, GROW).steps == ()


def test_partition_is_grown_before_its_filesystem() -> None:
    """A filesystem on the only partition: the partition first, then the filesystem."""
    partition = Partition(1, "/dev/nvme1n1p1", DeviceNumber(259, 4), 1024**2, 5 * GIB)
    device = replace(DEVICE, partitions=(partition,))
    content = replace(EXT4, partition=1, size_bytes=5 * GIB)
    observed = replace(MOUNTED, device=device, content=content)
    grown = 10 * GIB - 2 * 1024**2
    assert make_plan(observed, GROW).steps == (
        GrowPartition(1, 5 * GIB, grown),
        GrowFilesystem(FsType.EXT4, PATH, 5 * GIB, grown, partition=1),
    )
    # What there is room for already is not left to a partition that may not be able to grow.
    smaller = replace(observed, content=replace(content, size_bytes=3 * GIB))
    assert make_plan(smaller, GROW).steps == (
        GrowFilesystem(FsType.EXT4, PATH, 3 * GIB, 5 * GIB, partition=1),
        GrowPartition(1, 5 * GIB, grown),
        GrowFilesystem(FsType.EXT4, PATH, 5 * GIB, grown, partition=1),
    )
    two = replace(device, partitions=(partition, replace(partition, number=2)))
    assert make_plan(replace(observed, device=two), GROW).steps == ()


def test_growth_comes_after_all_else() -> None:
    """One that is refused, as beyond an MBR's 2 TiB, leaves nothing else of the upkeep undone."""
    small = replace(MOUNTED, content=replace(EXT4, size_bytes=5 * GIB), applied_options=OPTIONS)
    place = WantedMount(PATH, (*OPTIONS, "noatime"), mode=0o700)
    wanted = replace(GROW, mount=place, tune=WantedTuning(scheduler="none"))
    kinds = [type(step) for step in make_plan(small, wanted).steps]
    assert kinds == [Remount, SetRootOwnership, Tune, GrowFilesystem]


def test_options_changed_are_remounted() -> None:
    """A difference in mount attributes, or in parameters the agent asked for, is a remount."""
    noatime = replace(WANTED, mount=WantedMount(PATH, (*OPTIONS, "noatime")))
    assert make_plan(MOUNTED, noatime).steps == (Remount(PATH, NUMBER, (*OPTIONS, "noatime")),)
    discard = replace(WANTED, mount=WantedMount(PATH, (*OPTIONS, "discard")))
    assert make_plan(MOUNTED, discard).steps == ()
    applied = replace(MOUNTED, applied_options=OPTIONS)
    assert make_plan(applied, discard).steps == (Remount(PATH, NUMBER, (*OPTIONS, "discard")),)


@pytest.mark.parametrize(
    ("fs_type", "shown", "applied", "wanted", "remounted", "told"),
    [
        ("ext4", "rw,sync,discard,commit=60", ["sync", "discard", "commit=60"], [],
         [["async", "nodiscard", "commit=0"], []], []),
        ("ext4", "rw,commit=60", ["commit=60"], ["commit=5"], [[], []], []),
        ("ext4", "rw", [], ["data=journal"], None, ["without data=journal"]),
        ("ext4", "rw,data_err=abort", ["data_err=abort"], [], None, ["with data_err=abort"]),
        ("xfs", "rw,attr2,inode64,logbufs=8,logbsize=32k,noquota", [], ["allocsize=1m", "swalloc"], None,
         ["without allocsize=1m, swalloc"]),
        ("xfs", "rw,swalloc,allocsize=1024k", ["swalloc", "allocsize=1m"], [], None,
         ["with swalloc, allocsize=1m"]),
        ("xfs", "rw,allocsize=1024k", ["allocsize=1m"], ["allocsize=1m"], None, []),
        ("xfs", "rw,logbufs=8,inode64", ["logbufs=8", "inode64"], [], None, []),
        ("xfs", "rw,sync", ["sync"], [], [["async"], []], []),
        ("xfs", "rw,nouuid", ["nouuid"], [], None, []),
        ("xfs", "rw,swalloc,sync", ["swalloc", "sync"], [], [["async"], ["swalloc"]], ["with swalloc"]),
        ("btrfs", "rw,subvolid=5,subvol=/", [], ["subvol=@data"], None, ["without subvol=@data"]),
        ("btrfs", "rw,discard=async", ["discard"], [], None, []),
        ("btrfs", "rw", [], ["compress=zstd"], [[], []], []),
        # In force already, or without effect: there is nothing to wait for.
        ("xfs", "rw,noquota,logbufs=8", [], ["noquota", "logbufs=8", "nodiscard", "attr2"], None, []),
        ("xfs", "rw,discard", [], ["nodiscard"], None, ["without nodiscard"]),
        ("btrfs", "rw,space_cache=v2,subvol=/", ["space_cache=v2", "subvol=/"], [], None, []),
        ("btrfs", "rw,subvol=/", [], ["subvol=/"], None, []),
        # What the kernel shows as another word, or with a value of its own.
        ("ext4", "rw,grpid", ["bsdgroups"], [], None, ["with bsdgroups"]),
        ("ext4", "rw,noauto_da_alloc", ["auto_da_alloc=0"], [], None, ["with auto_da_alloc=0"]),
        ("btrfs", "rw,compress=zlib:3", ["compress"], [], None, ["with compress"]),
        # What comes with sync stays when sync is taken back.
        ("xfs", "rw,wsync,sync", ["sync"], [], [["async"], ["wsync"]], ["with wsync"]),
        ("xfs", "rw,wsync,sync", ["sync"], ["sync"], None, []),
        ("xfs", "rw,inode32", ["inode32"], [], [["inode64"], []], []),
        # What the kernel refuses, or ignores, at a remount.
        ("ext4", "rw", [], ["dirsync"], None, ["without dirsync"]),
        ("btrfs", "rw,dirsync", ["dirsync"], [], None, ["with dirsync"]),
        ("ext4", "rw", [], ["nodelalloc", "nombcache", "nojournal_checksum"], None,
         ["without nodelalloc, nombcache, nojournal_checksum"]),
    ],
)  # fmt: skip
def test_options_that_a_remount_does_not_change(
    fs_type: str,
    shown: str,
    applied: list[str],
    wanted: list[str],
    remounted: list[list[str]] | None,
    told: list[str],
) -> None:
    """What a remount brings is remounted, what was taken out is taken back, and the rest is told."""
    mount = replace(mount_of(super_options=shown), fs_type=fs_type)
    content = replace(EXT4, type=FsType(fs_type))
    observed = replace(MOUNTED, content=content, mounts=(mount,), applied_options=(*OPTIONS, *applied))
    filesystem = WantedFilesystem(FsType(fs_type))
    plan = make_plan(
        observed, replace(WANTED, filesystem=filesystem, mount=WantedMount(PATH, (*OPTIONS, *wanted)))
    )
    steps = [step for step in plan.actions if isinstance(step, Remount)]
    assert [[list(step.undoing), list(step.left)] for step in steps] == (
        [] if remounted is None else [remounted]
    )
    message = "" if plan.ending is None else plan.ending.message
    assert all(words in message for words in told)
    assert (plan.condition is Condition.READY) == (not told and remounted is None)
    if told:
        assert plan.ending is not None
        assert plan.ending.reason is Reason.OPTIONS_NOT_IN_FORCE


def test_emergency_read_only_is_never_remounted() -> None:
    """A filesystem the kernel made read-only is reported, not made writable again."""
    plan = make_plan(replace(MOUNTED, mounts=(mount_of(super_options="ro"),)), WANTED)
    assert isinstance(plan.ending, Degrade)
    assert (plan.actions, plan.ending.reason) == ((), Reason.READ_ONLY)


def test_read_only_is_checked_before_it_is_written_to() -> None:
    """What was only read was never checked: it is unmounted for that, once nobody is in the way."""
    read_only = replace(MOUNTED, mounts=(mount_of(options="ro,nosuid,nodev,relatime", super_options="ro"),))
    assert make_plan(read_only, WANTED).steps == (Unmount(read_only.mounts[0]), Check(FsType.EXT4))
    busy = make_plan(replace(read_only, processes=(Process(42, "python"),)), WANTED)
    assert isinstance(busy.ending, Degrade)
    assert (busy.actions, busy.ending.reason) == ((), Reason.READ_ONLY)
    assert "python (42)" in busy.ending.message
    device = replace(DEVICE, is_read_only=True)
    assert make_plan(replace(read_only, device=device), WANTED).actions == ()


@pytest.mark.parametrize("shown", ["ro,norecovery", "rw,norecovery", "ro,rescue=nologreplay"])
def test_filesystem_without_its_journal_is_checked_before_it_is_written_to(shown: str) -> None:
    """ext4 makes it writable in place, and somebody may have: it is mounted anew, with its journal."""
    options = f"{shown[:2]},nosuid,nodev,relatime"
    ignoring = replace(MOUNTED, mounts=(mount_of(options=options, super_options=shown),))
    assert make_plan(ignoring, WANTED).steps == (Unmount(ignoring.mounts[0]), Check(FsType.EXT4))
    busy = make_plan(replace(ignoring, processes=(Process(42, "python"),)), WANTED)
    assert isinstance(busy.ending, Degrade)
    reason = Reason.OPTIONS_NOT_IN_FORCE if shown.startswith("rw") else Reason.READ_ONLY
    assert (busy.actions, busy.ending.reason) == ((), reason)
    assert "python (42)" in busy.ending.message
    # Read only it may stay so: nothing is written.
    reading = replace(WANTED, mount=WantedMount(PATH, (*OPTIONS, "ro")))
    assert Check(FsType.EXT4) not in make_plan(ignoring, reading).steps


def test_one_mount_of_a_writable_filesystem_is_made_writable_in_place() -> None:
    """Read-only is that mount alone, and the filesystem was checked before it was mounted writable."""
    observed = replace(MOUNTED, mounts=(mount_of(options="ro,nosuid,nodev,relatime", super_options="rw"),))
    assert make_plan(observed, WANTED).steps == (Remount(PATH, NUMBER, OPTIONS),)


def test_mounted_filesystem_with_parts_elsewhere_is_left_alone() -> None:
    """Somebody mounted what needs another device: it is told, and not changed in any way."""
    observed = replace(MOUNTED, content=Foreign("an ext4 filesystem whose journal is on another device"))
    wanted = replace(GROW, mount=WantedMount(PATH, (*OPTIONS, "noatime"), mode=0o700))
    plan = make_plan(observed, wanted)
    assert isinstance(plan.ending, Degrade)
    assert (plan.actions, plan.ending.reason) == ((), Reason.FILESYSTEM_MISMATCH)


@pytest.mark.parametrize(
    ("in_superblock", "shown", "is_told"),
    [
        (True, "rw", True),
        (True, "rw,errors=remount-ro", False),
        (False, "rw,errors=panic", True),
        (False, "rw", False),
    ],
)
def test_filesystem_whose_errors_end_the_node(in_superblock: bool, shown: str, is_told: bool) -> None:  # noqa: FBT001
    """The kernel shows what is to happen only where it is another than the superblock says."""
    content = replace(EXT4, is_panicking=in_superblock)
    observed = replace(MOUNTED, content=content, mounts=(mount_of(super_options=shown),))
    for options in (OPTIONS, (*OPTIONS, "errors=remount-ro")):
        plan = make_plan(observed, replace(WANTED, mount=WantedMount(PATH, options)))
        ending = plan.ending
        assert (isinstance(ending, Degrade) and ending.reason is Reason.PANIC_ON_ERROR) is is_told
    own = replace(observed, applied_options=options)
    wanted = replace(WANTED, mount=WantedMount(PATH, options))
    assert (make_plan(own, wanted).ending is not None) is (shown == "rw,errors=panic")


def test_path_changed_moves_only_when_nobody_is_in_the_way() -> None:
    """A mount at the policy's old path moves when idle, else the volume is Degraded and names who uses it."""
    elsewhere = replace(MOUNTED, mounts=(mount_of("/data/old"),))
    assert make_plan(elsewhere, WANTED).steps == (MoveMount("/data/old", PATH),)
    for old in ("/data/ckpt/in", "/data"):
        nested = replace(MOUNTED, mounts=(mount_of(old),))
        assert make_plan(nested, WANTED).steps == (Unmount(nested.mounts[0]),), "never at both at once"
    busy = make_plan(replace(elsewhere, processes=(Process(42, "python"),)), WANTED)
    assert busy.condition is Condition.DEGRADED
    assert busy.ending is not None
    assert "python (42)" in busy.ending.message


WHOLE = replace(mount_of("/home/ubuntu/data"), mount_id=60)
PART = replace(mount_of("/srv/export"), mount_id=61, root="/sub")
READ_ONLY_HERE = mount_of(options="ro,nosuid,nodev,relatime", super_options="ro")


@pytest.mark.parametrize(
    ("other", "words"),
    [(WHOLE, "it is mounted at /home/ubuntu/data"), (PART, "a part of it is mounted at /srv/export")],
    ids=["whole", "part"],
)
@pytest.mark.parametrize(
    ("here", "wanted", "ending"),
    [
        (READ_ONLY_HERE, WANTED, (Degrade, Reason.READ_ONLY)),
        (mount_of("/data/ckpt/in"), WANTED, (Degrade, Reason.PATH_IN_USE)),
        (mount_of("/data"), WANTED, (Degrade, Reason.PATH_IN_USE)),
        (mount_of(), RAW, (Refuse, Reason.DEVICE_BUSY)),
    ],
    ids=["to be checked", "to move out", "to move in", "to be raw"],
)
def test_mount_is_left_while_its_filesystem_is_mounted_elsewhere_too(
    here: Mount, wanted: Wanted, ending: tuple[type, Reason], other: Mount, words: str
) -> None:
    """Unmounted here it would be mounted still: it could not be checked, and not be mounted again."""
    own = (here,) if other.root != "/" else (here, other)
    # Where it is not at its path, its own mount is among those elsewhere.
    views = (other,) if wanted.mount is not None and here.path == wanted.mount.path else (here, other)
    mounted_at = None if wanted.mount is not None else f"at {here.path}"
    observed = replace(MOUNTED, mounts=own, views=views, mounted_at=mounted_at)
    plan = make_plan(observed, wanted)
    assert plan.actions == ()
    assert plan.ending is not None
    assert (type(plan.ending), plan.ending.reason) == ending
    assert words in plan.ending.message
    alone = replace(observed, mounts=(here,), views=tuple(view for view in views if view is here))
    assert make_plan(alone, wanted).actions[0] == Unmount(here)
    assert make_plan(replace(observed, going=(other,)), wanted).actions[0] == Unmount(here)


def test_mount_that_goes_elsewhere_stays_mounted_meanwhile() -> None:
    """What else is mounted of it is in nobody's way then."""
    old = mount_of("/data/old")
    observed = replace(MOUNTED, mounts=(old, WHOLE), views=(old, WHOLE, PART))
    assert make_plan(observed, WANTED).steps == (MoveMount("/data/old", PATH),)


def test_mounts_in_each_others_way_move_at_once() -> None:
    """None of them could go first. As long as somebody uses this one it stays, and with it all others."""
    ring = (
        Relocation(VOLUME, "/data/old", NUMBER, PATH),
        Relocation(VolumeId("vol-0123456789abcdef9"), PATH, DeviceNumber(259, 9), "/data/old"),
    )
    here = look(EXT4, mounts=(mount_of("/data/old"),), obstacle="an ext4 filesystem (/dev/nvme9n1)")
    assert isinstance(make_plan(here, WANTED).steps[0], Degrade)
    (step,) = make_plan(replace(here, ring=ring), WANTED).steps
    assert step == MoveMount("/data/old", PATH, ring)
    assert "at once vol-0123456789abcdef9 from /data/ckpt to /data/old" in step.describe()
    (ending,) = make_plan(replace(here, ring=ring, processes=(Process(7, "python3"),)), WANTED).steps
    assert isinstance(ending, Degrade)
    assert "python3 (7)" in ending.message


@pytest.mark.parametrize(
    ("observed", "wanted"),
    [
        (look(EXT4, mounts=(mount_of(),)), WANTED),
        (look(replace(EXT4, size_bytes=GIB), mounts=(mount_of(),)), replace(WANTED, grow=True)),
        (look(EXT4, mounts=(mount_of(options="ro,nosuid,nodev", super_options="ro"),)), WANTED),
        (look(EXT4, mounts=(mount_of(),), applied_options=("commit=9", *OPTIONS)), WANTED),
        (look(EXT4, mounts=(mount_of("/data/old"),)), WANTED),
        (look(EXT4, mounts=(mount_of(f"{PATH}/old"),)), WANTED),
    ],
    ids=["nothing due", "growth", "check", "options", "move", "move within"],
)
def test_what_somebody_froze_is_left_until_the_thaw(observed: Observed, wanted: Wanted) -> None:
    """Told as frozen, with the way out where it is mounted now; it is neither written to nor taken away."""
    plan = make_plan(replace(observed, is_frozen=True), wanted)
    assert plan.actions == ()
    ending = plan.standing
    assert isinstance(ending, Wait)
    assert (ending.reason, plan.condition) == (Reason.FROZEN, Condition.FAILED)
    assert f"fsfreeze -u {observed.mounts[0].path}" in (ending.hint or "")


def test_root_ownership_is_kept() -> None:
    """Owner, group and mode of the mounted root are brought back to the policy's."""
    wanted = replace(WANTED, mount=WantedMount(PATH, OPTIONS, owner="ubuntu", mode=0o770))
    observed = replace(MOUNTED, ids=Ids(uid=1000))
    assert make_plan(observed, wanted).steps == (SetRootOwnership(PATH, NUMBER, 1000, None, 0o770),)
    settled = replace(observed, root_inode=RootInode(1000, 0, 0o770))
    assert make_plan(settled, wanted).steps == ()


def test_unknown_owner_does_not_stop_the_mount() -> None:
    """A missing user is a defect of the node, not of the data: mounted, and Degraded until it exists."""
    plan = make_plan(replace(MOUNTED, ids=Ids(missing="user 'ubuntu'")), WANTED)
    assert isinstance(plan.ending, Degrade)
    assert plan.ending.reason is Reason.UNKNOWN_OWNER


def test_programs_left_on_a_dead_mount_are_named() -> None:
    """A volume that is back and in use is Degraded while programs hold on to what was mounted before."""
    left = (Process(42, "python"), *(Process(pid, "sh") for pid in range(50, 56)))
    plan = make_plan(replace(MOUNTED, left_behind=left), WANTED)
    assert (plan.actions, plan.condition) == ((), Condition.DEGRADED)
    assert plan.ending is not None
    assert plan.ending.reason is Reason.STALE_MOUNT
    assert "python (42), sh (50), sh (51), sh (52), sh (53) and 2 more" in plan.ending.message


def test_tuning_follows_the_mount() -> None:
    """Read-ahead and scheduler are set where they differ, after the volume is usable."""
    wanted = replace(WANTED, tune=WantedTuning(4 * 1024**2, "none"))
    observed = replace(MOUNTED, tuning=Tuning(128 * 1024, "none"))
    assert make_plan(observed, wanted).steps == (Tune(read_ahead_bytes=4 * 1024**2),)


def test_xfs_copy_of_a_mounted_uuid_gets_nouuid() -> None:
    """Only xfs, and only when the UUID is in use, is mounted with nouuid."""
    xfs = replace(WANTED, filesystem=WantedFilesystem(FsType.XFS))
    observed = look(
        replace(EXT4, type=FsType.XFS), checked=Checked(is_clean=True), is_uuid_mounted_elsewhere=True
    )
    assert make_plan(observed, xfs).steps == (MountFilesystem(FsType.XFS, UUID, PATH, (*OPTIONS, "nouuid")),)


def test_blank_volume_waits_for_what_the_cloud_says_of_it() -> None:
    """While AWS is being asked about a blank volume, it is not formatted; one with data is used."""
    waiting = make_plan(look(BLANK, is_origin_awaited=True), WANTED)
    assert isinstance(waiting.ending, Wait)
    assert (waiting.actions, waiting.ending.reason) == ((), Reason.WAITING_FOR_CLOUD)
    assert make_plan(look(BLANK, is_origin_awaited=True, origin=Origin()), WANTED).actions
    assert make_plan(look(EXT4, is_origin_awaited=True), WANTED).actions


def test_waiting_for_the_cloud_says_since_and_until_when() -> None:
    """Both are told, and that a limit is there at all only where it is."""
    since = datetime(2026, 1, 1, 12, 0, 5, tzinfo=timezone.utc)
    waiting = look(BLANK, is_origin_awaited=True, awaited_since=since)
    ending = make_plan(waiting, WANTED).ending
    assert ending is not None
    assert "since 2026-01-01T12:00:05Z" in ending.message
    assert "whatever is known then" not in str(ending.hint)
    ending = make_plan(replace(waiting, awaited_until=since + timedelta(minutes=5)), WANTED).ending
    assert "at 2026-01-01T12:05:05Z whatever is known then" in str(ending and ending.hint)


@pytest.mark.parametrize("content", [BLANK, EXT4, Foreign("LUKS"), Unknown("EIO at 0")])
def test_volume_that_is_not_named_waits_for_its_tags_whatever_it_holds(content: Content) -> None:
    """It may be the CSI driver's, which only its tags tell: nothing is done with it until they are known."""
    broad = replace(WANTED, is_broad=True)
    plan = make_plan(look(content, is_origin_awaited=True), broad)
    assert isinstance(plan.ending, Wait)
    assert (plan.actions, plan.ending.reason) == ((), Reason.WAITING_FOR_CLOUD)
    assert make_plan(look(content), broad) == make_plan(look(content), WANTED)
    csi = make_plan(look(content, origin=Origin(tags=(("CSIVolumeName", "pvc-1"),))), broad)
    assert csi.ending is not None
    assert csi.ending.reason is Reason.MANAGED_BY_CSI


def test_raw_volume_that_is_not_named_is_exposed_once_its_tags_are_known() -> None:
    """Neither its link nor its node changes before; one that is exposed already stays so."""
    broad = replace(RAW, is_broad=True)
    observed = look(None, is_origin_awaited=True, node_owner=RootInode(0, 0, 0o600))
    plan = make_plan(observed, broad)
    assert (plan.actions, plan.ending and plan.ending.reason) == ((), Reason.WAITING_FOR_CLOUD)
    assert Link("rawdb") in make_plan(observed, RAW).steps
    exposed = replace(observed, links=LINKS | {"rawdb"}, raw=HANDED_OUT)
    assert make_plan(exposed, broad).steps == (SetNodeOwnership(0, 0, 0o660),)


def test_volume_in_use_waits_for_no_tags() -> None:
    """What is mounted is kept as wanted, and taken to its path, while AWS does not answer."""
    broad = replace(WANTED, is_broad=True)
    for observed in (MOUNTED, replace(MOUNTED, mounts=(mount_of("/data/old"),))):
        plan = make_plan(replace(observed, is_origin_awaited=True), broad)
        assert plan == make_plan(observed, WANTED)


STALE = mount_of("/data/ckpt")
PLANS = [
    ("links decide nothing", look(Foreign("LUKS"), links=frozenset()), WANTED, Condition.REFUSED),
    ("in the way of itself", look(EXT4, stale_mounts=(STALE,), obstacle="it"), WANTED, Condition.PREPARING),
    (
        "held by its own stale mount",
        look(None, stale_mounts=(STALE,), exclusion=Exclusion(Reason.DEVICE_BUSY, "It is mounted.")),
        WANTED,
        Condition.PREPARING,
    ),
    (
        "cannot move for its own stale mount",
        replace(MOUNTED, mounts=(mount_of("/data/old"),), stale_mounts=(STALE,), obstacle="it"),
        WANTED,
        Condition.PREPARING,
    ),
    ("waits", look(BLANK, is_origin_awaited=True, links=frozenset()), WANTED, Condition.PENDING),
    ("lost is lost", Observed(VOLUME, stale_mounts=(STALE,)), WANTED, Condition.LOST),
    ("absent is absent", Observed(VOLUME, wrong_links=LINKS), WANTED, Condition.PENDING),
    (
        "in use is in use",
        replace(MOUNTED, ids=Ids(missing="user 'ubuntu'"), tuning=Tuning(1024)),
        replace(WANTED, tune=WantedTuning(4096)),
        Condition.DEGRADED,
    ),
]


@pytest.mark.parametrize(
    ("observed", "wanted", "condition"), [row[1:] for row in PLANS], ids=[row[0] for row in PLANS]
)
def test_ending_holds_only_where_what_comes_before_it_cannot_end_it(
    observed: Observed, wanted: Wanted, condition: Condition
) -> None:
    """What a plan is about to change is not told, and what it cannot change is told at once."""
    plan = make_plan(observed, wanted)
    assert plan.ending is not None
    assert plan.actions or plan.standing is plan.ending
    assert plan.condition is condition


HIDDEN = replace(
    MOUNTED, is_hidden=True, obstacle="a tmpfs filesystem (none, mounted at /data)", root_inode=None
)


@pytest.mark.parametrize("path", [PATH, "/data/moved"], ids=["as wanted", "to be moved"])
def test_hidden_mount_is_refused_and_left_alone(path: str) -> None:
    """What covers a volume is told, the volume counts as not usable, and nothing is done by its path."""
    growing = replace(WANTED, mount=WantedMount(path, ("ro",), mode=0o700), grow=True)
    observed = replace(HIDDEN, device=replace(DEVICE, size_bytes=20 * GIB), processes=(Process(7, "sh"),))
    plan = make_plan(observed, growing)
    (refusal,) = plan.steps
    assert isinstance(refusal, Refuse)
    assert refusal.reason is Reason.PATH_IN_USE
    assert "hidden beneath a tmpfs filesystem" in refusal.message
    assert not plan.condition.is_usable


def test_mount_left_by_a_move_is_taken_away() -> None:
    """Mounted at the new path and still at the old one: that one is unmounted, unless somebody uses it."""
    old = replace(mount_of("/data/old"), mount_id=49)
    left = replace(MOUNTED, mounts=(mount_of(), old), cut_off=old)
    assert make_plan(left, WANTED).steps == (Unmount(old),)
    busy = make_plan(replace(left, processes=(Process(7, "sh"),)), WANTED)
    (degraded,) = busy.steps
    assert isinstance(degraded, Degrade)
    assert (degraded.reason, "sh (7)" in degraded.message) == (Reason.PATH_IN_USE, True)


DONE = replace(RECORD, stage=FormatStage.DONE)
READ_ONLY = replace(DEVICE, is_read_only=True)
UNPROVEN = [
    ("formatted if blank", look(Unproven()), WANTED, None),
    ("format cut off", look(Unproven(), format_record=RECORD), WANTED, None),
    ("stale mount goes first", look(Unproven(), stale_mounts=(STALE,)), WANTED, None),
    ("never", look(Unproven()), NEVER, Reason.FORMAT_NOT_ALLOWED),
    ("snapshot", look(Unproven(), origin=Origin(snapshot_id="snap-1")), WANTED, Reason.FROM_SNAPSHOT),
    ("copy", look(Unproven(), origin=Origin(source_volume_id="vol-1")), WANTED, Reason.FROM_SNAPSHOT),
    ("waiting", look(Unproven(), is_origin_awaited=True), WANTED, Reason.WAITING_FOR_CLOUD),
    ("read-only", look(Unproven(), device=READ_ONLY), WANTED, Reason.READ_ONLY_DEVICE),
    ("formatted before", look(Unproven(), format_record=DONE), WANTED, Reason.ALREADY_FORMATTED),
    ("multi-attach", look(Unproven(), device=SHARED), WANTED, Reason.MULTI_ATTACH),
    ("path taken", look(Unproven(), obstacle="another filesystem"), WANTED, Reason.PATH_IN_USE),
    ("whose is not known", look(Unproven(), is_origin_awaited=True), BROAD, Reason.WAITING_FOR_CLOUD),
]


@pytest.mark.parametrize(
    ("observed", "wanted", "reason"), [row[1:] for row in UNPROVEN], ids=[row[0] for row in UNPROVEN]
)
def test_blankness_is_proven_only_where_a_format_would_follow(
    observed: Observed, wanted: Wanted, reason: Reason | None
) -> None:
    """Every other ending stands without a proof, and what was not proven is never formatted."""
    assert needs_proof(observed, wanted) is (reason is None)
    plan = make_plan(observed, wanted)
    assert not any(isinstance(step, Format) for step in plan.steps)
    assert plan.ending is not None
    assert plan.ending.reason is (reason or Reason.PROBE_FAILED)
    assert f"{VOLUME} is blank" not in plan.ending.message


RAW_LOOK = look(None, node_owner=RootInode(0, 6, 0o600), mounted_at="at /data/ckpt")


def test_raw_volume_is_refused_while_it_is_mounted() -> None:
    """Neither link nor owner nor mode while anybody has it mounted, and nobody's mount is taken away."""
    by_others = Exclusion(Reason.DEVICE_BUSY, "It is mounted, and not by the agent.")
    tagged = Origin(tags=(("CSIVolumeName", "pvc-1"),))
    for observed in (
        RAW_LOOK,
        replace(RAW_LOOK, mounts=(mount_of(),), exclusion=by_others),
        replace(RAW_LOOK, mounts=(mount_of(),), processes=(Process(7, "sh"),)),
        replace(RAW_LOOK, mounts=(mount_of(),), is_hidden=True),
    ):
        (refusal,) = make_plan(observed, RAW).steps
        assert isinstance(refusal, Refuse)
        assert (refusal.reason, "/data/ckpt" in refusal.message) == (Reason.DEVICE_BUSY, True)
    (refusal,) = make_plan(replace(RAW_LOOK, mounts=(mount_of(),), origin=tagged), RAW).steps
    assert isinstance(refusal, Refuse)
    assert refusal.reason is Reason.MANAGED_BY_CSI


def test_own_mount_of_a_volume_that_becomes_raw_is_unmounted_first() -> None:
    """The agent's own, which nobody uses, goes before the volume is linked."""
    observed = replace(RAW_LOOK, mounts=(mount_of(),))
    plan = make_plan(observed, RAW)
    assert (plan.actions, plan.condition) == ((Unmount(mount_of()),), Condition.PREPARING)
    later = replace(observed, mounts=(), mounted_at=None)
    assert Link("rawdb") in make_plan(later, RAW).steps


def test_raw_volume_of_the_csi_driver_stays_its_own() -> None:
    """No rule about who may build on a raw volume gives away Kubernetes'."""
    csi = Exclusion(Reason.MANAGED_BY_CSI, "It is used by the EBS CSI driver.")
    (refusal,) = make_plan(look(None, exclusion=csi), RAW).steps
    assert isinstance(refusal, Refuse)
    assert refusal.reason is Reason.MANAGED_BY_CSI
