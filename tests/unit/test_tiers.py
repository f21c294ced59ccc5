from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiers

pytest_plugins = ["pytester"]

EVERY_TIER = ",".join(tiers.TIERS)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with a unit test that passes and two guest tests that would fail."""
    for tier in ("unit", "vm"):
        (pytester.path / "tests" / tier).mkdir(parents=True)
    (pytester.path / "tests/unit/test_one.py").write_text("def test_one(): pass\n")
    (pytester.path / "tests/vm/test_guest.py").write_text("def test_a(): assert 0\ndef test_b(): assert 0\n")
    markers = ["needs", *tiers.TIERS]
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\nmarkers = {markers}\n")
    return pytester


def run(project: pytest.Pytester, *arguments: str, required: str = "") -> pytest.RunResult:
    """Run the project's tests where no guest can be had."""
    availability = {**tiers.TIERS, "vm": lambda: "has no guest"}
    plugin = tiers.TierPlugin(tiers.parse_tiers(required), availability)
    return project.runpytest_inprocess(*arguments, plugins=[plugin])


def test_tier_that_cannot_run_is_skipped_with_its_reason(project: pytest.Pytester) -> None:
    """A tier without its means is skipped as a whole, and the summary counts it and says why."""
    result = run(project)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "unit * 1 passed, 0 failed, 0 skipped",
            "vm * 0 passed, 0 failed, 2 skipped",
            " *skipped 2: tier vm has no guest",
            "=* 1 passed, 2 skipped *=",
        ]
    )


def test_skipped_tier_fails_where_it_is_required(project: pytest.Pytester) -> None:
    """A required tier of which nothing ran fails the run that would be green without it."""
    result = run(project, required="unit,vm")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["vm * was required, and none of its tests ran"])


def test_empty_tier_fails_where_it_is_required(project: pytest.Pytester) -> None:
    """A required tier without a single test is not taken for one that passed."""
    result = run(project, "tests/unit", required="unit,component")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["component * was required, and none of its tests ran"])


def test_required_tier_that_ran_passes(project: pytest.Pytester) -> None:
    """Requiring what runs changes nothing."""
    assert run(project, required="unit").ret == pytest.ExitCode.OK


CONFTEST = """
import sys
sys.path.insert(0, {root!r})
from tests import summary, tiers

def pytest_configure(config):
    availability = {{**tiers.TIERS, "vm": lambda: "has no guest"}}
    config.pluginmanager.register(tiers.TierPlugin(("unit", "vm"), availability))
    config.pluginmanager.register(summary.SummaryPlugin())

def pytest_runtest_teardown():
    summary.SUMMARY["tests of all workers"] += 1
"""


def test_workers_are_counted_together(project: pytest.Pytester) -> None:
    """Tiers, their demands and other sums are the whole run's, though a worker ran none of some tier."""
    (project.path / "tests/unit/test_two.py").write_text("def test_two(): pass\n")
    root = str(Path(tiers.__file__).parents[1])
    (project.path / "conftest.py").write_text(CONFTEST.format(root=root))
    result = project.runpytest_subprocess("-n2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "tests of all workers * 4",
            "unit * 2 passed, 0 failed, 0 skipped",
            "vm * 0 passed, 0 failed, 2 skipped",
            " *skipped 2: tier vm has no guest",
            "=* 2 passed, 2 skipped *=",
        ]
    )


def test_needed_program_is_enforced_where_its_tier_is_required(project: pytest.Pytester) -> None:
    """A test that needs an absent program is skipped, but runs, and may fail, in a required tier."""
    (project.path / "tests/unit/test_one.py").write_text(
        "import pytest\n@pytest.mark.needs('no-such-program')\ndef test_one(): assert 0\n"
    )
    run(project, "tests/unit").assert_outcomes(skipped=1)
    run(project, "tests/unit", required="unit").assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("nodeid", "tier"),
    [
        ("tests/unit/core/test_plan.py::test_x[a/b]", "unit"),
        ("tests/loop/deep/test_y.py::TestZ::test_x", "loop"),
        ("tests/ebs/test_not_a_tier.py::test_x", None),
        ("tests/test_top.py::test_x", None),
        ("bench/unit/test_x.py::test_x", None),
    ],
)
def test_tier_is_the_directory(nodeid: str, tier: str | None) -> None:
    """A test's tier is the directory below tests/ that it lies in."""
    assert tiers.find_tier(nodeid) == tier


def test_unknown_tier_is_refused() -> None:
    """A misspelt tier is not silently required of nobody."""
    with pytest.raises(pytest.UsageError, match="no such tier: loops"):
        tiers.parse_tiers("unit,loops")
    assert tiers.parse_tiers(EVERY_TIER) == tuple(tiers.TIERS)
