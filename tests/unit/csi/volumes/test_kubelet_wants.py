from __future__ import annotations

import pytest

from agent.core.errors import AgentError, RefusedError
from agent.core.model import FormatRule, FsType, Reason, Wanted
from agent.core.replace import replace
from agent.csi.calls import AccessMode, Capability
from agent.csi.volumes.kubelet_wants import KubeletWants, make_want
from agent.csi.volumes.staged_record import make_record
from tests.unit.csi.volumes.kubelet_scene import REAL_STAGING, STAGE, VOLUME, resolve


@pytest.mark.parametrize(
    ("capability", "word"),
    [
        (Capability(AccessMode.SINGLE_NODE_READER_ONLY), "noload"),
        (Capability(AccessMode.MULTI_NODE_READER_ONLY, fs_type=FsType.XFS), "norecovery"),
        (
            Capability(AccessMode.SINGLE_NODE_WRITER, fs_type=FsType.BTRFS, mount_flags=("ro",)),
            "rescue=nologreplay",
        ),
        (Capability(AccessMode.SINGLE_NODE_WRITER, mount_flags=("ro", "noatime", "noload")), "noload"),
    ],
)
def test_volume_to_be_read_is_not_written_to(capability: Capability, word: str) -> None:
    """It is neither formatted nor given its journal back, whichever way it was said that it is only read."""
    want = make_want(make_record(replace(STAGE, capability=capability), "boot"), resolve)
    assert want.filesystem is not None
    assert want.filesystem.format is FormatRule.NEVER
    assert want.mount is not None
    assert {"ro", word} <= set(want.mount.options)
    assert want.mount.path == REAL_STAGING


@pytest.mark.parametrize(
    ("field", "rule"),
    [
        ({}, FormatRule.IF_BLANK),
        ({"is_copy": True}, FormatRule.NEVER),
        ({"is_format_allowed": False}, FormatRule.NEVER),
    ],
)
def test_volume_is_formatted_only_where_nothing_forbids_it(field: dict[str, bool], rule: FormatRule) -> None:
    """A copy of something is never formatted, nor is what its attributes keep from it."""
    want = make_want(make_record(replace(STAGE, **field), "boot"), resolve)  # type: ignore[arg-type]  # of one row
    assert want.filesystem is not None
    assert want.filesystem.format is rule


def test_volume_of_policy_and_kubelet_is_nobodys() -> None:
    """What both want neither gets; and what kubelet takes back nobody gets before it is gone."""
    record = make_record(STAGE, "boot")
    by_policy = Wanted(VOLUME, name="ckpt")
    both = KubeletWants({VOLUME: record}, resolve).merge({VOLUME: by_policy}, {VOLUME})[VOLUME]
    assert isinstance(both, RefusedError)
    assert both.reason is Reason.SEVERAL_ENTRIES
    leaving = KubeletWants({VOLUME: replace(record, is_leaving=True)}, resolve)
    assert leaving.merge({VOLUME: by_policy}, {VOLUME}) == {VOLUME: None}
    assert KubeletWants({}, resolve).merge({VOLUME: by_policy}, {VOLUME}) == {VOLUME: by_policy}


def test_policy_does_not_get_what_may_be_kubelets() -> None:
    """A note that could not be read may say that pods have the volume."""
    error = AgentError("The note could not be read.")
    wants = KubeletWants({}, resolve, {VOLUME: error})
    assert wants.merge({VOLUME: Wanted(VOLUME, name="ckpt")}, {VOLUME}) == {VOLUME: error}
