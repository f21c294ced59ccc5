"""What is said of a volume names who wants it: nobody mends in the policy what a PersistentVolume says."""

from __future__ import annotations

import pytest

from agent.core.model import (
    Blank,
    Filesystem,
    FormatRecord,
    FormatRule,
    FormatStage,
    FsType,
    Observed,
    Process,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
)
from agent.core.plan import make_plan
from agent.core.replace import replace
from tests.unit.core.test_plan import DEVICE, UUID, VOLUME, look, mount_of

PLACE = "/var/lib/kubelet/plugins/kubernetes.io/csi/d/hash/globalmount"
WANTED = Wanted(
    VOLUME,
    name=VOLUME,
    filesystem=WantedFilesystem(FsType.EXT4),
    mount=WantedMount(PLACE),
    is_kubelets=True,
)
RAW = Wanted(VOLUME, name=VOLUME, block=WantedBlock(), is_kubelets=True)
XFS = Filesystem(FsType.XFS, UUID)
EXT4 = Filesystem(FsType.EXT4, UUID)
BLANK = Blank(sampled_bytes=1024)
INTENDED = FormatRecord(
    VOLUME, UUID, FsType.XFS, DEVICE.size_bytes, FormatStage.INTENDED, "2026-01-01T00:00:00Z"
)
TO_FORMAT = replace(WANTED, filesystem=WantedFilesystem(FsType.EXT4, FormatRule.IF_BLANK))


@pytest.mark.parametrize(
    ("observed", "wanted"),
    [
        (look(XFS), WANTED),
        (look(XFS, mounts=(replace(mount_of(PLACE), fs_type="xfs"),)), WANTED),
        (look(BLANK), WANTED),
        (look(EXT4, device=replace(DEVICE, is_read_only=True)), WANTED),
        (look(EXT4, obstacle="something is there"), WANTED),
        (look(BLANK, format_record=INTENDED), TO_FORMAT),
        (
            look(
                EXT4,
                mounts=(mount_of("/elsewhere"),),
                mounted_at="at /elsewhere",
                processes=(Process(7, "pg"),),
            ),
            RAW,
        ),
    ],
)
def test_persistent_volume_is_not_mended_in_the_policy(observed: Observed, wanted: Wanted) -> None:
    """The same trouble is told to whoever wrote the PersistentVolume, or to the policy's author."""
    ending = make_plan(observed, wanted).ending
    assert ending is not None
    assert "policy" not in f"{ending.message} {ending.hint}"
