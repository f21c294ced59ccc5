"""The tiers of the tests: which there are, where each can run, and what became of each.

A test's directory is its tier. A tier that this machine cannot run is skipped as a whole and says why;
one named in ``--require-tiers`` fails the run instead, so that green means tested.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

SBIN_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

LOOP_PROGRAMS = (
    *("losetup", "sfdisk", "sgdisk", "blkid"),
    *("mkfs.ext4", "e2fsck", "resize2fs"),
    *("mkfs.xfs", "xfs_growfs", "xfs_io"),
    *("mkfs.btrfs", "btrfs"),
)


def find_missing_programs(programs: Iterable[str]) -> list[str]:
    return [program for program in programs if shutil.which(program, path=SBIN_PATH) is None]


def loop_unavailable_reason() -> str | None:
    """Return why loop devices cannot be used here, or None after one was made and removed."""
    if os.geteuid() != 0:
        return "needs root, for loop devices and mounts"
    if missing := find_missing_programs(LOOP_PROGRAMS):
        return f"needs {', '.join(missing)}: run scripts/prepare test"
    with tempfile.NamedTemporaryFile() as image:
        image.truncate(1 << 20)
        trial = _run("losetup", "--find", "--show", image.name)
        if trial.returncode != 0:
            return f"needs a free loop device: {trial.stderr.strip()}"
        _run("losetup", "--detach", trial.stdout.strip())
    return None


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": SBIN_PATH, "LC_ALL": "C"}
    return subprocess.run(argv, check=False, capture_output=True, text=True, env=environment, timeout=30)


def vm_unavailable_reason() -> str | None:
    """Return why no guest can be started here, or None: the guest's own equipment knows."""
    if not (Path(__file__).parent / "vm/guest/availability.py").exists():
        return "has no guest to test in"
    availability = importlib.import_module("tests.vm.guest.availability")
    reason: str | None = availability.vm_unavailable_reason()
    return reason


def sanity_unavailable_reason() -> str | None:
    """Return why csi-sanity cannot be built and run here, or None: what it is built with knows."""
    toolchain = importlib.import_module("tests.sanity.toolchain")
    reason: str | None = toolchain.sanity_unavailable_reason()
    return reason


def chart_unavailable_reason() -> str | None:
    """Return why the chart cannot be rendered here, or None: what finds helm knows."""
    helm = importlib.import_module("tests.chart.helm")
    reason: str | None = helm.helm_unavailable_reason()
    return reason


def kubernetes_unavailable_reason() -> str | None:
    """Return why no cluster can be started here, or None: the tier's own equipment knows."""
    if not (Path(__file__).parent / "kubernetes/availability.py").exists():
        return "has no cluster to test in"
    availability = importlib.import_module("tests.kubernetes.availability")
    reason: str | None = availability.kubernetes_unavailable_reason()
    return reason


def always_available() -> None:
    return None


TIERS: dict[str, Callable[[], str | None]] = {
    "unit": always_available,
    "component": always_available,
    "loop": loop_unavailable_reason,
    "sanity": sanity_unavailable_reason,
    "fuzz": always_available,
    "chart": chart_unavailable_reason,
    "vm": vm_unavailable_reason,
    "kubernetes": kubernetes_unavailable_reason,
}


def parse_tiers(text: str) -> tuple[str, ...]:
    """Return the tiers named in ``text``, as in ``unit,loop``."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in names if name not in TIERS]:
        message = f"no such tier: {', '.join(unknown)}; there are {', '.join(TIERS)}"
        raise pytest.UsageError(message)
    return names


def find_tier(nodeid: str) -> str | None:
    """Return the tier of the test with this node ID, relative to the project's directory."""
    parts = nodeid.split("::", maxsplit=1)[0].split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "tests" and parts[1] in TIERS else None


@dataclass
class Tally:
    """What became of one tier's tests."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def has_run(self) -> bool:
        return self.counts["passed"] + self.counts["failed"] > 0

    def add(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.counts["failed"] += 1
        elif report.skipped:
            self.counts["skipped"] += 1
            self.reasons[describe_skip(report)] += 1
        elif report.when == "call":
            self.counts["passed"] += 1

    def describe(self) -> str:
        counts = ", ".join(f"{self.counts[word]} {word}" for word in ("passed", "failed", "skipped"))
        return counts if self.counts else "no test was run"


def describe_skip(report: pytest.TestReport) -> str:
    """Return the reason a test gave for being skipped."""
    if hasattr(report, "wasxfail"):
        return f"expected to fail: {report.wasxfail}"
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


class TierPlugin:
    """Skips the tiers that cannot run, counts the others' tests, and judges the required ones."""

    def __init__(
        self, required: tuple[str, ...], availability: Mapping[str, Callable[[], str | None]] = TIERS
    ) -> None:
        self.required = required
        self.availability = availability
        self.tallies: dict[str, Tally] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        tiers = {item.nodeid: find_tier(item.nodeid) for item in items}
        unavailable = {
            tier: find_reason() for tier, find_reason in self.availability.items() if tier in tiers.values()
        }
        for item in items:
            tier = tiers[item.nodeid]
            if tier is None:
                continue
            item.add_marker(tier)
            if reason := unavailable[tier]:
                item.add_marker(pytest.mark.skip(reason=f"tier {tier} {reason}"))

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Skip a test whose ``needs`` marker names a program that is absent, unless its tier is required."""
        if find_tier(item.nodeid) in self.required:
            return
        programs = [program for marker in item.iter_markers("needs") for program in marker.args]
        if missing := find_missing_programs(programs):
            pytest.skip(f"needs {', '.join(missing)}: run scripts/prepare test")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if tier := find_tier(report.nodeid):
            self.tallies.setdefault(tier, Tally()).add(report)

    def find_unmet(self) -> list[str]:
        """Return the required tiers of which no test ran."""
        return [tier for tier in self.required if not self.tallies.get(tier, Tally()).has_run]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail for what did not run, unless this is one worker of several: it runs only its share."""
        if hasattr(session.config, "workerinput"):
            return
        if self.find_unmet() and session.exitstatus in {
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        }:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("tiers")
        for tier in TIERS:
            if tier not in self.tallies and tier not in self.required:
                continue
            tally = self.tallies.get(tier, Tally())
            terminalreporter.line(f"{tier:<10} {tally.describe()}")
            for reason, count in tally.reasons.most_common():
                terminalreporter.line(f"{'':<10} skipped {count}: {reason}")
        for tier in self.find_unmet():
            terminalreporter.line(f"{tier:<10} was required, and none of its tests ran", red=True)
