"""Decides whether the guest's processors are emulated or run by KVM, by trying."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests.vm.guest.cache import hash_parts, hold_lock
from tests.vm.guest.image import Image
from tests.vm.guest.machine import QEMU
from tests.vm.guest.settings import ACCELERATOR, CACHE

TRIAL_TIMEOUT_S = 20.0
# The kernel's last words when its first program ends: it has run all of its own start by then.
PROOF = b"Attempted to kill init"


def choose_accelerator(image: Image) -> str:
    """Return ``kvm`` where a trial showed that it runs this kernel, else ``tcg``.

    The answer is remembered for this boot of the host. ``EBS_AGENT_ACCEL`` overrides it.
    """
    if ACCELERATOR:
        return ACCELERATOR
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    answer = CACHE / f"accelerator-{hash_parts([boot_id, image.key])}"
    with hold_lock(CACHE / "accelerator.lock"):
        if not answer.exists():
            answer.write_text("kvm" if is_kvm_working(image) else "tcg")
        return answer.read_text()


def is_kvm_working(image: Image) -> bool:
    """Tell whether the guest's kernel gets to its first program under KVM within a few seconds.

    A device node that opens, and a QEMU that starts with it, prove nothing: nested virtualisation may accept
    both and never run a stock kernel.
    """
    command = [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "kvm"),
        *("-cpu", "host", "-smp", "2", "-m", "512", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
        *("-append", "console=ttyS0 rdinit=/bin/false panic=-1"),
    ]
    with tempfile.TemporaryFile() as console:
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                timeout=TRIAL_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        console.seek(0)
        return PROOF in console.read()
