"""What is concluded from a guest's console."""

from __future__ import annotations

import pytest

from tests.vm.guest.guest import EARLY_PANIC


@pytest.mark.parametrize(
    ("line", "is_early"),
    [
        (b"[    1.398067] Kernel panic - not syncing: Fatal exception in interrupt", True),
        (b"[    9.990000] Kernel panic - not syncing: VFS: Unable to mount root fs", True),
        (b"[   24.100000] Kernel panic - not syncing: EXT4-fs (device nvme1n1): panic forced", False),
        (b"[    1.397510] Modules linked in:", False),
        (b"a volume called [    1.0] Kernel panic", False),
    ],
)
def test_only_a_panic_before_the_guest_s_system_runs_begins_it_anew(line: bytes, *, is_early: bool) -> None:
    """A later one may be what a test is about."""
    console = b"[    0.000000] Linux version 6.12\n" + line + b"\n"
    assert bool(EARLY_PANIC.search(console)) == is_early
