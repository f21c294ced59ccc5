"""Installs the wheels named as arguments into the environment whose Python runs this.

By PyPA's ``installer``, which lies beside the wheels as one itself: distributions' Pythons often lack pip,
and the bundle says already which wheels are for this Python. What a wheel's own record does not vouch for is
not installed.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

WHEELS = Path(__file__).parent / "wheels"
[INSTALLER] = WHEELS.glob("installer-*.whl")
sys.path.insert(0, str(INSTALLER))

from installer import install  # noqa: E402
from installer.destinations import SchemeDictionaryDestination  # noqa: E402
from installer.sources import WheelFile  # noqa: E402


def main() -> None:
    """Install the wheels."""
    destination = SchemeDictionaryDestination(
        sysconfig.get_paths(), interpreter=sys.executable, script_kind="posix"
    )
    for name in sys.argv[1:]:
        with WheelFile.open(WHEELS / name) as wheel:
            wheel.validate_record()
            install(wheel, destination, additional_metadata={"INSTALLER": b"installer\n"})


if __name__ == "__main__":
    main()
