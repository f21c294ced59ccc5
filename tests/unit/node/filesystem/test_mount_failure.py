"""Why a filesystem did not mount, from what the kernel said."""

from __future__ import annotations

import errno
import os

import pytest

from agent.core.model import DeviceNumber, FsType, Reason
from agent.node.filesystem.mount import MountRequest, explain_mount_failure


@pytest.mark.parametrize(
    ("number", "said", "reason", "words"),
    [
        (errno.EINVAL, ["Deprecated V4 format not supported by kernel."], Reason.UNSUPPORTED, "forget"),
        (errno.EINVAL, ["bad block size 65536"], Reason.UNSUPPORTED, "kernel"),
        (errno.EINVAL, ["couldn't mount RDWR because of unsupported optional features (8000)"],
         Reason.UNSUPPORTED, "kernel"),
        (errno.EINVAL, ["ext4: Unknown parameter 'x'"], Reason.STEP_FAILED, "mount options"),
        (errno.EUCLEAN, ["Structure needs cleaning"], Reason.FILESYSTEM_ERRORS, ""),
        (errno.EBUSY, [], Reason.STEP_FAILED, "holds the device"),
        (errno.ENODEV, [], Reason.STEP_FAILED, "modprobe"),
        (errno.ENOMEM, [], Reason.NODE_EXHAUSTED, "tried again"),
    ],
)  # fmt: skip
def test_mount_that_failed_is_explained(number: int, said: list[str], reason: Reason, words: str) -> None:
    """What the kernel says decides: what it does not support is not mended by other mount options."""
    request = MountRequest("/dev/x", DeviceNumber(7, 1), FsType.XFS, "", "/data/x", ("/data",))
    error = explain_mount_failure(request, OSError(number, os.strerror(number)), said)
    assert error.reason is reason
    assert words in str(error.hint)


def test_quota_that_the_filesystem_lacks_is_named() -> None:
    """The kernel says no more than Invalid argument."""
    request = MountRequest("/dev/x", DeviceNumber(7, 1), FsType.EXT4, "", "/d", ("/d",), ("prjquota", "ro"))
    error = explain_mount_failure(request, OSError(errno.EINVAL, "Invalid argument"), [])
    assert "prjquota needs" in str(error.hint)
