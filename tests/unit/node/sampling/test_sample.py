from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.core.model import DeviceNumber
from agent.node.sampling.mount_sample import has_refused_writes

MOUNTED = 1_000_000
NUMBER = DeviceNumber(259, 1)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """Give a device whose ext4 was mounted at a time."""
    image = tmp_path / "image"
    image.write_bytes(bytes(1024 + 44) + MOUNTED.to_bytes(4, "little") + bytes(4096))
    fd = os.open(image, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("first", "last", "options", "is_refusing"),
    [
        ((MOUNTED + 5, "trigger_test_error", 5), None, "rw errors=continue", False),
        ((MOUNTED + 5, "trigger_test_error", 5), None, "rw errors=remount-ro", True),
        ((MOUNTED - 5, "trigger_test_error", 5), None, "rw errors=remount-ro", False),
        ((MOUNTED + 5, "ext4_journal_check_start", 2), None, "rw errors=continue", True),
        ((MOUNTED - 5, "ext4_journal_check_start", 2), None, "rw errors=continue", False),
        # As Debian's 6.1 had it after writes to the device had failed.
        ((MOUNTED + 5, "ext4_end_bio", 2), (MOUNTED + 9, "__ext4_new_inode", 8), "rw errors=continue", True),
        ((MOUNTED - 5, "ext4_journal_check_start", 2), (MOUNTED + 9, "ext4_lookup", 5), "rw", False),
        ((0, "", 0), None, "rw errors=remount-ro", False),
    ],
)
def test_ext4_that_takes_no_writes_since_an_error(
    fd: int,
    tmp_path: Path,
    first: tuple[int, str, int],
    last: tuple[int, str, int] | None,
    options: str,
    *,
    is_refusing: bool,
) -> None:
    """Known by errors since the mount: by what the options make of any, or by a journal given up."""
    device = tmp_path / "devices/nvme1n1"
    device.mkdir(parents=True)
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / "dev/block" / str(NUMBER)).symlink_to(device)
    node, proc = tmp_path / "fs/ext4/nvme1n1", tmp_path / "proc"
    node.mkdir(parents=True)
    for which, (at, func, code) in {"first": first, "last": last or first}.items():
        (node / f"{which}_error_time").write_text(f"{at}\n")
        (node / f"{which}_error_func").write_text(f"{func}\n")
        (node / f"{which}_error_errcode").write_text(f"{code}\n")
    shown = proc / "fs/ext4/nvme1n1/options"
    shown.parent.mkdir(parents=True)
    shown.write_text(options.replace(" ", "\n"))
    assert has_refused_writes(fd, NUMBER, tmp_path, proc) is is_refusing
