"""What a run of tests that was killed has left: mounts and loop devices below its temporary directory.

pytest removes the directories of earlier runs, which fails while something is mounted in them, or worse,
empties what is mounted. So the dead runs' mounts are taken away first; a run that is alive keeps its own.
"""

from __future__ import annotations

import getpass
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from agent.node.kernel.mountinfo import read_mounts
from agent.node.standins import loop_device


def find_runs() -> Path:
    """Return the directory in which pytest makes one for each run."""
    place = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir()).resolve()
    return place / f"pytest-of-{getpass.getuser()}"


def sweep(runs: Path) -> None:
    """Unmount and detach what runs in ``runs`` left that are over, innermost mounts first."""
    take_away(_remember(runs))


def take_away_below(directory: Path) -> None:
    """Unmount and detach what is mounted below a directory or stands on its files."""
    take_away(lambda path: path.startswith(f"{directory}/"))


def take_away(is_meant: Callable[[str], bool]) -> None:
    """Unmount what is mounted at a path that is meant, innermost first, and detach what stands on one."""
    for mount in reversed(read_mounts()):
        if is_meant(mount.path):
            subprocess.run(["umount", "--lazy", mount.path], check=False, stderr=subprocess.DEVNULL)
    for loop in loop_device.list_loops():
        if is_meant(loop.backing_file):
            loop_device.detach(loop.path, loop.backing_file)


def is_over(run: Path) -> bool:
    """Tell whether a run has ended: pytest keeps its process ID in the run's directory until then.

    An ID that was given to another process since has it count as alive, and so does one not yet written.
    """
    try:
        pid = int((run / ".lock").read_text("ascii"))
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return not Path(f"/proc/{pid}").exists()


def _remember(runs: Path) -> Callable[[str], bool]:
    """Return what tells whether a path is of a run that is over, asking once for each run."""
    answers: dict[str, bool] = {}

    def find_dead(path: str) -> bool:
        if not path.startswith(f"{runs}/"):
            return False
        name = path.removeprefix(f"{runs}/").split("/", maxsplit=1)[0]
        if name not in answers:
            answers[name] = is_over(runs / name)
        return answers[name]

    return find_dead
