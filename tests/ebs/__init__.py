"""An NVMe/TCP target whose volumes behave like EBS's, for tests: see docs/emulated-ebs.md.

`Target` serves volumes from a directory, `LinuxHost` makes this machine's kernel use them, a `Volume` can be
stalled, slowed, made to fail and healed. `python3 -m tests.ebs` does the same from a shell.
"""

from __future__ import annotations

from tests.ebs.errors import Status, TargetError
from tests.ebs.faults import Failure, Faults, LogPageFault, Operation
from tests.ebs.host import HostOptions, LinuxHost
from tests.ebs.limits import Rates
from tests.ebs.record import VolumeRecord
from tests.ebs.statistics import Statistics
from tests.ebs.target import Target
from tests.ebs.volume import Volume

__all__ = [
    "Failure",
    "Faults",
    "HostOptions",
    "LinuxHost",
    "LogPageFault",
    "Operation",
    "Rates",
    "Statistics",
    "Status",
    "Target",
    "TargetError",
    "Volume",
    "VolumeRecord",
]
