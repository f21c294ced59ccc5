"""The demo as people run it: with real mkfs, mounts and loop devices, and nothing left afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.node.kernel.mountinfo import read_mounts

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Return a directory with a short path: the demo has a Unix socket in it."""
    with tempfile.TemporaryDirectory(prefix="demo-") as directory:
        yield Path(directory)


def start_demo(scratch: Path, *wrapper: str, **environment: str) -> subprocess.Popen[str]:
    # Another user may not look into the directory that tests have in the place of the root.
    usual = {name: value for name, value in os.environ.items() if name != "EBS_AGENT_ROOT"}
    return subprocess.Popen(
        [*wrapper, sys.executable, "-m", "agent", "demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**usual, "TMPDIR": str(scratch), **environment},
    )


def find_leftovers(scratch: Path) -> list[str]:
    inside = f"{scratch}/"
    backing = (file.read_text() for file in Path("/sys/block").glob("loop*/loop/backing_file"))
    return [
        *(str(path) for path in scratch.iterdir()),
        *(mount.path for mount in read_mounts() if mount.path.startswith(inside)),
        *(text for text in backing if text.startswith(inside)),
    ]


def test_demo_ends_by_itself_and_leaves_nothing(scratch: Path) -> None:
    """Off a terminal the demo plays all five scenes, proves them, exits 0, and everything it made is gone."""
    demo = start_demo(scratch)
    out, _ = demo.communicate()
    assert demo.returncode == 0, out
    for name in ("checkpoints", "datasets", "scratch", "rawdb", "mistake"):
        assert name in out
    assert "Everything shown was checked" in out
    assert find_leftovers(scratch) == []


def interrupt(demo: subprocess.Popen[str]) -> None:
    demo.send_signal(signal.SIGINT)


def terminate(demo: subprocess.Popen[str]) -> None:
    demo.terminate()


@pytest.mark.parametrize(
    ("moment", "end"),
    [("volume.attached", interrupt), ("volume.mounted", terminate), ("volume.grown", interrupt)],
)
def test_interrupted_demo_leaves_nothing(
    scratch: Path, end: Callable[[subprocess.Popen[str]], None], moment: str
) -> None:
    """However early it is interrupted, mounts, loop devices and files go with it."""
    demo = start_demo(scratch)
    assert demo.stdout is not None
    for line in demo.stdout:
        if moment in line:
            break
    end(demo)
    rest, _ = demo.communicate()
    assert demo.returncode == 130, rest
    assert "Traceback" not in rest
    assert find_leftovers(scratch) == []


def test_demo_without_root_says_what_to_do(scratch: Path) -> None:
    """Who is not root is told how to run it, in a sentence, with exit code 1."""
    scratch.chmod(0o777)
    demo = start_demo(scratch, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    out, _ = demo.communicate()
    assert demo.returncode == 1, out
    assert "sudo make demo" in out
    assert "Traceback" not in out
