"""Counts the instance's elastic network interfaces, which may share its limit with volumes.

On the PCI bus: one that was moved into a pod's network namespace is missing among the network devices of the
host's (``/sys/class/net``), and still has its place.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent.node.kernel.sysfs import SYSFS, list_names

_DRIVER = "bus/pci/drivers/ena"
"""Of all instances whose limit is shared: those of Nitro."""
_FUNCTION = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", re.ASCII)
"""A function's address, among the driver's own attributes."""


def count_interfaces(sysfs: Path = SYSFS) -> int:
    """Return how many there are now; 0 where there is no such driver."""
    return sum(_FUNCTION.fullmatch(name) is not None for name in list_names(f"{sysfs}/{_DRIVER}"))
