"""Tells whether the tests with Kubernetes can run on this machine, and why not."""

from __future__ import annotations

import shutil

from tests.kubernetes.programs import find_missing
from tests.vm.guest.availability import vm_unavailable_reason
from tests.vm.guest.tools import SEARCH_PATH

# The node's own packages are taken from Debian without installing them: see node_disk.py.
NEEDED = ("etcd", "openssl", "mmdebstrap", "chroot")


def kubernetes_unavailable_reason() -> str | None:
    """Return why the tests with Kubernetes cannot run here, in one sentence, or None when they can."""
    if reason := vm_unavailable_reason():
        return reason
    if missing := find_missing():
        return f"needs {', '.join(missing)} built: make build-kubernetes, once, takes a quarter of an hour"
    if missing := [name for name in NEEDED if shutil.which(name, path=SEARCH_PATH) is None]:
        return f"needs {', '.join(missing)}: run scripts/prepare kubernetes"
    return None
