"""Installs the wheels named as arguments into the environment whose Python runs this.

A wheel is a zip of what belongs into site-packages (PEP 427). The bundle says which are for this Python, and
their checksums were verified before: pip would only add its time, and distributions' Pythons often lack it.
Uses the standard library only.
"""

from __future__ import annotations

import sys
import sysconfig
import zipfile
from importlib.metadata import distribution
from pathlib import Path

DISTRIBUTION = "hyperpod-ebs-agent"
"""The one whose commands are installed; those of what it depends on nobody calls."""
SCRIPT = """#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""


def main() -> None:
    """Unpack the wheels, then write the agent's commands."""
    for wheel in sys.argv[1:]:
        unpack_wheel(Path(wheel), Path(sysconfig.get_path("purelib")))
    write_commands(Path(sysconfig.get_path("scripts")))


def unpack_wheel(wheel: Path, packages: Path) -> None:
    """Unpack one wheel into a venv's site-packages."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)


def write_commands(directory: Path) -> None:
    """Write a program for each command that the agent's distribution declares."""
    for entry in distribution(DISTRIBUTION).entry_points:
        if entry.group == "console_scripts":
            module, _, function = entry.value.partition(":")
            program = directory / entry.name
            program.write_text(SCRIPT.format(python=sys.executable, module=module, function=function))
            program.chmod(0o755)


if __name__ == "__main__":
    main()
