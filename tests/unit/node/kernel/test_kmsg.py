"""What the kernel says of a device, where only the journal may be asked."""

from __future__ import annotations

from pathlib import Path

from agent.node.kernel.kmsg import KernelLog

SAID = r"""EXT4-fs (nvme1n1): VFS: Can't find ext4 filesystem
XFS (nvme1n10): Mounting V5 Filesystem
EXT4-fs (nvme1n1): Unrecognized mount option"""


def make_journalctl(directory: Path, script: str) -> str:
    program = directory / "journalctl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {directory}/asked\n{script}\n')
    program.chmod(0o755)
    return str(program)


def test_the_journal_tells_what_the_kernel_said(tmp_path: Path) -> None:
    """Of this device alone, and since the moment that is meant; asked once all of it is there."""
    program = make_journalctl(tmp_path, f'[ "$2" = --sync ] || cat <<"."\n{SAID}\n.')
    said = KernelLog(-1, 12.25, program).read_about("/dev/nvme1n1")
    assert said == [SAID.splitlines()[0], SAID.splitlines()[2]]
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert first == "--quiet --sync"
    assert second == "--quiet --dmesg --since=@12.250000 --lines=2000 --output=cat"


def test_a_journal_that_cannot_be_asked_tells_nothing(tmp_path: Path) -> None:
    """Without one, or where it fails, a failure is told in the agent's own words."""
    assert KernelLog(-1, 0.0, str(tmp_path / "none")).read_about("/dev/nvme1n1") == []
    assert KernelLog(-1, 0.0, make_journalctl(tmp_path, "exit 1")).read_about("/dev/nvme1n1") == []
