"""What the service may use up is not what its children may."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.node.isolate import programs
from agent.node.isolate.resource_limits import CHILD_DESCRIPTORS, make_killable, raise_descriptor_limit


@pytest.fixture
def _own_limit() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def make_proc(root: Path, own: int) -> Path:
    for name in ("self", "7"):
        (root / name).mkdir()
        (root / name / "oom_score_adj").write_text(f"{own}\n")
    return root


@pytest.mark.parametrize(("own", "child"), [(-800, "0"), (0, "0\n"), (300, "300\n")])
def test_child_is_as_killable_as_others(tmp_path: Path, own: int, child: str) -> None:
    """What spares the service is taken back; what already is as others, or more, stays as it is."""
    make_killable(7, make_proc(tmp_path, own))
    assert (tmp_path / "7/oom_score_adj").read_text() == child
    assert int((tmp_path / "self/oom_score_adj").read_text()) == own


def test_child_that_is_gone_is_no_error() -> None:
    """A program may end before anything can be taken back from it."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    make_killable(done.pid)


@pytest.mark.anyio
@pytest.mark.usefixtures("_own_limit")
async def test_programs_get_the_usual_descriptors() -> None:
    """However many files the daemon may open, what it starts may open what programs expect."""
    if raise_descriptor_limit() <= CHILD_DESCRIPTORS:
        pytest.skip("this process may open no more than that itself")
    script = f"until test $(ulimit -Sn) = {CHILD_DESCRIPTORS}; do :; done; echo done"
    assert (await programs.run(["sh", "-c", script], timeout_s=60)).stdout == "done\n"


@pytest.mark.usefixtures("_own_limit")
def test_daemon_takes_what_it_may() -> None:
    """The soft limit is raised to the hard one, as far as there is use for it, and never lowered."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    raised = raise_descriptor_limit()
    assert raised == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 256
    assert raise_descriptor_limit() == raised
