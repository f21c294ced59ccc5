"""The machines a bundle is for: which wheels run there, and which lines of the lock hold there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import Requirement

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ARCHITECTURES = ("x86_64", "aarch64")
"""As ``uname -m`` calls them."""

_GLIBC_MINORS = (34, 28, 17)
"""Amazon Linux 2023 has glibc 2.34, Ubuntu 22.04 has 2.35; pip takes the first of these that a wheel has."""


@dataclass(frozen=True)
class Target:
    """One Python on one kind of processor."""

    python: str
    architecture: str

    @property
    def platforms(self) -> tuple[str, ...]:
        """Wheel platforms that run there, newest first."""
        modern = tuple(f"manylinux_2_{minor}_{self.architecture}" for minor in _GLIBC_MINORS)
        return (*modern, f"manylinux2014_{self.architecture}")

    @property
    def environment(self) -> dict[str, str]:
        """What conditions of requirements ask for (PEP 508)."""
        return {
            "os_name": os.name,
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": self.architecture,
            "platform_python_implementation": "CPython",
            "implementation_name": "cpython",
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
        }

    def select(self, lock: str) -> Iterator[str]:
        """Yield the lines of a lock file that hold for this target, hashes included, conditions taken off.

        pip weighs conditions by the Python that it runs in, even when it downloads for another.
        """
        for line in lock.replace("\\\n", " ").splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            specification, *hashes = line.partition(" #")[0].split(" --hash=")
            requirement = Requirement(specification.strip())
            if requirement.marker is None or requirement.marker.evaluate(self.environment):
                requirement.marker = None
                yield " ".join([str(requirement), *(f"--hash={value.strip()}" for value in hashes)])
