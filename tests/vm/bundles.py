"""Real bundles to install in a guest: the one ``make bundle`` makes, and later versions of it."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import agent
from tests.vm.guest.agent_disk import REPOSITORY
from tests.vm.guest.cache import hold_lock
from tests.vm.guest.settings import CACHE
from tests.vm.guest.tools import run_tool

VERSION = agent.__version__
# What a bundle is made from, and the image that brings it to nodes.
SOURCES = (
    *("agent", "deploy", "docs", "lifecycle_scripts", "systemd", "requirements"),
    *("pyproject.toml", "README.md", "LICENSE"),
)
_OF_UNITS = "EBS_AGENT_FACES|-web.socket|^IPAddressDeny|^UMask"
"""What a service has that lives beside units of others'."""
BREAKAGE = '''

async def run(*_: object) -> None:
    """Take the place of the real one."""
    raise RuntimeError("this version was made so that it does not start")
'''


def make_folder(
    output: Path,
    source: Path = REPOSITORY,
    *,
    pythons: Sequence[str] = (),
    architecture: str = "x86_64",
) -> Path:
    """Make what lies in S3, for these Pythons or for all that are supported, and return the folder."""
    with hold_lock(CACHE / "wheels.lock"):
        run_tool(
            [
                *(sys.executable, "-m", "scripts.bundle", "--architecture", architecture),
                *(word for python in pythons for word in ("--python", python)),
                *("--source", source, "--output", output, "--cache", CACHE / "wheels"),
            ],
            timeout_s=600,
        )
    return output / "lifecycle_scripts"


def make_later_folder(
    scratch: Path, version: str, python: str, *, is_broken: bool = False, has_units: bool = True
) -> Path:
    """Make the folder of another version, for one Python: as ``make_later_source``."""
    source = make_later_source(scratch, version, is_broken=is_broken, has_units=has_units)
    return make_folder(scratch / "dist", source, pythons=[python])


def make_later_source(
    scratch: Path, version: str, *, is_broken: bool = False, has_units: bool = True
) -> Path:
    """Make the tree of another version: the same agent, or one that ends when started.

    Without ``has_units`` it is as before there were units for what speaks with strangers.
    """
    source = scratch / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, source / name)
    init = source / "agent/__init__.py"
    init.write_text(init.read_text().replace(f'"{VERSION}"', f'"{version}"'))
    if not has_units:
        for unit in (source / "systemd").glob("ebs-agent-*"):
            unit.unlink()
        service = source / "systemd/ebs-agent.service"
        lines = service.read_text().splitlines(keepends=True)
        service.write_text(
            "".join(line for line in lines if not re.search(_OF_UNITS, line))
            .replace("AF_UNIX AF_NETLINK", "AF_UNIX AF_INET AF_INET6 AF_NETLINK")
            .replace("@keyring @resources ", "@keyring ")
            # Its daemon has them for children, which become other users.
            .replace("CAP_SYS_PTRACE", "CAP_SYS_PTRACE CAP_SYSLOG CAP_SETUID CAP_SETGID CAP_KILL", 1)
        )
    if is_broken:
        with (source / "agent/daemon/__init__.py").open("a") as file:
            file.write(BREAKAGE)
    return source
